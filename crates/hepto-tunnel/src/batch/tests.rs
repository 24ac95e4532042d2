use std::net::SocketAddr;

use rustix::event::{PollFd, PollFlags, poll};

use super::*;
use crate::address::Endpoint;
use crate::offload::ladder::Offload;
use crate::socket::Socket;

fn pair(family: Family) -> (Socket, Socket) {
    let open = || Socket::open_as(family, 0).expect("a free port");
    (open(), open())
}

fn endpoint(remote: &str, port: u16, local: Option<&str>) -> Endpoint {
    let remote = SocketAddr::new(remote.parse().expect("an address"), port);
    Endpoint {
        remote,
        local: local.map(|local| local.parse().expect("an address")),
    }
}

/// The next `count` datagrams: payload, from, to.
fn receive(socket: &Socket, count: usize) -> Vec<(Vec<u8>, SocketAddr, Option<IpAddr>)> {
    let (mut inbox, mut slices, mut seen) = (Inbox::new(), Vec::new(), Vec::new());
    while seen.len() < count {
        poll(
            &mut [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN)],
            None,
        )
        .expect("poll");
        inbox.receive(socket, SLOTS).expect("something waits");
        inbox.split(&mut slices);
        for slice in &slices {
            let Endpoint { remote, local } = inbox.endpoint(slice.arrival);
            seen.push((inbox.bytes(slice).to_vec(), remote, local));
        }
    }
    seen
}

#[test]
fn slots_keep_little_memory_from_one_receive_to_the_next() {
    let (a, b) = pair(Family::V4);
    let large = vec![5; 60_000];
    let to = endpoint("127.0.0.1", b.port(), None);
    let mut inbox = Inbox::new();
    for _ in 0..12 {
        a.send(&large, &to).expect("sent");
    }
    inbox.receive(&b, SLOTS).expect("they wait on loopback");
    assert!(inbox.held() > inbox::KEPT, "{} bytes", inbox.held());
    a.send(&large, &to).expect("sent");
    inbox.receive(&b, SLOTS).expect("it waits");
    assert_eq!(inbox.held(), large.len());
    let mut slices = Vec::new();
    inbox.split(&mut slices);
    assert_eq!(inbox.bytes(&slices[0]), large);
}

#[test]
fn a_batch_arrives_whole_with_its_addresses() {
    for (family, targets) in [
        (Family::Dual, &["127.0.0.1", "127.0.0.2", "::1"][..]),
        (Family::V4, &["127.0.0.1", "127.0.0.2"]),
    ] {
        let (a, b) = pair(family);
        let mut outbox = Outbox::new(4096);
        for target in targets {
            outbox.free()[..target.len()].copy_from_slice(target.as_bytes());
            let local = (!target.contains(':')).then_some("127.0.0.9");
            outbox.push(target.len(), endpoint(target, b.port(), local), true);
        }
        assert_eq!(outbox.flush(&a), Flushed::default());
        assert!(outbox.is_empty());
        for (bytes, from, to) in receive(&b, targets.len()) {
            let target = String::from_utf8_lossy(&bytes).into_owned();
            assert_eq!(to, target.parse().ok(), "the address that was asked");
            let local = if target.contains(':') {
                "::1"
            } else {
                "127.0.0.9"
            };
            assert_eq!(from, endpoint(local, a.port(), None).remote);
        }
    }
}

#[test]
fn trains_arrive_as_what_was_put_into_them() {
    // Trains end at a shorter datagram, at another peer, and at 64 datagrams; one does not join at all.
    let lengths: Vec<usize> = [100, 100, 60, 100, 200, 7]
        .into_iter()
        .chain([300; 150])
        .collect();
    for (target, segment, gro) in [
        ("127.0.0.1", true, true),
        ("::1", true, false),
        ("::1", false, true),
    ] {
        let (a, b) = pair(Family::Dual);
        let offload = b.set_offload(Offload {
            udp_gro: gro,
            ..Offload::ALL
        });
        assert!(
            offload.udp_segment && offload.udp_gro == gro,
            "this kernel has both"
        );
        let mut outbox = Outbox::new(1 << 17);
        for (number, &length) in lengths.iter().enumerate() {
            outbox.free()[..length].fill(number as u8);
            outbox.push(length, endpoint(target, b.port(), None), segment);
        }
        assert_eq!(outbox.flush(&a), Flushed::default());
        let received = receive(&b, lengths.len());
        for (number, ((bytes, ..), length)) in received.iter().zip(&lengths).enumerate() {
            assert_eq!(
                bytes,
                &vec![number as u8; *length],
                "datagram {number} to {target}"
            );
        }
        assert_eq!(received.len(), lengths.len());
    }
}

