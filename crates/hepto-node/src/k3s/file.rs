//! The files that k3s is given, in the node's own `/etc/rancher/k3s`: settings, tokens, resolvers.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use blake2::{Blake2s256, Digest};
use zeroize::Zeroizing;

use super::{Error, Role, Settings, argument};
use crate::sandbox;

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

/// What says with which settings k3s was last started.
const STARTED: &str = "started-with";

/// Notes that k3s is started with these settings.
pub fn note_start(settings: &Settings) -> Result<(), Error> {
    let etc = Folder::open(outside(&settings.directory, argument::ETC))?;
    etc.write(STARTED, started_with(settings).as_bytes())
}

/// A digest of all that a k3s which runs would have to be started anew for; not its program.
pub fn started_with(settings: &Settings) -> String {
    let mut hasher = Blake2s256::new();
    let mut add = |text: &str| {
        hasher.update(text.len().to_le_bytes());
        hasher.update(text);
    };
    add(&argument::render(&settings.arguments));
    match &settings.secret {
        Secret::Server { token, agent_token } => {
            add(token);
            add(agent_token);
        }
        Secret::Agent { token } => add(token),
    }
    let digest = hasher.finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes the files; whether k3s was last started with other settings.
pub fn prepare(settings: &mut Settings) -> Result<bool, Error> {
    let etc = Folder::open(outside(&settings.directory, argument::ETC))?;
    if settings.arguments.role == Role::Server {
        settings.arguments.founded = etc.founded(&outside(&settings.directory, argument::DATA))?;
    }
    etc.secrets(&settings.secret)?;
    etc.write("resolv.conf", settings.resolv_conf.as_bytes())?;
    let changed = etc.read(STARTED) != Some(started_with(settings));
    etc.write(
        "config.yaml",
        argument::render(&settings.arguments).as_bytes(),
    )?;
    spare_oom_scores(&settings.directory, sandbox::can_lower_oom_score())?;
    Ok(changed)
}

/// Without CAP_SYS_RESOURCE runc cannot lower the score of any container, and every pod fails: then containerd is
/// told to leave it, by one of the files that k3s's own configuration imports (from v1.31.6 on).
fn spare_oom_scores(directory: &Path, can_lower: bool) -> Result<(), Error> {
    const NAME: &str = "hepto-oom-score.toml";
    let path = outside(
        directory,
        &format!("{}/agent/etc/containerd/config-v3.toml.d", argument::DATA),
    );
    if can_lower {
        return if path.join(NAME).exists() {
            Folder::open(path)?.remove(NAME)
        } else {
            Ok(())
        };
    }
    tracing::warn!(
        code = "W-K3S-RANK",
        fix = "give hepto-node the capability CAP_SYS_RESOURCE to have it back",
        "CAP_SYS_RESOURCE is missing, so a pod's rank for the OOM killer cannot be lowered"
    );
    let text = "[plugins.'io.containerd.cri.v1.runtime']\n  restrict_oom_score_adj = true\n";
    Folder::open(path)?.write(NAME, text.as_bytes())
}

/// Where the host sees a file of k3s.
pub fn outside(directory: &Path, inside: &str) -> PathBuf {
    sandbox::outside(directory, Path::new(inside))
        .expect("k3s's folders are among those that the sandbox binds")
}

#[cfg(test)]
mod tests;
