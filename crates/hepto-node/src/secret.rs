//! Files that hold secrets: mode 0600, of our own user, read once, never overwritten.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rand_core::{TryCryptoRng, TryRng};
use rustix::fs::OFlags;
use zeroize::Zeroizing;

use crate::fault::Fault;

/// The only mode that a secret's file may have.
const MODE: u32 = 0o600;

/// No key is longer, in bytes; what is, is another file.
const LONGEST: usize = 4096;

/// Why a secret cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such file.
    #[error("the key file {} does not exist", .0.display())]
    Absent(PathBuf),
    /// The system refuses.
    #[error("cannot read the key file {}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A directory, device or pipe.
    #[error("{} is not a file", .0.display())]
    Kind(PathBuf),
    /// Any other mode than 0600.
    #[error("the key file {} has mode {mode:04o}, and a key must have 0600", .path.display())]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It belongs to someone else, who can read and change it.
    #[error("the key file {} belongs to user {owner}, and hepto-node runs as user {user}", .path.display())]
    Owner {
        /// The file.
        path: PathBuf,
        /// Its owner's id.
        owner: u32,
        /// Our effective user's id.
        user: u32,
    },
    /// Longer than any key, or not text.
    #[error("the key file {} does not hold a key alone", .0.display())]
    Content(PathBuf),
    /// Something is already there.
    #[error("{} exists already, and a key is never overwritten", .0.display())]
    Exists(PathBuf),
    /// The system refuses.
    #[error("cannot write the key file {}: {source}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

impl Error {
    /// The stable code of the error, as printed and documented.
    pub fn code(&self) -> &'static str {
        match self {
            Error::Absent(_) => "E-KEY-ABSENT",
            Error::Read { .. } => "E-KEY-READ",
            Error::Kind(_) => "E-KEY-KIND",
            Error::Mode { .. } => "E-KEY-MODE",
            Error::Owner { .. } => "E-KEY-OWNER",
            Error::Content(_) => "E-KEY-CONTENT",
            Error::Exists(_) => "E-KEY-EXISTS",
            Error::Write { .. } => "E-KEY-WRITE",
        }
    }

    /// The command that mends it, where one does.
    pub fn fix(&self) -> Option<String> {
        match self {
            Error::Mode { path, .. } => Some(format!("chmod 600 {}", quote(path))),
            Error::Owner { path, user, .. } => Some(format!("chown {user} {}", quote(path))),
            Error::Exists(path) => {
                let path = quote(path);
                Some(format!(
                    "if no node uses it any more, move {path} away first; else keep it"
                ))
            }
            Error::Content(_) => {
                Some("it must hold the key on one line and nothing else".to_owned())
            }
            Error::Read { .. } | Error::Kind(_) => {
                Some("name the file that holds the key".to_owned())
            }
            Error::Absent(_) | Error::Write { .. } => None,
        }
    }
}

/// Reads a secret: the file's text without white space around it.
///
/// The file's mode must be 0600 and its owner our effective user. What was checked is what is read:
/// both happen on the opened file.
pub fn read(path: &Path) -> Result<Zeroizing<String>, Error> {
    let refuse = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => Error::Absent(path.to_owned()),
        _ => Error::Read {
            path: path.to_owned(),
            source,
        },
    };
    // A pipe without a writer would block the open, and a terminal would become ours.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
        .map_err(refuse)?;
    let metadata = file.metadata().map_err(refuse)?;
    if !metadata.is_file() {
        return Err(Error::Kind(path.to_owned()));
    }
    let user = rustix::process::geteuid().as_raw();
    if metadata.uid() != user {
        return Err(Error::Owner {
            path: path.to_owned(),
            owner: metadata.uid(),
            user,
        });
    }
    let mode = metadata.mode() & 0o7777;
    if mode != MODE {
        return Err(Error::Mode {
            path: path.to_owned(),
            mode,
        });
    }
    // Never grown: growing would leave copies of the key behind in freed memory.
    let mut bytes = Zeroizing::new(Vec::with_capacity(LONGEST + 1));
    file.take(LONGEST as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(refuse)?;
    let text = std::str::from_utf8(&bytes)
        .ok()
        .filter(|text| text.len() <= LONGEST);
    let text = text.ok_or_else(|| Error::Content(path.to_owned()))?;
    Ok(Zeroizing::new(text.trim().to_owned()))
}

