//! Many datagrams a system call: `sendmmsg` and `recvmmsg` behind safe types whose buffers are made once.
#![allow(unsafe_code)] // The kernel takes arrays of headers that point into one another.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::ptr;

use crate::address::{Endpoint, Family, Name, in_addr};
use crate::socket::Socket;

/// Messages a call. More saves no measurable time and costs latency.
pub(crate) const MESSAGES: usize = 64;

/// Largest UDP datagram, and the room for each that arrives.
pub(crate) const DATAGRAM: usize = 65_536;

/// `UDP_SEGMENT` and `UDP_GRO` of linux/udp.h, which not every libc names.
const UDP_SEGMENT: libc::c_int = 103;
const UDP_GRO: libc::c_int = 104;

/// Control messages of one datagram: our address and the size of its segments.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct Control([u8; 128]);

impl Control {
    pub(crate) const EMPTY: Control = Control([0; 128]);

    /// Writes the local address and the segment size, where given. Returns the bytes used.
    pub(crate) fn fill(&mut self, family: Family, local: Option<IpAddr>, segment: u16) -> usize {
        let mut used = 0;
        match (family, local) {
            (Family::Dual, Some(ip)) => {
                let ip = match ip {
                    IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                    IpAddr::V6(v6) => v6,
                };
                let ipi6_addr = libc::in6_addr {
                    s6_addr: ip.octets(),
                };
                let info = libc::in6_pktinfo {
                    ipi6_addr,
                    ipi6_ifindex: 0,
                };
                used += self.put(used, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
            }
            (Family::V4, Some(IpAddr::V4(ip))) => {
                let info = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: in_addr(ip),
                    ipi_addr: in_addr(Ipv4Addr::UNSPECIFIED),
                };
                used += self.put(used, libc::IPPROTO_IP, libc::IP_PKTINFO, info);
            }
            (Family::V4, Some(IpAddr::V6(_))) | (_, None) => {}
        }
        if segment != 0 {
            used += self.put(used, libc::SOL_UDP, UDP_SEGMENT, segment);
        }
        used
    }

    fn put<T>(&mut self, at: usize, level: libc::c_int, kind: libc::c_int, value: T) -> usize {
        let size = size_of::<T>() as libc::c_uint;
        // SAFETY: CMSG_SPACE and CMSG_LEN only compute.
        let (space, length) = unsafe { (libc::CMSG_SPACE(size) as usize, libc::CMSG_LEN(size)) };
        assert!(at + space <= self.0.len(), "two control messages fit");
        // SAFETY: `at` is a sum of CMSG_SPACEs, so the header is aligned, and `space` bytes from there are in bounds.
        unsafe {
            let message = self.0.as_mut_ptr().add(at).cast::<libc::cmsghdr>();
            (*message).cmsg_level = level;
            (*message).cmsg_type = kind;
            (*message).cmsg_len = length as _;
            ptr::write_unaligned(libc::CMSG_DATA(message).cast::<T>(), value);
        }
        space
    }
}

/// A message header over the given parts. It holds pointers to them: they must outlive it and not move.
pub(crate) fn header(
    name: *mut Name,
    length: libc::socklen_t,
    iovec: *mut libc::iovec,
    control: *mut Control,
    used: usize,
) -> libc::msghdr {
    // SAFETY: `msghdr` is plain old data (some libcs have private padding in it), for which zeroes are a value.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_name = name.cast();
    header.msg_namelen = length;
    header.msg_iov = iovec;
    header.msg_iovlen = 1;
    if used > 0 {
        header.msg_control = control.cast();
        header.msg_controllen = used as _;
    }
    header
}

/// The arrays that one call takes.
struct Frames {
    headers: Vec<libc::mmsghdr>,
    iovecs: Vec<libc::iovec>,
    names: Vec<Name>,
    controls: Vec<Control>,
}

impl Frames {
    fn new() -> Frames {
        // SAFETY: `mmsghdr` is plain old data, for which zeroes are a value.
        let empty: libc::mmsghdr = unsafe { std::mem::zeroed() };
        Frames {
            headers: vec![empty; MESSAGES],
            iovecs: vec![
                libc::iovec {
                    iov_base: ptr::null_mut(),
                    iov_len: 0
                };
                MESSAGES
            ],
            names: vec![Name::EMPTY; MESSAGES],
            controls: vec![Control::EMPTY; MESSAGES],
        }
    }
}

