//! The size of a burst that the kernel makes for the TUN, so that one read fills one send.

use std::io;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netdevice};

/// Largest packet to be asked for, headers included. Cut for a tunnel of any MTU from 1280 on, with the longest headers,
/// and sealed, it is at most 64 datagrams and 65,487 bytes: what one UDP_SEGMENT send takes. Above it, every read
/// would end in a second, small send.
const LARGEST: u32 = 58_000;

/// `RTM_SETLINK` and `IFLA_GSO_MAX_SIZE` of linux/rtnetlink.h and linux/if_link.h.
const SETLINK: u16 = 19;
const GSO_MAX_SIZE: u16 = 41;

/// `NLM_F_REQUEST | NLM_F_ACK` of linux/netlink.h.
const REQUEST_ACK: u16 = 1 | 4;

/// A netlink header, then an error: a negative errno, or zero.
const ERROR_AT: usize = 16;

/// Sets it for `interface` of the calling thread's network namespace.
///
/// # Errors
/// The kernel's.
pub(crate) fn set(interface: &str) -> io::Result<()> {
    let flags = SocketFlags::CLOEXEC;
    // No protocol is protocol 0, which is NETLINK_ROUTE.
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    let index = netdevice::name_to_index(&socket, interface)?;
    rustix::net::send(&socket, &request(index), SendFlags::empty())?;
    let mut answer = [0; 256];
    // The kernel has answered by the time that the send returns.
    let (length, _) = rustix::net::recv(&socket, &mut answer, RecvFlags::DONTWAIT)?;
    match answer[..length].get(ERROR_AT..ERROR_AT + 4) {
        Some(&[a, b, c, d]) => match i32::from_ne_bytes([a, b, c, d]) {
            0 => Ok(()),
            errno => Err(io::Error::from_raw_os_error(-errno)),
        },
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// A netlink header of 16 bytes, an `ifinfomsg` of 16, and one attribute of 8.
fn request(index: u32) -> [u8; 40] {
    let mut message = [0; 40];
    message[..4].copy_from_slice(&40u32.to_ne_bytes());
    message[4..6].copy_from_slice(&SETLINK.to_ne_bytes());
    message[6..8].copy_from_slice(&REQUEST_ACK.to_ne_bytes());
    message[20..24].copy_from_slice(&index.to_ne_bytes());
    message[32..34].copy_from_slice(&8u16.to_ne_bytes());
    message[34..36].copy_from_slice(&GSO_MAX_SIZE.to_ne_bytes());
    message[36..].copy_from_slice(&LARGEST.to_ne_bytes());
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_burst_fills_one_send() {
        for mtu in 1280..=9000u32 {
            // IPv4 and TCP alone; IPv6 and TCP with the longest options.
            for headers in [40, 100] {
                let payload = LARGEST - headers;
                let segments = payload.div_ceil(mtu - headers);
                let sealed = payload + segments * (headers + 32);
                assert!(
                    segments <= 64 && sealed <= 65_487,
                    "{segments} segments, {sealed} bytes at MTU {mtu}"
                );
            }
        }
    }

    #[test]
    fn a_link_that_is_not_there_is_an_error() {
        assert!(set("no-such-link").is_err());
    }
}
