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
    /// The project publishes no k3s for this kind of machine.
    #[error("there is no k3s to download for {} machines", std::env::consts::ARCH)]
    Machine,
    /// `lock.toml` cannot be read.
    #[error("{} cannot be read: {why}", .path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The file of authorities cannot be read.
    #[error("the certificates in {} cannot be read: {why}", .path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A proxy of the environment is not understood. Its value may hold a password.
    #[error("the proxy in {variable} cannot be used: {why}")]
    Proxy {
        /// The variable.
        variable: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The server was not reached, or does not speak HTTPS.
    #[error("cannot reach {url}: {why}")]
    Network {
        /// What was asked for.
        url: String,
        /// What the kernel or TLS says.
        why: String,
    },
    /// The server may be another one.
    #[error("the certificate of {url} is not trusted: {why}")]
    Certificate {
        /// What was asked for.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// The server leads elsewhere, and not where one may follow.
    #[error("{url} leads elsewhere: {why}")]
    Redirect {
        /// What was asked for.
        url: String,
        /// To where.
        why: String,
    },
    /// The server has no such file.
    #[error("there is no {url}")]
    Absent {
        /// What was asked for.
        url: String,
    },
    /// The server refuses.
    #[error("{url} was answered with HTTP status {status}")]
    Status {
        /// What was asked for.
        url: String,
        /// The status (RFC 9110, §15).
        status: u16,
    },
    /// The file is longer than any k3s.
    #[error("{url} is longer than {most} bytes, so it is not what it should be")]
    Long {
        /// What was asked for.
        url: String,
        /// The most that is taken, bytes.
        most: u64,
    },
    /// The connection ended before the file did.
    #[error("the download of {url} was cut: {why}")]
    Cut {
        /// What was asked for.
        url: String,
        /// What the kernel or HTTP says.
        why: String,
        /// Bytes that came this time.
        came: u64,
    },
    /// Nothing came any more, or hardly anything.
    #[error("the download of {url} stands still: next to nothing came in {seconds} s")]
    Stall {
        /// What was asked for.
        url: String,
        /// For how long, seconds.
        seconds: u64,
        /// Bytes that came this time.
        came: u64,
    },
    /// The checksums of a release do not name the file.
    #[error("{url} names no digest of {file}")]
    Checksum {
        /// The checksums.
        url: String,
        /// The file.
        file: String,
    },
    /// A release publishes another digest than at its first use.
    #[error(
        "{url} now gives {file} the SHA-256 digest {published}; at its first use here it was {recorded}"
    )]
    Changed {
        /// The checksums.
        url: String,
        /// The file.
        file: String,
        /// What they say now.
        published: Digest,
        /// What `lock.toml` holds it to.
        recorded: Digest,
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
            Error::Machine => "E-K3S-MACHINE",
            Error::Record { .. } => "E-K3S-LOCK",
            Error::Authority { .. } => "E-K3S-CA",
            Error::Proxy { .. } => "E-K3S-PROXY",
            Error::Network { .. } => "E-K3S-NETWORK",
            Error::Certificate { .. } => "E-K3S-CERTIFICATE",
            Error::Redirect { .. } => "E-K3S-REDIRECT",
            Error::Absent { .. } => "E-K3S-RELEASE",
            Error::Status { .. } => "E-K3S-STATUS",
            Error::Long { .. } => "E-K3S-LENGTH",
            Error::Cut { .. } => "E-K3S-CUT",
            Error::Stall { .. } => "E-K3S-STALL",
            Error::Checksum { .. } => "E-K3S-CHECKSUM",
            Error::Changed { .. } => "E-K3S-CHANGED",
        }
    }

    /// Whether it may pass by itself; else a person has to mend it.
    pub fn may_pass(&self) -> bool {
        // A box without a battery trusts no certificate before it has the time.
        matches!(
            self,
            Error::Network { .. }
                | Error::Certificate { .. }
                | Error::Status { .. }
                | Error::Cut { .. }
                | Error::Stall { .. }
        )
    }

    /// Whether more of a download is there than before, so that it is worth to go on soon.
    pub fn came_further(&self) -> bool {
        matches!(self, Error::Cut { came, .. } | Error::Stall { came, .. } if *came > 0)
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
            other => other.fix_of_download().into(),
        })
    }

    fn fix_of_download(&self) -> &'static str {
        match self {
            Error::Digest { .. } => {
                "compare `k3s.sha256` and the mirror with the release's own checksums; nothing of it was kept"
            }
            Error::Machine => "build k3s for it yourself, and name it in `k3s.binary`",
            Error::Record { .. } => {
                "mend it, or move it away: then the digests that releases publish now are taken as good"
            }
            Error::Authority { .. } => {
                "name a file of PEM certificates in `k3s.ca_file`, or take the line and SSL_CERT_FILE away"
            }
            Error::Proxy { .. } => "set it to http://HOST:PORT, or unset it",
            Error::Certificate { .. } => {
                "set this machine's clock; for a mirror of your own name its authority in `k3s.ca_file`"
            }
            Error::Redirect { .. } => "correct `k3s.mirror`: it has to end at https:// addresses",
            Error::Absent { .. } => {
                "there is no such version, or the mirror does not have it: correct `k3s.version` or `k3s.mirror`"
            }
            Error::Status { .. } => "try later, or set another `k3s.mirror`",
            Error::Long { .. } => "correct `k3s.mirror`",
            Error::Checksum { .. } => {
                "correct `k3s.mirror`, or give the digest that you know in `k3s.sha256`"
            }
            Error::Changed { .. } => {
                "find out why the release changed; then pin the right one by `k3s.sha256`, or take another version"
            }
            // Network, Cut, Stall; the others have their fix above.
            _ => {
                "check this machine's line, resolver and proxy; what came is kept, and `hepto-node k3s fetch` tries at once"
            }
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
