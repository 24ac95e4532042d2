//! What can go wrong with a sandbox. Errors cross two processes on their way to the supervisor, so
//! they are plain data: reasons are text, not `io::Error`.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Why a sandbox could not be made, reached or removed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Error {
    /// A mount inside the node failed.
    #[error("cannot mount {what} on {} in the node: {why}", .target.display())]
    Mount {
        /// The file system type, or the source of a bind mount.
        what: String,
        /// Where, as the node sees it.
        target: PathBuf,
        /// The kernel's reason.
        why: String,
    },
    /// The storage is a folder without which nothing runs.
    #[error("the storage {} cannot be hidden from the node: the system itself lies in it", .storage.display())]
    Storage {
        /// The folder named as storage.
        storage: PathBuf,
    },
    /// A masked folder holds something that the node must see.
    #[error("{} cannot be masked in the node: {} lies in it", .hidden.display(), .needed.display())]
    Hidden {
        /// The folder that should be masked.
        hidden: PathBuf,
        /// What the node needs of it.
        needed: PathBuf,
    },
    /// A file or folder could not be read, made or written.
    #[error("cannot {verb} {}: {why}", .path.display())]
    File {
        /// What was tried, such as `create`.
        verb: String,
        /// On what.
        path: PathBuf,
        /// The kernel's reason.
        why: String,
    },
    /// Namespaces could not be entered or made.
    #[error("cannot {verb}: {why}")]
    Namespace {
        /// What was tried, such as `enter the network namespace /run/netns/…`.
        verb: String,
        /// The kernel's reason.
        why: String,
    },
    /// A cgroup could not be made, filled or removed.
    #[error("cannot {verb} the cgroup {}: {why}", .path.display())]
    Cgroup {
        /// What was tried, such as `create`.
        verb: String,
        /// The cgroup's folder on the host.
        path: PathBuf,
        /// The kernel's reason.
        why: String,
    },
    /// A process of ours could not be started.
    #[error("cannot start {what}: {why}")]
    Start {
        /// Which process.
        what: String,
        /// The reason.
        why: String,
    },
    /// The program was not started by init.
    #[error("init could not start {program}: {why}")]
    Program {
        /// Path of the program, as the node sees it.
        program: String,
        /// The kernel's reason.
        why: String,
    },
    /// init does not answer, or answers nonsense.
    #[error("init of the node at {} does not answer: {why}", .socket.display())]
    Init {
        /// init's socket.
        socket: PathBuf,
        /// What happened instead.
        why: String,
    },
    /// init speaks another version of the protocol.
    #[error(
        "the running init speaks version {theirs} of the control protocol, this program version {ours}"
    )]
    Version {
        /// init's version.
        theirs: u32,
        /// Ours.
        ours: u32,
    },
    /// Processes outlived every attempt to end them.
    #[error("{count} processes of the node are still alive in {}", .path.display())]
    Survivors {
        /// How many.
        count: usize,
        /// Their cgroup on the host.
        path: PathBuf,
    },
    /// A limit of the host's owner could not be applied.
    #[error("cannot limit the node ({what}): {why}")]
    Limit {
        /// The cgroup's file, the scope or the controller.
        what: String,
        /// The reason of the kernel or of systemd.
        why: String,
    },
    /// No resolver is left that the node could reach.
    #[error("none of the host's resolvers ({refused}) can be reached from the node")]
    NoResolver {
        /// Those found, and left out.
        refused: String,
        /// One of them that a link between host and node would lead to.
        linkable: Option<IpAddr>,
    },
}

impl Error {
    /// The stable code; each has a page in the reference.
    pub fn code(&self) -> &'static str {
        match self {
            Error::Mount { .. } => "E-SANDBOX-MOUNT",
            Error::Storage { .. } => "E-SANDBOX-STORAGE",
            Error::Hidden { .. } => "E-SANDBOX-HIDDEN",
            Error::File { .. } => "E-SANDBOX-FILE",
            Error::Namespace { .. } => "E-SANDBOX-NAMESPACE",
            Error::Cgroup { .. } => "E-SANDBOX-CGROUP",
            Error::Start { .. } => "E-SANDBOX-START",
            Error::Program { .. } => "E-SANDBOX-PROGRAM",
            Error::Init { .. } => "E-SANDBOX-INIT",
            Error::Version { .. } => "E-SANDBOX-VERSION",
            Error::Survivors { .. } => "E-SANDBOX-SURVIVORS",
            Error::Limit { .. } => "E-LIMITS-APPLY",
            Error::NoResolver { .. } => "E-DNS-NONE",
        }
    }

    /// The setting or command that mends it, where there is one.
    pub fn fix(&self) -> Option<String> {
        Some(match self {
            Error::Storage { .. } => "set node.storage to a folder of its own, such as /srv".into(),
            Error::Hidden { hidden, .. } => {
                format!(
                    "move the key files out of {} into a folder of their own, such as /etc/hepto",
                    hidden.display()
                )
            }
            Error::File { verb, path, .. } if verb == Self::MOUNT_POINT => {
                format!("make it by hand, empty: {}", path.display())
            }
            Error::Namespace { .. } => "run as root, with CAP_SYS_ADMIN".into(),
            Error::Version { .. } => {
                "end the node and its pods and begin anew: hepto-node stop, then run".into()
            }
            Error::Init { .. } | Error::Survivors { .. } => {
                "`hepto-node stop` removes what is left of the node".into()
            }
            Error::NoResolver {
                linkable: Some(address),
                ..
            } => format!(
                "set network.host_link = true, by which the node reaches {address}; or set network.dns to resolvers \
                 that the node can reach"
            ),
            Error::NoResolver { .. } => {
                "set network.dns to resolvers that the node can reach".into()
            }
            Error::Limit { what, .. } if what == "memory" => {
                "boot this machine with `cgroup_enable=memory`, or remove limits.memory".into()
            }
            Error::Limit { .. } => {
                "raise or remove this limit in [limits]; what the node uses is in `status`".into()
            }
            Error::Program { .. } => {
                "check that k3s.binary names an executable file of this machine's kind".into()
            }
            _ => return None,
        })
    }

    /// What [`Error::File`] calls the making of what a mount stands on.
    pub(super) const MOUNT_POINT: &'static str = "create the mount point";

    /// A failed operation on a file.
    pub(super) fn file(verb: &str, path: &Path, why: impl ToString) -> Self {
        Error::File {
            verb: verb.into(),
            path: path.into(),
            why: why.to_string(),
        }
    }

    /// A failed operation on a cgroup.
    pub(super) fn cgroup(verb: &str, path: &Path, why: impl ToString) -> Self {
        Error::Cgroup {
            verb: verb.into(),
            path: path.into(),
            why: why.to_string(),
        }
    }
}
