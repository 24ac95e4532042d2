//! The TUN device: one queue, persistent, non-blocking.
#![allow(unsafe_code)] // Three ioctls have no safe wrapper.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use crate::error::Error;

/// Packets that the kernel may hold for us. Its default of 500 is less than what arrives while one batch is sealed.
const QUEUE_LENGTH: libc::c_int = 1000;

/// An attached TUN interface. It is persistent: the link, its index, addresses and routes outlive the process, and the
/// next run attaches to it by name.
#[derive(Debug)]
pub struct Tun {
    file: File,
    name: String,
}

impl Tun {
    /// Makes the interface `name` in the calling thread's network namespace, or attaches to the one that an earlier run
    /// left. Link state, MTU and addresses are not touched.
    ///
    /// # Errors
    /// No access to `/dev/net/tun`, a name that the kernel refuses, or an interface that another process holds.
    pub fn open(name: &str) -> Result<Tun, Error> {
        if name.is_empty()
            || name.len() >= libc::IFNAMSIZ
            || name
                .bytes()
                .any(|b| b == b'/' || b == 0 || b.is_ascii_whitespace())
        {
            return Err(Error::TunName(name.to_owned()));
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/net/tun")
            .map_err(Error::TunDevice)?;
        let tun = Tun {
            file,
            name: name.to_owned(),
        };
        tun.attach()?;
        tun.persist()?;
        tun.lengthen_queue();
        Ok(tun)
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn attach(&self) -> Result<(), Error> {
        let mut request = self.request();
        request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
        // SAFETY: TUNSETIFF reads and writes the `ifreq` it is given, which outlives the call.
        let result =
            unsafe { libc::ioctl(self.file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
        self.check(result, "TUNSETIFF")
            .map_err(|error| match error {
                Error::TunSetup { name, source, .. }
                    if source.raw_os_error() == Some(libc::EBUSY) =>
                {
                    Error::TunBusy(name)
                }
                other => other,
            })
    }

    fn persist(&self) -> Result<(), Error> {
        // SAFETY: TUNSETPERSIST takes an integer by value.
        let result = unsafe {
            libc::ioctl(
                self.file.as_raw_fd(),
                libc::TUNSETPERSIST,
                1 as libc::c_ulong,
            )
        };
        self.check(result, "TUNSETPERSIST")
    }

    /// A shorter queue costs packets under load and nothing else, so a refusal is no error.
    fn lengthen_queue(&self) {
        let mut request = self.request();
        request.ifr_ifru.ifru_metric = QUEUE_LENGTH;
        let Ok(socket) = std::net::UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, 0))
            .or_else(|_| std::net::UdpSocket::bind((std::net::Ipv6Addr::UNSPECIFIED, 0)))
        else {
            return;
        };
        // SAFETY: SIOCSIFTXQLEN reads the `ifreq` (ifr_qlen shares its place with ifr_metric), which outlives the call.
        let result = unsafe {
            libc::ioctl(
                socket.as_raw_fd(),
                libc::SIOCSIFTXQLEN as _,
                &raw mut request,
            )
        };
        if result < 0 {
            tracing::debug!(interface = self.name, error = %io::Error::last_os_error(), "the queue keeps its length");
        }
    }

    fn request(&self) -> libc::ifreq {
        // SAFETY: `ifreq` is plain old data, for which all zeroes is a value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(self.name.bytes()) {
            *to = from as libc::c_char;
        }
        request
    }

    fn check(&self, result: libc::c_int, step: &'static str) -> Result<(), Error> {
        if result < 0 {
            let source = io::Error::last_os_error();
            return Err(Error::TunSetup {
                name: self.name.clone(),
                step,
                source,
            });
        }
        Ok(())
    }

    /// Reads one packet. `WouldBlock` when there is none.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.file, buffer)?)
    }

    /// Writes one packet.
    pub(crate) fn write(&self, packet: &[u8]) -> io::Result<()> {
        rustix::io::write(&self.file, packet)?;
        Ok(())
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
