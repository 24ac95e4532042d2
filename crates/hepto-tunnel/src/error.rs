//! What can go wrong before the tunnel runs. Once it runs, trouble is counted and logged, never returned.

use std::io;

/// A tunnel that could not be opened or started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// `/dev/net/tun` cannot be opened.
    #[error("cannot open /dev/net/tun, which the tunnel interface needs: {0}")]
    TunDevice(#[source] io::Error),
    /// The kernel takes names of 1 to 15 bytes without `/` and white space.
    #[error("`{0}` cannot be the name of a tunnel interface: it must have 1 to 15 bytes")]
    TunName(String),
    /// Another process holds the interface open.
    #[error("the tunnel interface {0} is in use by another process")]
    TunBusy(String),
    /// A TUN ioctl failed.
    #[error("cannot set up the tunnel interface {name} ({step}): {source}")]
    TunSetup {
        /// Interface.
        name: String,
        /// The ioctl, as the kernel names it.
        step: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The UDP port is taken.
    #[error("UDP port {0} is already in use in this network namespace")]
    PortBusy(u16),
    /// The UDP socket cannot be opened.
    #[error("cannot open the UDP socket on port {port}: {source}")]
    Socket {
        /// Port asked for.
        port: u16,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A socket option that the tunnel cannot do without was refused.
    #[error("cannot set {option} on the UDP socket: {source}")]
    SocketOption {
        /// The option, as the kernel names it.
        option: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A thread or its means of being woken could not be made.
    #[error("cannot start the tunnel's threads: {0}")]
    Thread(#[source] io::Error),
}

impl Error {
    /// Stable code, as the reference manual lists it.
    pub fn code(&self) -> &'static str {
        match self {
            Error::TunDevice(_) => "E-TUNNEL-TUN-DEVICE",
            Error::TunName(_) => "E-TUNNEL-TUN-NAME",
            Error::TunBusy(_) => "E-TUNNEL-TUN-BUSY",
            Error::TunSetup { .. } => "E-TUNNEL-TUN-SETUP",
            Error::PortBusy(_) => "E-TUNNEL-PORT-BUSY",
            Error::Socket { .. } => "E-TUNNEL-SOCKET",
            Error::SocketOption { .. } => "E-TUNNEL-SOCKET-OPTION",
            Error::Thread(_) => "E-TUNNEL-THREAD",
        }
    }

    /// What the operator can do about it, where that is known.
    pub fn fix(&self) -> Option<String> {
        let text = match self {
            Error::TunDevice(source) if source.kind() == io::ErrorKind::PermissionDenied => {
                "run as root, or with CAP_NET_ADMIN and access to /dev/net/tun".to_owned()
            }
            Error::TunDevice(_) => {
                "load the module with `modprobe tun`; in a container, pass the device /dev/net/tun through".to_owned()
            }
            Error::TunName(_) => "choose a shorter name".to_owned(),
            Error::TunBusy(name) => format!("end the process that holds it: `fuser /dev/net/tun` lists them, {name} is one of theirs"),
            Error::TunSetup { source, .. } if source.raw_os_error() == Some(libc::EPERM) => {
                "run as root, or with CAP_NET_ADMIN in this network namespace".to_owned()
            }
            Error::PortBusy(port) => {
                format!("`ss -lunp sport = :{port}` shows who has it; choose another `mesh.port` or end that process")
            }
            Error::TunSetup { .. } | Error::Socket { .. } | Error::SocketOption { .. } | Error::Thread(_) => return None,
        };
        Some(text)
    }
}
