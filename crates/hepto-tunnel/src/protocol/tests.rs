use std::time::Instant;

use boringtun::x25519::StaticSecret;

use super::door::HANDSHAKES_PER_SECOND;
use super::*;

const A: [u8; 32] = [0x11; 32];
const B: [u8; 32] = [0x22; 32];
const PSK: [u8; 32] = [7; 32];

fn public(private: [u8; 32]) -> [u8; 32] {
    PublicKey::from(&StaticSecret::from(private)).to_bytes()
}

fn pair() -> (Protocol, Protocol) {
    let (a, b) = (Door::new(A), Door::new(B));
    (
        Protocol::new(&a, public(B), PSK, 1),
        Protocol::new(&b, public(A), PSK, 2),
    )
}

fn carry(to: &mut Protocol, datagram: &[u8]) -> (Opened, Vec<u8>) {
    let mut out = vec![0; 2048];
    let message = Message::of(datagram).expect("WireGuard");
    let opened = to.open(datagram, message, &mut out);
    let length = match opened {
        Opened::Answer { length }
        | Opened::Established { length }
        | Opened::Packet { length, .. } => length,
        _ => 0,
    };
    out.truncate(length);
    (opened, out)
}

fn initiation(from: &mut Protocol) -> Vec<u8> {
    let mut out = vec![0; HANDSHAKE];
    let length = from.initiate(&mut out).expect("room");
    out.truncate(length);
    out
}

fn connect(a: &mut Protocol, b: &mut Protocol) {
    let (_, answer) = carry(b, &initiation(a));
    let (opened, confirmation) = carry(a, &answer);
    assert!(matches!(opened, Opened::Established { .. }));
    assert_eq!(carry(b, &confirmation).0, Opened::Keepalive);
}

#[test]
fn a_handshake_makes_a_session_on_both_sides() {
    let (mut a, mut b) = pair();
    assert!(
        a.sealer().is_none() && b.sealer().is_none(),
        "nothing is sealed before"
    );
    connect(&mut a, &mut b);
    assert!(a.is_initiator() && !b.is_initiator());
    let packet = [
        &[0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0][..],
        &[10, 0, 0, 1],
        &[10, 0, 0, 2],
    ]
    .concat();
    let mut sealed = vec![0; 256];
    let length = b.sealer().expect("confirmed").seal(&packet, &mut sealed);
    let (opened, plain) = carry(&mut a, &sealed[..length]);
    assert_eq!(
        opened,
        Opened::Packet {
            length: 20,
            source: [10, 0, 0, 1].into()
        }
    );
    assert_eq!(plain, packet);
    assert_eq!(
        carry(&mut a, &sealed[..length]).0,
        Opened::Refused,
        "a second time"
    );
}

#[test]
fn an_older_initiation_is_stale() {
    let (mut a, mut b) = pair();
    let (older, newer) = (initiation(&mut a), initiation(&mut a));
    assert!(matches!(carry(&mut b, &newer).0, Opened::Answer { .. }));
    assert_eq!(carry(&mut b, &newer).0, Opened::Stale, "replayed");
    assert_eq!(carry(&mut b, &older).0, Opened::Stale, "late");
}

#[test]
fn another_preshared_key_never_makes_a_session() {
    let (mut a, _) = pair();
    let mut b = Protocol::new(&Door::new(B), public(A), [8; 32], 2);
    let (opened, answer) = carry(&mut b, &initiation(&mut a));
    assert!(
        matches!(opened, Opened::Answer { .. }),
        "the initiation does not show the key"
    );
    assert_eq!(carry(&mut a, &answer).0, Opened::Refused);
    assert!(a.sealer().is_none() && b.sealer().is_none());
}

#[test]
fn messages_are_told_by_type_and_length() {
    let message = |kind: u8, length: usize| {
        let mut datagram = vec![0; length];
        datagram[0] = kind;
        datagram[4..8].copy_from_slice(&0x0001_0203u32.to_le_bytes());
        Message::of(&datagram)
    };
    assert_eq!(message(1, 148), Some(Message::Initiation));
    assert_eq!(message(2, 92), Some(Message::Response { index: 0 }));
    assert_eq!(message(3, 64), Some(Message::Cookie { index: 0x0102 }));
    assert_eq!(message(4, 32), Some(Message::Data { index: 0x0102 }));
    assert_eq!(message(4, 65_000), Some(Message::Data { index: 0x0102 }));
    for (kind, length) in [
        (1, 147),
        (1, 149),
        (2, 91),
        (3, 65),
        (4, 31),
        (0, 148),
        (5, 148),
        (0xe8, 400),
    ] {
        assert_eq!(message(kind, length), None, "type {kind}, {length} bytes");
    }
    assert_eq!(Message::of(&[4, 0, 0]), None);
    assert_eq!(Message::of(&[]), None);
}

