//! Receiving.
#![allow(unsafe_code)] // The kernel takes arrays of headers that point into one another.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::ptr;

use super::{Control, DATAGRAM, Frames, read_control};
use crate::address::{Endpoint, Name};
use crate::pages::{buffer, give_back};
use crate::socket::Socket;

/// Messages a receive at most. All of them full of joined datagrams are 2 MiB.
pub(crate) const SLOTS: usize = 32;

/// Bytes from one slot to the next. At a power of two all slots would meet in the same few sets of the caches, where 32 short
/// datagrams find no room together.
const STRIDE: usize = DATAGRAM + 2048;

/// Bytes of memory that the slots may hold from one receive to the next.
pub(super) const KEPT: usize = 8 * DATAGRAM;

/// Datagrams that came in, with where from and where to.
pub(crate) struct Inbox {
    bytes: Box<[u8]>,
    arrivals: Vec<Arrival>,
    frames: Frames,
    /// How far each slot was written since its memory was given back.
    written: [usize; SLOTS],
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
            bytes: buffer(SLOTS * STRIDE),
            arrivals: Vec::with_capacity(SLOTS),
            frames: Frames::new(),
            written: [0; SLOTS],
        }
    }

    /// Takes up to `count` messages that wait already. `WouldBlock` when there are none.
    pub(crate) fn receive(&mut self, socket: &Socket, count: usize) -> io::Result<()> {
        let count = count.min(SLOTS);
        self.arrivals.clear();
        if self.held() > KEPT {
            self.give_back();
        }
        let base = self.bytes.as_mut_ptr();
        let frames = &mut self.frames;
        for slot in 0..count {
            // SAFETY: `slot` is below SLOTS, and the buffer has STRIDE bytes for each.
            let start = unsafe { base.add(slot * STRIDE) };
            frames.iovecs[slot] = libc::iovec {
                iov_base: start.cast(),
                iov_len: DATAGRAM,
            };
            frames.size(
                slot,
                size_of::<Name>() as libc::socklen_t,
                size_of::<Control>(),
            );
        }
        let fd = socket.as_fd().as_raw_fd();
        let headers = frames.link(count);
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
            self.written[slot] = self.written[slot].max(length);
            let Some(from) = frames.names[slot].decode() else {
                continue;
            };
            let (to, segment) = read_control(&frames.headers[slot].msg_hdr);
            let segment = segment.unwrap_or(length).max(1);
            self.arrivals.push(Arrival {
                from,
                to,
                start: slot * STRIDE,
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

    /// Bytes of memory that the slots hold, to within a page each.
    pub(super) fn held(&self) -> usize {
        self.written.iter().sum()
    }

    /// Gives the memory of all slots back, and what arrived with it.
    pub(crate) fn give_back(&mut self) {
        self.arrivals.clear();
        self.written = [0; SLOTS];
        give_back(&mut self.bytes);
    }

    /// Bytes of the last receive.
    pub(crate) fn length(&self) -> usize {
        self.arrivals.iter().map(|arrival| arrival.length).sum()
    }

    /// Messages of the last receive.
    pub(crate) fn messages(&self) -> usize {
        self.arrivals.len()
    }
}