/// Sealed packets on their way out, one after another in one buffer, so that equal ones can leave in one send.
pub(crate) struct Outbox {
    bytes: Box<[u8]>,
    used: usize,
    letters: Vec<Letter>,
    frames: Frames,
}

/// What one header sends: `count` datagrams of `segment` bytes, the last perhaps shorter.
#[derive(Clone, Copy)]
struct Letter {
    start: usize,
    length: usize,
    segment: usize,
    count: usize,
    endpoint: Endpoint,
}

/// What became of a flush.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flushed {
    /// Datagrams that the kernel did not take.
    pub(crate) lost: u64,
    /// An endpoint whose local address the kernel no longer has.
    pub(crate) unbound: Option<Endpoint>,
}

impl Outbox {
    /// An outbox that holds `capacity` bytes.
    pub(crate) fn new(capacity: usize) -> Outbox {
        Outbox {
            bytes: vec![0; capacity].into_boxed_slice(),
            used: 0,
            letters: Vec::with_capacity(MESSAGES),
            frames: Frames::new(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.letters.is_empty()
    }

    /// True when a datagram of `length` bytes still fits.
    pub(crate) fn has_room(&self, length: usize) -> bool {
        self.used + length <= self.bytes.len() && self.letters.len() < MESSAGES
    }

    /// Where the next datagram is to be written.
    pub(crate) fn free(&mut self) -> &mut [u8] {
        &mut self.bytes[self.used..]
    }

    /// Takes the first `length` bytes of [`free`](Outbox::free) as a datagram to `endpoint`.
    pub(crate) fn push(&mut self, length: usize, endpoint: Endpoint) {
        assert!(self.has_room(length), "the caller asked for room");
        self.letters.push(Letter {
            start: self.used,
            length,
            segment: length,
            count: 1,
            endpoint,
        });
        self.used += length;
    }

    /// Copies `message` in, if there is room.
    pub(crate) fn write(&mut self, message: &[u8], endpoint: Endpoint) {
        if self.has_room(message.len()) {
            self.free()[..message.len()].copy_from_slice(message);
            self.push(message.len(), endpoint);
        }
    }

    /// Sends all and empties the outbox. A datagram that the kernel refuses is lost, as on any network; the others go.
    pub(crate) fn flush(&mut self, socket: &Socket) -> Flushed {
        let mut flushed = Flushed::default();
        let mut next = 0;
        while next < self.letters.len() {
            match self.send_from(next, socket) {
                Ok(sent) => next += sent,
                Err(error) => {
                    let letter = self.letters[next];
                    self.retry(&letter, &error, socket, &mut flushed);
                    next += 1;
                }
            }
        }
        self.letters.clear();
        self.used = 0;
        flushed
    }

    /// One `sendmmsg` of the letters from `first` on. Returns how many the kernel took; an error is about the first.
    fn send_from(&mut self, first: usize, socket: &Socket) -> io::Result<usize> {
        let family = socket.family();
        let mut count = 0;
        for letter in self.letters[first..].iter().take(MESSAGES) {
            let Some((name, length)) = Name::encode(letter.endpoint.remote, family) else {
                if count == 0 {
                    return Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT));
                }
                break;
            };
            let frames = &mut self.frames;
            frames.names[count] = name;
            frames.iovecs[count] = libc::iovec {
                iov_base: self.bytes[letter.start..].as_ptr().cast_mut().cast(),
                iov_len: letter.length,
            };
            let segment = if letter.count > 1 {
                letter.segment as u16
            } else {
                0
            };
            let used = frames.controls[count].fill(family, letter.endpoint.local, segment);
            frames.headers[count].msg_hdr = header(
                &raw mut frames.names[count],
                length,
                &raw mut frames.iovecs[count],
                &raw mut frames.controls[count],
                used,
            );
            count += 1;
        }
        let fd = socket.as_fd().as_raw_fd();
        // SAFETY: the first `count` headers point into `frames` and `bytes`, which do not move until the call is over.
        let sent = unsafe {
            libc::sendmmsg(
                fd,
                self.frames.headers.as_mut_ptr(),
                count as libc::c_uint,
                0,
            )
        };
        if sent < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(sent as usize)
        }
    }

    /// A letter that was refused: tried again the way that its error asks for.
    fn retry(&self, letter: &Letter, error: &io::Error, socket: &Socket, flushed: &mut Flushed) {
        let bytes = &self.bytes[letter.start..letter.start + letter.length];
        let mut endpoint = letter.endpoint;
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            // Our address has gone since the peer last wrote to it.
            Some(libc::EINVAL | libc::EADDRNOTAVAIL | libc::ENETUNREACH)
                if endpoint.local.is_some() =>
            {
                flushed.unbound = Some(endpoint);
                endpoint.local = None;
            }
            _ => {
                flushed.lost += letter.count as u64;
                return;
            }
        }
        for datagram in bytes.chunks(letter.segment.max(1)) {
            if socket.send(datagram, &endpoint).is_err() {
                flushed.lost += 1;
            }
        }
    }
}

