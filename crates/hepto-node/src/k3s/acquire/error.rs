//! Why there is no k3s to start, and what mends it.

use std::io;
use std::path::{Path, PathBuf};

use super::Digest;

/// Why k3s could not be acquired.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The node stops, or wants another k3s by now.
    #[error("k3s is no longer wanted")]
    Cancelled,
    /// `k3s.binary` cannot be started or read.
    #[error("k3s.binary = {}: {why}", .path.display())]
    Binary {
        /// The setting.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The disk refuses.
    #[error("cannot {verb} {}: {source}", .path.display())]
    Disk {
        /// What was tried.
        verb: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// A file is not the one that it has to be.
    #[error("{from} has the SHA-256 digest {found}, and has to have {wanted}")]
    Digest {
        /// Where it came from.
        from: String,
        /// What it has.
        found: Digest,
        /// What it has to have.
        wanted: Digest,
    },
}

impl Error {
    /// On a failure of the disk.
    pub(super) fn disk(verb: &'static str, path: &Path, source: io::Error) -> Error {
        Error::Disk {
            verb,
            path: path.to_owned(),
            source,
        }
    }

    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Error::Cancelled => "E-K3S-ENDED",
            Error::Binary { .. } => "E-K3S-BINARY",
            Error::Disk { source, .. } if is_full(source) => "E-K3S-ROOM",
            Error::Disk { .. } => "E-K3S-STORE",
            Error::Digest { .. } => "E-K3S-DIGEST",
        }
    }

    /// Whether it may pass by itself; else a person has to mend it.
    pub(super) fn may_pass(&self) -> bool {
        false
    }

    /// What mends it.
    pub fn fix(&self) -> Option<String> {
        Some(match self {
            Error::Cancelled => return None,
            Error::Binary { .. } => {
                "install k3s as /usr/local/bin/k3s, executable, and name it in `k3s.binary`".into()
            }
            Error::Disk { source, .. } if is_full(source) => {
                "make room in `node.storage`: a version of k3s takes about 80 MB, its images 250 MB"
                    .into()
            }
            Error::Disk { .. } => "let root write in `node.storage`, and check the disk".into(),
            Error::Digest { .. } => "check where it comes from".into(),
        })
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
