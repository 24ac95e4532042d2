//! The TUN device: one queue, persistent, non-blocking, with the kernel's segmentation where it has it.
#![allow(unsafe_code)] // The ioctls have no safe wrapper.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use crate::error::Error;
use crate::offload::coalesce::{Joined, LONGEST};
use crate::offload::header::{self, Header};
use crate::offload::ladder::Offload;
use crate::offload::limit;

/// Packets that the kernel may hold for us. Its default of 500 is less than what arrives while one batch is sealed.
const QUEUE_LENGTH: libc::c_int = 1000;

/// Bytes before each packet in a buffer, for the header that the kernel wants or gives there.
pub(crate) const HEADROOM: usize = header::SIZE;

/// The largest packet with its header: IPv6 carries 65,535 bytes after its own 40.
pub(crate) const LARGEST: usize = HEADROOM + 40 + 65_535;

const TSO: libc::c_uint = libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
const USO: libc::c_uint = libc::TUN_F_USO4 | libc::TUN_F_USO6;

/// An attached TUN interface. It is persistent: the link, its index, addresses and routes outlive the process, and the
/// next run attaches to it by name.
#[derive(Debug)]
pub struct Tun {
    file: File,
    name: String,
    /// A `virtio_net_hdr` stands before each packet.
    framed: bool,
}

impl Tun {
    /// Makes the interface `name` in the calling thread's network namespace, or attaches to the one that an earlier run
    /// left. Link state, MTU and addresses are not touched.
    ///
    /// # Errors
    /// No access to `/dev/net/tun`, a name that the kernel refuses, or an interface that another process holds.
    pub fn open(name: &str) -> Result<Tun, Error> {
        Tun::open_framed(name, true).or_else(|error| match &error {
            // A kernel without IFF_VNET_HDR.
            Error::TunSetup { source, .. } if source.raw_os_error() == Some(libc::EINVAL) => {
                Tun::open_framed(name, false)
            }
            _ => Err(error),
        })
    }

    /// As on a kernel without IFF_VNET_HDR.
    #[cfg(test)]
    pub(crate) fn open_without_header(name: &str) -> Result<Tun, Error> {
        Tun::open_framed(name, false)
    }

    fn open_framed(name: &str, framed: bool) -> Result<Tun, Error> {
        let refused = |byte: u8| byte == b'/' || byte == 0 || byte.is_ascii_whitespace();
        if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.bytes().any(refused) {
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
            framed,
        };
        tun.attach(if framed { libc::IFF_VNET_HDR } else { 0 })?;
        tun.persist()?;
        tun.set_header()?;
        tun.lengthen_queue();
        if let Err(error) = limit::set(name) {
            tracing::debug!(interface = name, %error, "bursts keep their size, so some take two sends");
        }
        Ok(tun)
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn attach(&self, flags: libc::c_int) -> Result<(), Error> {
        let mut request = self.request();
        request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI | flags) as libc::c_short;
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

    /// An earlier run may have left the interface with a longer header.
    fn set_header(&self) -> Result<(), Error> {
        if !self.framed {
            return Ok(());
        }
        let size = header::SIZE as libc::c_int;
        // SAFETY: TUNSETVNETHDRSZ reads one integer, which outlives the call.
        let result = unsafe {
            libc::ioctl(
                self.file.as_raw_fd(),
                libc::TUNSETVNETHDRSZ,
                &raw const size,
            )
        };
        self.check(result, "TUNSETVNETHDRSZ")
    }

    /// Asks the kernel for large packets, as far as it has them and `permitted` goes. Returns what it gives.
    pub(crate) fn set_offload(&self, permitted: Offload) -> Offload {
        let none = Offload {
            tso: false,
            uso: false,
            ..permitted
        };
        let tso = Offload {
            tso: permitted.tso,
            ..none
        };
        let uso = Offload {
            uso: permitted.uso,
            ..tso
        };
        for wanted in [uso, tso] {
            let flags = if wanted.tso { TSO } else { 0 } | if wanted.uso { USO } else { 0 };
            if self.framed && flags != 0 && self.try_offload(libc::TUN_F_CSUM | flags) {
                return wanted;
            }
        }
        // Also without a header: an earlier run may have left more on.
        self.try_offload(0);
        none
    }

    fn try_offload(&self, flags: libc::c_uint) -> bool {
        // SAFETY: TUNSETOFFLOAD takes an integer by value.
        unsafe {
            libc::ioctl(
                self.file.as_raw_fd(),
                libc::TUNSETOFFLOAD,
                libc::c_ulong::from(flags),
            ) == 0
        }
    }

    /// A shorter queue costs packets under load and nothing else, so a refusal is no error.
    fn lengthen_queue(&self) {
        let mut request = self.request();
        request.ifr_ifru.ifru_metric = QUEUE_LENGTH;
        let any = rustix::net::socket(
            rustix::net::AddressFamily::INET,
            rustix::net::SocketType::DGRAM,
            None,
        );
        let Ok(socket) = any else { return };
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

    /// Reads one packet, which starts [`HEADROOM`] bytes into `buffer`. Returns its header (None: one that we cannot
    /// have asked for) and its length. `WouldBlock` when there is none.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<(Option<Header>, usize)> {
        if !self.framed {
            let length = rustix::io::read(&self.file, &mut buffer[HEADROOM..])?;
            return Ok((Some(Header::PLAIN), length));
        }
        let length = rustix::io::read(&self.file, &mut *buffer)?;
        let (header, _) = buffer
            .split_first_chunk()
            .ok_or(io::ErrorKind::InvalidInput)?;
        Ok((Header::parse(header), length.saturating_sub(HEADROOM)))
    }

    /// Writes the packet that starts [`HEADROOM`] bytes into `framed`.
    pub(crate) fn write(&self, framed: &mut [u8]) -> io::Result<()> {
        if self.framed {
            framed[..HEADROOM].fill(0);
            rustix::io::write(&self.file, framed)?;
        } else {
            rustix::io::write(&self.file, &framed[HEADROOM..])?;
        }
        Ok(())
    }

    /// Writes packets of `buffer` as one.
    pub(crate) fn write_joined(&self, buffer: &[u8], joined: &Joined<'_>) -> io::Result<()> {
        let mut slices = [IoSlice::new(&[]); LONGEST + 1];
        slices[0] = IoSlice::new(&joined.header);
        let mut count = 1;
        for piece in joined.pieces() {
            slices[count] = IoSlice::new(&buffer[piece]);
            count += 1;
        }
        rustix::io::writev(&self.file, &slices[..count])?;
        Ok(())
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