#[test]
fn the_door_reads_the_sender_and_asks_for_cookies_when_many_come() {
    let (mut a, _) = pair();
    let door = Door::new(B);
    let mut reply = [0; HANDSHAKE];
    let source: IpAddr = "192.0.2.1".parse().expect("an address");
    let first = initiation(&mut a);
    assert_eq!(door.sender(&first), Some(public(A)));
    assert_eq!(Door::new(A).sender(&first), None, "meant for another key");
    assert_eq!(
        Door::new(A).admit(source, &first, &mut reply),
        Admission::Refused
    );
    for _ in 0..HANDSHAKES_PER_SECOND {
        assert_eq!(door.admit(source, &first, &mut reply), Admission::Pass);
    }
    assert_eq!(
        door.admit(source, &first, &mut reply),
        Admission::Cookie(64)
    );
    // Who returns the cookie is let through; the same bytes from another address are not.
    assert_eq!(carry(&mut a, &reply[..64]).0, Opened::Cookie);
    let second = initiation(&mut a);
    assert_eq!(door.admit(source, &second, &mut reply), Admission::Pass);
    let elsewhere: IpAddr = "192.0.2.2".parse().expect("an address");
    assert_eq!(
        door.admit(elsewhere, &second, &mut reply),
        Admission::Cookie(64)
    );
}

/// A cookie is no licence: whoever has one, or has overheard a message with one, must leave time for the others.
#[test]
fn a_source_with_a_cookie_is_limited_and_no_other_is() {
    let (mut a, _) = pair();
    let door = Door::new(B);
    let mut reply = [0; HANDSHAKE];
    let flooder: IpAddr = "192.0.2.1".parse().expect("an address");
    let first = initiation(&mut a);
    while door.admit(flooder, &first, &mut reply) == Admission::Pass {}
    assert_eq!(carry(&mut a, &reply[..64]).0, Opened::Cookie);
    let second = initiation(&mut a);
    let start = Instant::now();
    let passed = (0..2000)
        .filter(|_| match door.admit(flooder, &second, &mut reply) {
            Admission::Pass => true,
            Admission::Often => false,
            other => panic!("its cookie is valid: {other:?}"),
        })
        .count();
    // A burst of five and twenty a second; a busy machine takes its time.
    let most = 6 + start.elapsed().as_millis() as usize / 50;
    assert!((5..=most).contains(&passed), "{passed} of {most}");

    let other: IpAddr = "192.0.2.2".parse().expect("an address");
    let mut b = Protocol::new(&Door::new([0x33; 32]), public(B), PSK, 3);
    let third = initiation(&mut b);
    assert_eq!(door.admit(other, &third, &mut reply), Admission::Cookie(64));
    assert_eq!(carry(&mut b, &reply[..64]).0, Opened::Cookie);
    let fourth = initiation(&mut b);
    assert_eq!(door.admit(other, &fourth, &mut reply), Admission::Pass);
    door.new_second();
    assert_eq!(
        door.admit(flooder, &second, &mut reply),
        Admission::Pass,
        "no load, no limit"
    );
}

/// RFC 6479's sliding window, 1024 wide here as in the kernel: late is fine, twice or too late is not.
#[test]
fn the_replay_window_takes_each_once_and_not_too_late() {
    let (mut a, mut b) = pair();
    connect(&mut a, &mut b);
    let packet = [
        &[0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1][..],
        &[10, 0, 0, 2],
    ]
    .concat();
    let sealed: Vec<Vec<u8>> = (0..3000)
        .map(|_| {
            let mut out = vec![0; 256];
            let length = a.sealer().expect("a session").seal(&packet, &mut out);
            out.truncate(length);
            out
        })
        .collect();
    let counters: Vec<&[u8]> = sealed.iter().map(|datagram| &datagram[8..16]).collect();
    assert!(counters.windows(2).all(|pair| pair[0] != pair[1]));
    let mut open = |number: usize| carry(&mut b, &sealed[number]).0;
    let taken = |opened: &Opened| matches!(opened, Opened::Packet { .. });
    for number in [0, 5, 3, 4, 1, 2, 999] {
        assert!(taken(&open(number)), "{number} out of order");
        assert_eq!(open(number), Opened::Refused, "{number} again");
    }
    assert!(taken(&open(998 - 900)), "late by nine hundred");
    assert!(taken(&open(2999)));
    for number in [6, 999, 1000, 1500] {
        assert_eq!(open(number), Opened::Refused, "{number} is far too late");
    }
    for number in 2100..2999 {
        assert!(taken(&open(number)), "{number} is not");
    }
    assert_eq!(open(2500), Opened::Refused);
}

/// What boringtun's `Tunn` seals as data, whoever asks for it, has a counter of its own.
#[test]
fn no_counter_is_used_twice_also_over_renewals() {
    let (mut a, mut b) = pair();
    let mut seen = std::collections::HashSet::new();
    for _ in 0..5 {
        connect(&mut a, &mut b);
        for side in [&mut a, &mut b] {
            for _ in 0..100 {
                let mut out = [0; HANDSHAKE];
                let length = side.sealer().expect("a session").seal(&[], &mut out);
                assert_eq!(length, OVERHEAD);
                // The receiver's index and the counter, which the nonce is made of.
                assert!(seen.insert(out[4..16].to_vec()));
            }
        }
    }
    assert_eq!(seen.len(), 1000);
}