/// Datagrams that came in, with where from and where to.
pub(crate) struct Inbox {
    bytes: Box<[u8]>,
    arrivals: Vec<Arrival>,
    frames: Frames,
}

/// One message of a receive: a datagram, or several of equal size that the kernel joined.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub(crate) from: SocketAddr,
    pub(crate) to: Option<IpAddr>,
    start: usize,
    length: usize,
    segment: usize,
}

/// One datagram in the inbox.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slice {
    /// Index of its [`Arrival`].
    pub(crate) arrival: usize,
    start: usize,
    length: usize,
}

impl Inbox {
    pub(crate) fn new() -> Inbox {
        Inbox {
            // Zeroed pages are given by the kernel when first touched: a slot costs what arrives in it.
            bytes: vec![0; MESSAGES * DATAGRAM].into_boxed_slice(),
            arrivals: Vec::with_capacity(MESSAGES),
            frames: Frames::new(),
        }
    }

    /// Takes up to `count` messages that wait already. `WouldBlock` when there are none.
    pub(crate) fn receive(&mut self, socket: &Socket, count: usize) -> io::Result<()> {
        let count = count.min(MESSAGES);
        self.arrivals.clear();
        let base = self.bytes.as_mut_ptr();
        let frames = &mut self.frames;
        for slot in 0..count {
            // SAFETY: `slot` is below MESSAGES, and the buffer has DATAGRAM bytes for each.
            let start = unsafe { base.add(slot * DATAGRAM) };
            frames.iovecs[slot] = libc::iovec {
                iov_base: start.cast(),
                iov_len: DATAGRAM,
            };
            frames.headers[slot].msg_len = 0;
            frames.headers[slot].msg_hdr = header(
                &raw mut frames.names[slot],
                size_of::<Name>() as libc::socklen_t,
                &raw mut frames.iovecs[slot],
                &raw mut frames.controls[slot],
                size_of::<Control>(),
            );
        }
        let fd = socket.as_fd().as_raw_fd();
        let headers = frames.headers.as_mut_ptr();
        // SAFETY: `count` headers point into `frames` and to DATAGRAM bytes of `bytes` each; nothing moves meanwhile.
        let received = unsafe {
            libc::recvmmsg(
                fd,
                headers,
                count as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        };
        if received < 0 {
            return Err(io::Error::last_os_error());
        }
        for slot in 0..received as usize {
            let length = frames.headers[slot].msg_len as usize;
            let Some(from) = frames.names[slot].decode() else {
                continue;
            };
            let (to, segment) = read_control(&frames.headers[slot].msg_hdr);
            let segment = segment.unwrap_or(length).max(1);
            self.arrivals.push(Arrival {
                from,
                to,
                start: slot * DATAGRAM,
                length,
                segment,
            });
        }
        Ok(())
    }

    pub(crate) fn arrival(&self, index: usize) -> &Arrival {
        &self.arrivals[index]
    }

    /// Where the sender of an arrival is, and where it sent to.
    pub(crate) fn endpoint(&self, index: usize) -> Endpoint {
        let arrival = &self.arrivals[index];
        Endpoint {
            remote: arrival.from,
            local: arrival.to,
        }
    }

    pub(crate) fn bytes(&self, slice: &Slice) -> &[u8] {
        &self.bytes[slice.start..slice.start + slice.length]
    }

    /// Writes every datagram into `slices`, joined ones taken apart, in the order of arrival.
    pub(crate) fn split(&self, slices: &mut Vec<Slice>) {
        slices.clear();
        for (index, arrival) in self.arrivals.iter().enumerate() {
            let mut at = 0;
            while at < arrival.length {
                let length = arrival.segment.min(arrival.length - at);
                slices.push(Slice {
                    arrival: index,
                    start: arrival.start + at,
                    length,
                });
                at += length;
            }
        }
    }
}

/// Our address that the datagram was sent to, and the size of joined datagrams.
fn read_control(header: &libc::msghdr) -> (Option<IpAddr>, Option<usize>) {
    let (mut to, mut segment) = (None, None);
    // SAFETY: the kernel filled the control buffer and set its length; the CMSG functions stay inside it, and each
    // payload has the type that its level and kind say.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(header);
        while !message.is_null() {
            let data = libc::CMSG_DATA(message);
            match ((*message).cmsg_level, (*message).cmsg_type) {
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info: libc::in6_pktinfo = ptr::read_unaligned(data.cast());
                    let ip = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                    to = Some(ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4));
                }
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info: libc::in_pktinfo = ptr::read_unaligned(data.cast());
                    to = Some(IpAddr::V4(Ipv4Addr::from(
                        info.ipi_addr.s_addr.to_ne_bytes(),
                    )));
                }
                (libc::SOL_UDP, UDP_GRO) => {
                    let size: libc::c_int = ptr::read_unaligned(data.cast());
                    segment = usize::try_from(size).ok().filter(|&size| size > 0);
                }
                _ => {}
            }
            message = libc::CMSG_NXTHDR(header, message);
        }
    }
    (to, segment)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive(socket: &Socket, inbox: &mut Inbox) {
        let mut fds = [rustix::event::PollFd::from_borrowed_fd(
            socket.as_fd(),
            rustix::event::PollFlags::IN,
        )];
        rustix::event::poll(&mut fds, None).expect("poll");
        inbox.receive(socket, MESSAGES).expect("something waits");
    }

    #[test]
    fn a_batch_arrives_whole_with_its_addresses() {
        let (a, b) = (
            Socket::open(0).expect("a port"),
            Socket::open(0).expect("a port"),
        );
        let mut outbox = Outbox::new(4096);
        for ip in ["127.0.0.1", "127.0.0.2", "::1"] {
            let remote = SocketAddr::new(ip.parse().expect("an address"), b.port());
            let local = (!ip.contains(':')).then(|| "127.0.0.9".parse().expect("an address"));
            outbox.free()[..ip.len()].copy_from_slice(ip.as_bytes());
            outbox.push(ip.len(), Endpoint { remote, local });
        }
        assert_eq!(outbox.flush(&a), Flushed::default());
        assert!(outbox.is_empty());

        let (mut inbox, mut slices, mut seen) = (Inbox::new(), Vec::new(), 0);
        while seen < 3 {
            receive(&b, &mut inbox);
            inbox.split(&mut slices);
            for slice in &slices {
                let text = String::from_utf8_lossy(inbox.bytes(slice)).into_owned();
                let arrival = inbox.arrival(slice.arrival);
                assert_eq!(arrival.to, text.parse().ok(), "the address that was asked");
                let from = if text.contains(':') {
                    "::1"
                } else {
                    "127.0.0.9"
                };
                assert_eq!(
                    arrival.from,
                    SocketAddr::new(from.parse().expect("an address"), a.port())
                );
                seen += 1;
            }
        }
    }

    #[test]
    fn a_local_address_that_is_gone_is_given_up() {
        let (a, b) = (
            Socket::open(0).expect("a port"),
            Socket::open(0).expect("a port"),
        );
        let remote = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), b.port());
        let gone = Endpoint {
            remote,
            local: Some("203.0.113.77".parse().expect("an address")),
        };
        let mut outbox = Outbox::new(64);
        outbox.push(1, gone);
        assert_eq!(
            outbox.flush(&a),
            Flushed {
                lost: 0,
                unbound: Some(gone)
            }
        );
        let mut inbox = Inbox::new();
        receive(&b, &mut inbox);
        assert_eq!(inbox.arrivals.len(), 1, "sent again without it");
    }
}
