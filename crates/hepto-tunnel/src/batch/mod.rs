//! Many datagrams a system call: `sendmmsg` and `recvmmsg` behind safe types whose buffers are made once.
#![allow(unsafe_code)] // The kernel takes arrays of headers that point into one another.

mod inbox;
mod outbox;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ptr;

use crate::address::{Family, Name, in_addr};

pub(crate) use inbox::{Inbox, SLOTS, Slice};
pub(crate) use outbox::{Flushed, Outbox, Refusal};

/// Messages a send. More saves no measurable time and costs latency.
pub(crate) const MESSAGES: usize = 64;

/// Largest UDP datagram, and the room for each that arrives.
pub(crate) const DATAGRAM: usize = 65_536;

/// `UDP_SEGMENT` and `UDP_GRO` of linux/udp.h, which not every libc names.
pub(crate) const UDP_SEGMENT: libc::c_int = 103;
pub(crate) const UDP_GRO: libc::c_int = 104;

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
            // A dual socket takes this for an IPv4 destination, too. It fits the kernel's stack; IPv6's is allocated each time.
            (_, Some(IpAddr::V4(ip))) => {
                let info = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: in_addr(ip),
                    ipi_addr: in_addr(Ipv4Addr::UNSPECIFIED),
                };
                used += self.put(used, libc::IPPROTO_IP, libc::IP_PKTINFO, info);
            }
            (Family::Dual, Some(IpAddr::V6(ip))) => {
                let ipi6_addr = libc::in6_addr {
                    s6_addr: ip.octets(),
                };
                let info = libc::in6_pktinfo {
                    ipi6_addr,
                    ipi6_ifindex: 0,
                };
                used += self.put(used, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
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
            // Some libcs have private padding in it, which the kernel reads.
            ptr::write_bytes(message, 0, 1);
            (*message).cmsg_level = level;
            (*message).cmsg_type = kind;
            (*message).cmsg_len = length as _;
            ptr::write_unaligned(libc::CMSG_DATA(message).cast::<T>(), value);
        }
        space
    }
}

/// An empty message header. Some libcs have private padding in it, so it cannot be written as a literal.
pub(crate) fn empty_header() -> libc::msghdr {
    // SAFETY: `msghdr` is plain old data, for which zeroes are a value.
    unsafe { std::mem::zeroed() }
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
        let header = libc::mmsghdr {
            msg_hdr: empty_header(),
            msg_len: 0,
        };
        let iovec = libc::iovec {
            iov_base: ptr::null_mut(),
            iov_len: 0,
        };
        Frames {
            headers: vec![header; MESSAGES],
            iovecs: vec![iovec; MESSAGES],
            names: vec![Name::EMPTY; MESSAGES],
            controls: vec![Control::EMPTY; MESSAGES],
        }
    }

    /// Says how long the name and the control messages of `slot` are.
    fn size(&mut self, slot: usize, name: libc::socklen_t, control: usize) {
        let header = &mut self.headers[slot].msg_hdr;
        header.msg_namelen = name;
        header.msg_controllen = control as _;
        header.msg_iovlen = 1;
    }

    /// Points the first `count` headers at their parts, after the parts were written: what touches them later, before
    /// the call, would invalidate the pointers.
    fn link(&mut self, count: usize) -> *mut libc::mmsghdr {
        let names = self.names.as_mut_ptr();
        let iovecs = self.iovecs.as_mut_ptr();
        let controls = self.controls.as_mut_ptr();
        for (slot, header) in self.headers[..count].iter_mut().enumerate() {
            let header = &mut header.msg_hdr;
            // SAFETY: all four arrays have the same length, so `slot` is inside each.
            unsafe {
                header.msg_name = names.add(slot).cast();
                header.msg_iov = iovecs.add(slot);
                header.msg_control = controls.add(slot).cast();
            }
        }
        self.headers.as_mut_ptr()
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
mod tests;
