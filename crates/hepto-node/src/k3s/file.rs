//! The files that k3s is given, in the node's own `/etc/rancher/k3s`: settings, tokens, resolvers.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::Error;

/// What says that hepto-node founded the cluster whose data lies here, so that its defaults still hold.
const FOUNDED: &str = "founded-by-hepto";

/// The secrets that k3s is given; in files alone.
pub enum Secret {
    /// The master's: the cluster key, and the agents' key derived from it.
    Server {
        /// The cluster key.
        token: Zeroizing<String>,
        /// What agents join with.
        agent_token: Zeroizing<String>,
    },
    /// An agent's.
    Agent {
        /// The agents' key.
        token: Zeroizing<String>,
    },
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Secret::Server { .. } => "Secret::Server(hidden)",
            Secret::Agent { .. } => "Secret::Agent(hidden)",
        })
    }
}

/// The folder of k3s's settings, as the host sees it.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// Makes the folder (mode 0700) where it is missing.
    pub fn open(path: PathBuf) -> Result<Folder, Error> {
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path);
        made.map_err(|source| Error::file("make the folder", &path, source))?;
        Ok(Folder(path))
    }

    /// Whether hepto-node founded this server's cluster: there was no datastore at the first start. Remembered, since
    /// there is one ever after.
    pub fn founded(&self, data: &Path) -> Result<bool, Error> {
        if self.0.join(FOUNDED).exists() {
            return Ok(true);
        }
        let founded = !data.join("server/db").exists();
        if founded {
            self.write(FOUNDED, b"")?;
        }
        Ok(founded)
    }

    /// Writes tokens, mode 0600. A token of the other role is removed: the node may have been master once.
    pub fn secrets(&self, secret: &Secret) -> Result<(), Error> {
        match secret {
            Secret::Server { token, agent_token } => {
                self.write("token", token.as_bytes())?;
                self.write("agent-token", agent_token.as_bytes())
            }
            Secret::Agent { token } => {
                self.write("token", token.as_bytes())?;
                self.remove("agent-token")
            }
        }
    }

    /// Writes a file whole or not at all, mode 0600: through a file beside it and a rename.
    pub fn write(&self, name: &str, text: &[u8]) -> Result<(), Error> {
        let (path, beside) = (self.0.join(name), self.0.join(format!(".{name}.new")));
        let write = || {
            // A leftover of a crash may have another mode: never write into it.
            match fs::remove_file(&beside) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&beside)?;
            file.write_all(text)?;
            fs::rename(&beside, &path)
        };
        write().map_err(|source| Error::file("write", &path, source))
    }

    /// What a file says, if it is there.
    pub fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.0.join(name)).ok()
    }

    /// Removes a file, if it is there.
    pub fn remove(&self, name: &str) -> Result<(), Error> {
        let path = self.0.join(name);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(Error::file("remove", &path, source))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn secrets_are_for_root_alone_whatever_lay_there() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("etc/k3s");
        let folder = Folder::open(path.clone()).unwrap();
        for leftover in ["token", ".token.new"] {
            fs::write(path.join(leftover), "old").unwrap();
            fs::set_permissions(path.join(leftover), fs::Permissions::from_mode(0o644)).unwrap();
        }
        let (token, agent_token) = (
            Zeroizing::new("master".to_owned()),
            Zeroizing::new("agent".to_owned()),
        );
        folder
            .secrets(&Secret::Server {
                token,
                agent_token: agent_token.clone(),
            })
            .unwrap();
        assert_eq!(mode(&path), 0o700);
        for (name, text) in [("token", "master"), ("agent-token", "agent")] {
            assert_eq!(mode(&path.join(name)), 0o600, "{name}");
            assert_eq!(fs::read_to_string(path.join(name)).unwrap(), text);
        }
        assert!(!path.join(".token.new").exists());

        folder
            .secrets(&Secret::Agent { token: agent_token })
            .unwrap();
        assert!(
            !path.join("agent-token").exists(),
            "a master that became an agent forgets the other token"
        );
        assert_eq!(fs::read_to_string(path.join("token")).unwrap(), "agent");
    }

    #[test]
    fn a_cluster_that_was_founded_stays_so_and_an_older_one_never_becomes_it() {
        let home = tempfile::tempdir().unwrap();
        let data = home.path().join("data");
        let new = Folder::open(home.path().join("new")).unwrap();
        assert!(new.founded(&data).unwrap());
        fs::create_dir_all(data.join("server/db")).unwrap();
        assert!(
            new.founded(&data).unwrap(),
            "its own datastore is no reason to think it older"
        );
        let old = Folder::open(home.path().join("old")).unwrap();
        assert!(!old.founded(&data).unwrap());
        assert!(!old.founded(&data).unwrap());
    }

    #[test]
    fn secrets_do_not_print() {
        let secret = Secret::Agent {
            token: Zeroizing::new("hunter2".to_owned()),
        };
        assert!(!format!("{secret:?}").contains("hunter2"));
    }
}
