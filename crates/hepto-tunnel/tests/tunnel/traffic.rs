//! What passes, and what does not.

use std::time::{Duration, Instant};

use crate::home::{MTU, PSK, SOON, config, pair, receive, strangers, wait};

#[test]
fn packets_of_both_families_pass_both_ways() {
    let (a, b) = pair();
    assert!(a.reaches(&b, SOON) && b.reaches(&a, SOON));
    let counted = || {
        let (there, back) = (a.report(2), b.report(1));
        let least = there.tx_packets >= 2 && there.rx_packets >= 2;
        least && (there.tx_bytes, there.rx_bytes) == (back.rx_bytes, back.tx_bytes)
    };
    wait("both to count the same", SOON, counted);
    let there = a.report(2);
    assert_eq!(there.endpoint, "192.0.2.2:51820".parse().ok());
    wait("the sum", SOON, || {
        a.tunnel.counters().tx_packets == there.tx_packets
    });
}

#[test]
fn every_size_up_to_the_mtu_passes_whole_over_either_family() {
    for wire in ["192.0.2.2:51820", "[2001:db8::2]:51820"] {
        let (a, b) = strangers();
        a.connect(2, wire);
        assert!(a.reaches(&b, SOON));
        let (from, to) = (a.home.udp("10.44.0.1:0"), b.home.udp("10.44.0.2:7000"));
        to.set_read_timeout(Some(SOON)).expect("a timeout");
        let mut buffer = vec![0; 2048];
        for length in [0, 1, 2, 15, 16, 17, 100, 1000, MTU - 29, MTU - 28] {
            let payload: Vec<u8> = (0..length).map(|n| n as u8).collect();
            from.send_to(&payload, "10.44.0.2:7000").expect("it fits");
            let (received, _) = receive(&to, &mut buffer).expect("it arrives");
            assert_eq!(
                &buffer[..received],
                &payload[..],
                "{length} bytes over {wire}"
            );
        }
        // One byte more is two fragments, each a packet of its own.
        let payload = vec![7; MTU - 27];
        from.send_to(&payload, "10.44.0.2:7000")
            .expect("it is fragmented");
        assert_eq!(
            receive(&to, &mut buffer).expect("both arrive").0,
            payload.len()
        );
    }
}

#[test]
fn an_inner_source_that_is_not_the_senders_is_dropped() {
    let (a, b) = pair();
    a.home.ip("addr add 10.44.0.77/16 dev hepto0");
    let (liar, honest) = (a.home.udp("10.44.0.77:0"), a.home.udp("10.44.0.1:0"));
    let to = b.home.udp("10.44.0.2:7000");
    to.set_read_timeout(Some(SOON)).expect("a timeout");
    for _ in 0..3 {
        liar.send_to(b"lie", "10.44.0.2:7000").expect("sent");
    }
    honest.send_to(b"truth", "10.44.0.2:7000").expect("sent");
    let mut buffer = [0; 16];
    let (length, from) = receive(&to, &mut buffer).expect("the honest one arrives");
    assert_eq!(
        (&buffer[..length], from.ip().to_string().as_str()),
        (&b"truth"[..], "10.44.0.1")
    );
    wait("the count", SOON, || b.tunnel.counters().spoofed == 3);
    wait("the count", SOON, || b.report(1).rx_packets == 1);

    let mut wider = config(1, PSK);
    wider
        .allowed_ips
        .push("10.44.0.77/32".parse().expect("a network"));
    b.tunnel.set_peer(wider);
    liar.send_to(b"mine", "10.44.0.2:7000").expect("sent");
    assert_eq!(receive(&to, &mut buffer).expect("allowed now").0, 4);
}

#[test]
fn packets_to_nobody_are_counted() {
    let (a, _b) = pair();
    let socket = a.home.udp("10.44.0.1:0");
    // The kernel's own multicast counts too, so many are sent.
    let before = a.tunnel.counters().no_peer;
    for _ in 0..50 {
        socket.send_to(b"x", "10.44.9.9:1").expect("sent");
    }
    wait("the count", SOON, || {
        a.tunnel.counters().no_peer >= before + 50
    });
}

#[test]
fn other_datagrams_go_to_the_sink_and_are_answered() {
    let (a, b) = pair();
    // The set of peers' addresses is as old as the last tick.
    std::thread::sleep(Duration::from_millis(600));
    let stranger = a.home.udp("192.0.2.1:7777");
    stranger
        .send_to(b"\xe8hello", "192.0.2.2:51820")
        .expect("sent");
    a.tunnel
        .messenger()
        .send(
            b"\xe8peer",
            "192.0.2.2:51820".parse().expect("an address"),
            None,
        )
        .expect("sent");
    // Not WireGuard either: a type with the wrong length.
    stranger
        .send_to(&[1, 0, 0, 0, 9], "[::ffff:192.0.2.2]:51820")
        .err();
    stranger
        .send_to(&[1, 0, 0, 0, 9], "192.0.2.2:51820")
        .expect("sent");
    wait("three datagrams", SOON, || {
        b.heard.lock().expect("no panic").len() >= 3
    });
    let heard = b.heard.lock().expect("no panic").clone();
    let to = "192.0.2.2".parse().ok();
    assert!(heard.contains(&(
        b"\xe8hello".to_vec(),
        "192.0.2.1:7777".parse().expect("an address"),
        to,
        false
    )));
    assert!(heard.contains(&(
        b"\xe8peer".to_vec(),
        "192.0.2.1:51820".parse().expect("an address"),
        to,
        true
    )));
    assert!(heard.iter().any(|(bytes, ..)| bytes == &[1, 0, 0, 0, 9]));

    stranger.set_read_timeout(Some(SOON)).expect("a timeout");
    b.tunnel
        .messenger()
        .send(b"answer", "192.0.2.1:7777".parse().expect("an address"), to)
        .expect("sent");
    let mut buffer = [0; 16];
    let (length, from) = receive(&stranger, &mut buffer).expect("the answer");
    assert_eq!(
        (&buffer[..length], from),
        (
            &b"answer"[..],
            "192.0.2.2:51820".parse().expect("an address")
        )
    );
}

#[test]
fn a_flood_of_garbage_stops_nothing() {
    let (a, b) = pair();
    let attacker = a.home.udp("192.0.2.1:6666");
    let end = Instant::now() + Duration::from_secs(3);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = 0x9e37_79b9_7f4a_7c15u64;
            while Instant::now() < end {
                for length in [0usize, 1, 3, 4, 31, 32, 64, 92, 148, 400, 1400] {
                    let mut datagram = vec![0; length];
                    for byte in &mut datagram {
                        random = random
                            .wrapping_mul(6_364_136_223_846_793_005)
                            .wrapping_add(1);
                        *byte = (random >> 56) as u8;
                    }
                    if length > 4 {
                        datagram[..4].copy_from_slice(&[(random >> 40) as u8 % 6, 0, 0, 0]);
                    }
                    // The other end's buffer may be full: that is the point.
                    let _ = attacker.send_to(&datagram, "192.0.2.2:51820");
                }
            }
        });
        while Instant::now() < end {
            assert!(a.reaches(&b, SOON) && b.reaches(&a, SOON));
        }
    });
    let counters = b.tunnel.counters();
    assert!(
        counters.sink > 1000 && counters.handshakes_refused > 100,
        "{counters:?}"
    );
    assert_eq!(b.report(1).endpoint, "192.0.2.1:51820".parse().ok());
}
