#![allow(unsafe_code)] // unshare.

use std::net::UdpSocket;
use std::process::Command;
use std::time::Duration;

use super::*;
use crate::offload::flow::Make;
use crate::offload::ladder::Offload;

/// Runs `body` in a network namespace of its own, with 10.44.0.2 on the TUN that `open` gives.
fn inside(open: impl FnOnce() -> Tun + Send, body: impl FnOnce(&Tun) + Send) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // SAFETY: takes flags, and changes this thread alone.
            let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
            assert_eq!(
                result,
                0,
                "this test needs root: {}",
                io::Error::last_os_error()
            );
            let tun = open();
            for arguments in ["link set hepto0 up", "addr add 10.44.0.2/24 dev hepto0"] {
                let status = Command::new("ip").args(arguments.split(' ')).status();
                assert!(
                    status.expect("iproute2 is installed").success(),
                    "ip {arguments}"
                );
            }
            body(&tun);
        });
    });
}

/// Three datagrams of one flow, and a fourth from elsewhere.
fn opened() -> Delivery {
    let mut delivery = Delivery::new();
    for number in 0..4u8 {
        let payload = vec![number; 100];
        let packet = Make {
            udp: true,
            identification: u16::from(number),
            payload,
            ..Make::default()
        }
        .packet();
        delivery.room(packet.len()).expect("room")[..packet.len()].copy_from_slice(&packet);
        delivery.push(
            packet.len(),
            if number < 3 {
                [10, 44, 0, 1]
            } else {
                [10, 44, 0, 9]
            }
            .into(),
        );
    }
    delivery
}

fn deliver(tun: &Tun, ladder: &Ladder) -> Delivered {
    let socket = UdpSocket::bind("10.44.0.2:443").expect("a port");
    socket
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("a timeout");
    let delivered = opened().deliver(tun, ladder, |source| source == IpAddr::from([10, 44, 0, 1]));
    let mut buffer = [0; 256];
    for number in 0..3 {
        let length = socket.recv(&mut buffer).expect("it arrives");
        assert_eq!(&buffer[..length], &[number; 100], "whole, and in order");
    }
    delivered
}

const WHOLE: Delivered = Delivered {
    packets: 3,
    bytes: 3 * 128,
    spoofed: 1,
    failed: 0,
};

#[test]
fn a_train_arrives_as_the_packets_it_was_made_of() {
    inside(
        || Tun::open("hepto0").expect("a TUN"),
        |tun| {
            let ladder = Ladder::new(tun.set_offload(Offload::ALL));
            assert_eq!(deliver(tun, &ladder), WHOLE);
        },
    );
}

#[test]
fn a_train_that_is_refused_is_delivered_in_pieces_and_was_the_last() {
    // Without a header before each packet the kernel takes ours for a packet of IP version 0, and refuses it.
    inside(
        || Tun::open_without_header("hepto0").expect("a TUN"),
        |tun| {
            let ladder = Ladder::new(Offload::ALL);
            assert_eq!(deliver(tun, &ladder), WHOLE);
            assert_eq!(
                ladder.read(),
                Offload {
                    uso: false,
                    ..Offload::ALL
                }
            );
            assert_eq!(deliver(tun, &ladder), WHOLE, "one by one");
        },
    );
}

#[test]
fn a_link_that_is_down_says_nothing_of_trains() {
    inside(
        || Tun::open("hepto0").expect("a TUN"),
        |tun| {
            let status = Command::new("ip")
                .args(["link", "set", "hepto0", "down"])
                .status();
            assert!(status.expect("iproute2 is installed").success());
            let ladder = Ladder::new(Offload::ALL);
            let delivered = opened().deliver(tun, &ladder, |_| true);
            assert_eq!(
                delivered,
                Delivered {
                    failed: 4,
                    ..Delivered::default()
                }
            );
            assert_eq!(ladder.read(), Offload::ALL);
        },
    );
}

#[test]
fn a_full_buffer_has_no_room() {
    let mut delivery = Delivery::new();
    let mut count = 0;
    while delivery.room(1500).is_some() {
        delivery.push(1500, [10, 44, 0, 1].into());
        count += 1;
    }
    assert!(count > 100 && count <= PACKETS);
    let mut delivery = Delivery::new();
    assert!(
        delivery.room(DATAGRAM).is_some(),
        "the largest datagram fits an empty one"
    );
    (0..PACKETS).for_each(|_| delivery.push(0, [10, 44, 0, 1].into()));
    assert!(delivery.room(20).is_none());
}