/// The kernel itself refuses: it makes no trains for a socket without checksums (udp(7), SO_NO_CHECK).
#[test]
fn a_train_that_the_kernel_refuses_arrives_in_pieces_and_breaks_the_rung() {
    let (a, b) = pair(Family::Dual);
    let to = endpoint("127.0.0.1", b.port(), None);
    let on: libc::c_int = 1;
    // SAFETY: the kernel reads four bytes that outlive the call.
    let set = unsafe {
        libc::setsockopt(
            std::os::fd::AsRawFd::as_raw_fd(&a.as_fd()),
            libc::SOL_SOCKET,
            libc::SO_NO_CHECK,
            (&raw const on).cast(),
            4,
        )
    };
    assert_eq!(set, 0);
    let mut outbox = Outbox::new(1 << 16);
    for number in 0..40u8 {
        outbox.free()[..100].fill(number);
        outbox.push(100, to, true);
    }
    let expected = Flushed {
        refusal: Some(Refusal::Support),
        ..Flushed::default()
    };
    assert_eq!(outbox.flush(&a), expected);
    for (number, (bytes, ..)) in receive(&b, 40).iter().enumerate() {
        assert_eq!(bytes, &vec![number as u8; 100], "none lost, in order");
    }
}

#[test]
fn a_local_address_that_is_gone_is_given_up() {
    for (family, join) in [
        (Family::Dual, false),
        (Family::Dual, true),
        (Family::V4, true),
    ] {
        let (a, b) = pair(family);
        let gone = endpoint("127.0.0.1", b.port(), Some("203.0.113.77"));
        let mut outbox = Outbox::new(64);
        outbox.push(5, gone, join);
        outbox.push(5, gone, join);
        let flushed = outbox.flush(&a);
        let expected = Flushed {
            lost: 0,
            unbound: Some(gone),
            refusal: None,
        };
        assert_eq!(flushed, expected, "that says nothing of segments");
        assert_eq!(receive(&b, 2).len(), 2, "sent again without it");
    }
}

#[test]
fn a_train_above_the_path_is_sent_in_pieces_and_blames_no_one() {
    let (a, b) = pair(Family::Dual);
    // Loopback carries 65,536 bytes: a datagram must exceed that to be too big, so the refusal is made by hand.
    let mut outbox = Outbox::new(1 << 10);
    let to = endpoint("127.0.0.1", b.port(), None);
    let (short, long) = (100, 1400);
    for (errno, length, blames) in [
        (libc::EMSGSIZE, short, Refusal::Length(short)),
        (libc::EMSGSIZE, long, Refusal::Length(long)),
        (libc::EINVAL, long, Refusal::Length(long)),
        (libc::EINVAL, short, Refusal::Support),
        (libc::EIO, short, Refusal::Support),
        (libc::EIO, long, Refusal::Support),
    ] {
        let mut outbox = Outbox::new(1 << 13);
        for _ in 0..3 {
            outbox.push(length, to, true);
        }
        let mut flushed = Flushed::default();
        outbox.refuse_first(errno, &a, &mut flushed);
        let expected = Flushed {
            refusal: Some(blames),
            ..Flushed::default()
        };
        assert_eq!(flushed, expected, "errno {errno}, {length} bytes");
        assert_eq!(receive(&b, 3).len(), 3, "errno {errno}");
    }
    for _ in 0..3 {
        outbox.push(100, to, true);
    }
    let mut flushed = Flushed::default();
    outbox.refuse_first(libc::ENOBUFS, &a, &mut flushed);
    assert_eq!(flushed.lost, 3, "no room is no reason to try again");
}
