//! Sending.
#![allow(unsafe_code)] // The kernel takes arrays of headers that point into one another.

use std::io;
use std::os::fd::AsRawFd;

use super::{Frames, MESSAGES};
use crate::address::{Endpoint, Name};
use crate::pages::{buffer, give_back};
use crate::socket::Socket;

/// Datagrams of one segmented send. Kernels before 6.9 refuse more.
const SEGMENTS: usize = 64;

/// Bytes of one segmented send, so that it is a datagram that either family can carry.
const SEND: usize = 65_487;

/// The longest payload of a datagram that fits any link with IPv6: its least MTU, 1280, less the headers.
const NARROWEST: usize = 1280 - 48;

/// Sends of one batch. What is sealed beyond it makes the batch be sent first.
const LETTERS: usize = 4 * MESSAGES;

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

impl Letter {
    /// True when a datagram of `length` bytes may be its last or next.
    fn takes(&self, length: usize, endpoint: &Endpoint) -> bool {
        self.count < SEGMENTS
            && length <= self.segment
            && self.length == self.count * self.segment
            && self.length + length <= SEND
            && self.endpoint == *endpoint
    }
}

/// What became of a flush.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flushed {
    /// Datagrams that the kernel did not take.
    pub(crate) lost: u64,
    /// An endpoint whose local address the kernel no longer has.
    pub(crate) unbound: Option<Endpoint>,
    /// The kernel refused a segmented send whose datagrams it took one by one.
    pub(crate) refusal: Option<Refusal>,
}

/// Why a segmented send was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The kernel, or the way out, has no such sends.
    Support,
    /// A datagram of this length is above the way out's MTU: alone it is fragmented, in a train it is refused.
    Length(usize),
}

impl Refusal {
    /// EMSGSIZE always speaks of length. EINVAL does too until Linux 6.18, but not of datagrams that every link that
    /// carries IPv6 carries.
    fn of(error: &io::Error, segment: usize) -> Option<Refusal> {
        match error.raw_os_error() {
            Some(libc::EMSGSIZE) => Some(Refusal::Length(segment)),
            Some(libc::EINVAL) if segment > NARROWEST => Some(Refusal::Length(segment)),
            Some(libc::EINVAL | libc::EIO | libc::EOPNOTSUPP) => Some(Refusal::Support),
            _ => None,
        }
    }
}

impl Outbox {
    /// An outbox that holds `capacity` bytes.
    pub(crate) fn new(capacity: usize) -> Outbox {
        Outbox {
            bytes: buffer(capacity),
            used: 0,
            letters: Vec::with_capacity(LETTERS),
            frames: Frames::new(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.letters.is_empty()
    }

    /// Gives the memory back while it is empty.
    pub(crate) fn give_back(&mut self) {
        if self.is_empty() {
            give_back(&mut self.bytes);
        }
    }

    /// True when a datagram of `length` bytes still fits.
    pub(crate) fn has_room(&self, length: usize) -> bool {
        self.used + length <= self.bytes.len() && self.letters.len() < LETTERS
    }

    /// Where the next datagram is to be written.
    pub(crate) fn free(&mut self) -> &mut [u8] {
        &mut self.bytes[self.used..]
    }

    /// Takes the first `length` bytes of [`free`](Outbox::free) as a datagram to `endpoint`. With `join`, it leaves in
    /// one send with those before it, where it can.
    pub(crate) fn push(&mut self, length: usize, endpoint: Endpoint, join: bool) {
        assert!(self.has_room(length), "the caller asked for room");
        match self.letters.last_mut() {
            Some(last) if join && last.takes(length, &endpoint) => {
                last.length += length;
                last.count += 1;
            }
            _ => self.letters.push(Letter {
                start: self.used,
                length,
                segment: length,
                count: 1,
                endpoint,
            }),
        }
        self.used += length;
    }

    /// Copies `message` in, if there is room.
    pub(crate) fn write(&mut self, message: &[u8], endpoint: Endpoint) {
        if self.has_room(message.len()) {
            self.free()[..message.len()].copy_from_slice(message);
            self.push(message.len(), endpoint, false);
        }
    }

    /// Sends all and empties the outbox. A datagram that the kernel refuses is lost, as on any network; the others go.
    pub(crate) fn flush(&mut self, socket: &Socket) -> Flushed {
        let mut flushed = Flushed::default();
        let mut next = 0;
        while next < self.letters.len() {
            match self.send_from(next, socket) {
                Ok(sent) => next += sent,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The link takes nothing: to wait for each of the others as long as for this one helps nobody.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    flushed.lost += self.letters[next..]
                        .iter()
                        .map(|letter| letter.count as u64)
                        .sum::<u64>();
                    break;
                }
                Err(error) => {
                    self.retry(&self.letters[next], &error, socket, &mut flushed);
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
            frames.size(count, length, used);
            count += 1;
        }
        let fd = socket.as_fd().as_raw_fd();
        let headers = self.frames.link(count);
        // The call itself: musl's function of that name makes a `sendmsg` of each message, since the headers' padding may
        // not be zero. `empty_header` has it zero.
        // SAFETY: the first `count` headers point into `frames` and `bytes`, which do not move until the call is over.
        let sent =
            unsafe { libc::syscall(libc::SYS_sendmmsg, fd, headers, count as libc::c_uint, 0) };
        if sent < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(sent as usize)
        }
    }

    /// A letter that was refused: its datagrams one by one, if its error says that this may help.
    fn retry(&self, letter: &Letter, error: &io::Error, socket: &Socket, flushed: &mut Flushed) {
        let refusal = Refusal::of(error, letter.segment).filter(|_| letter.count > 1);
        if refusal.is_none()
            && (letter.endpoint.local.is_none() || !may_be_the_local_address(error))
        {
            flushed.lost += letter.count as u64;
            return;
        }
        let bytes = &self.bytes[letter.start..letter.start + letter.length];
        let mut endpoint = letter.endpoint;
        let mut went = false;
        for datagram in bytes.chunks(letter.segment) {
            let mut result = socket.send(datagram, &endpoint);
            if let Err(error) = &result
                && endpoint.local.is_some()
                && may_be_the_local_address(error)
            {
                flushed.unbound = Some(endpoint);
                endpoint.local = None;
                result = socket.send(datagram, &endpoint);
            }
            match result {
                Ok(()) => went = true,
                Err(_) => flushed.lost += 1,
            }
        }
        if went && endpoint == letter.endpoint {
            flushed.refusal = refusal.or(flushed.refusal);
        }
    }

    /// Acts as if the kernel had refused the first letter.
    #[cfg(test)]
    pub(super) fn refuse_first(&self, errno: i32, socket: &Socket, flushed: &mut Flushed) {
        self.retry(
            &self.letters[0],
            &io::Error::from_raw_os_error(errno),
            socket,
            flushed,
        );
    }
}

/// Our address has gone since the peer last wrote to it, or the way to the peer has.
fn may_be_the_local_address(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINVAL | libc::EADDRNOTAVAIL | libc::ENETUNREACH)
    )
}