/// Writes a secret and a line end to a new file of mode 0600, and to the disk before it returns.
///
/// Refuses whatever is already there, symbolic links included. A file that could not be finished is removed.
pub fn write_new(path: &Path, secret: &str) -> Result<(), Error> {
    let refuse = |source: io::Error| match source.kind() {
        io::ErrorKind::AlreadyExists => Error::Exists(path.to_owned()),
        _ => Error::Write {
            path: path.to_owned(),
            source,
        },
    };
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(MODE)
        .open(path)
        .map_err(refuse)?;
    fill(file, path, secret).map_err(|source| {
        // Best effort: the first error is the one to report.
        let _ = fs::remove_file(path);
        Error::Write {
            path: path.to_owned(),
            source,
        }
    })
}

fn fill(mut file: File, path: &Path, secret: &str) -> io::Result<()> {
    // A umask can take bits away from what open() was given.
    file.set_permissions(fs::Permissions::from_mode(MODE))?;
    let line = Zeroizing::new(format!("{secret}\n"));
    file.write_all(line.as_bytes())?;
    file.sync_all()?;
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// The path as a shell takes it.
pub fn quote(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@,".contains(c);
    if text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// The operating system's randomness (getrandom(2)), for keys and identities.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemRandom;

impl TryRng for SystemRandom {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_ne_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_ne_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        let mut filled = 0;
        while filled < bytes.len() {
            match rustix::rand::getrandom(
                &mut bytes[filled..],
                rustix::rand::GetRandomFlags::empty(),
            ) {
                Ok(count) => filled += count,
                Err(rustix::io::Errno::INTR) => {}
                // Linux has had the call since 3.17, and it has no other error for a valid buffer.
                Err(error) => panic!("the kernel gives no randomness: {error}"),
            }
        }
        Ok(())
    }
}

impl TryCryptoRng for SystemRandom {}

impl From<Error> for Fault {
    fn from(error: Error) -> Fault {
        let fault = Fault::new(error.code(), error.to_string());
        match error.fix() {
            Some(fix) => fault.fix(fix),
            None => fault,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hepto_mesh::key::{ClusterKey, OverlayKey};

    #[test]
    fn what_is_written_is_read_and_never_overwritten() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("key");
        write_new(&path, "first").expect("written");
        assert_eq!(read(&path).expect("read").as_str(), "first");
        assert_eq!(
            write_new(&path, "second").expect_err("refused").code(),
            "E-KEY-EXISTS"
        );
        assert_eq!(read(&path).expect("read").as_str(), "first");
    }

    #[test]
    fn a_link_is_never_followed_when_writing() {
        let folder = tempfile::tempdir().expect("a directory");
        let (target, link) = (folder.path().join("target"), folder.path().join("link"));
        std::os::unix::fs::symlink(&target, &link).expect("a link");
        assert_eq!(
            write_new(&link, "key").expect_err("refused").code(),
            "E-KEY-EXISTS"
        );
        assert!(!target.exists());
    }

    #[test]
    fn the_mode_is_0600_whatever_the_umask() {
        // A plain thread with a umask of its own, so that no other test is changed.
        let mode = std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS).expect("a umask of its own");
            rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o777));
            let folder = std::env::temp_dir().join(format!("hepto-umask-{}", std::process::id()));
            fs::create_dir(&folder).expect("a directory");
            let path = folder.join("key");
            let written = write_new(&path, "key");
            let mode = fs::metadata(&path).map(|metadata| metadata.mode() & 0o7777);
            fs::remove_dir_all(&folder).expect("removed");
            written.expect("written");
            mode.expect("a mode")
        });
        assert_eq!(mode.join().expect("no panic"), 0o600);
    }

    #[test]
    fn a_missing_folder_is_named() {
        let error = write_new(Path::new("/nonexistent/folder/key"), "key").expect_err("refused");
        assert_eq!(error.code(), "E-KEY-WRITE");
        assert!(
            error.to_string().contains("/nonexistent/folder/key"),
            "{error}"
        );
    }

    #[test]
    fn the_systems_randomness_makes_good_keys_that_differ() {
        let overlay = OverlayKey::generate(&mut SystemRandom);
        let cluster = ClusterKey::generate(&mut SystemRandom);
        assert_ne!(overlay, cluster);
        overlay.parse::<OverlayKey>().expect("an overlay key");
        cluster.parse::<ClusterKey>().expect("a cluster key");
    }

    #[test]
    fn paths_are_quoted_for_a_shell() {
        assert_eq!(quote(Path::new("/etc/hepto/a.key")), "/etc/hepto/a.key");
        assert_eq!(quote(Path::new("/a b/it's")), r"'/a b/it'\''s'");
    }
}
