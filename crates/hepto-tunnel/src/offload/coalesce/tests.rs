use proptest::prelude::*;

use super::*;
use crate::offload::flow::Make;
use crate::offload::segment::Segments;

/// What the kernel is given for `packets`, in order: each as a header and one packet.
fn pass(packets: &[Vec<u8>], tcp: bool, udp: bool) -> Vec<(Header, Vec<u8>)> {
    let (mut buffer, mut ranges) = (Vec::new(), Vec::new());
    for packet in packets {
        ranges.push(buffer.len()..buffer.len() + packet.len());
        buffer.extend(packet);
    }
    let mut coalescer = Coalescer::new();
    let mut given = Vec::new();
    let mut flush = |coalescer: &mut Coalescer, buffer: &mut Vec<u8>| {
        if let Some(one) = coalescer.single() {
            given.push((Header::PLAIN, buffer[one].to_vec()));
        } else if let Some(joined) = coalescer.finish(buffer) {
            let header = Header::parse(&joined.header).expect("ours");
            given.push((
                header,
                joined
                    .pieces()
                    .flat_map(|piece| buffer[piece].to_vec())
                    .collect(),
            ));
            let before: Vec<u8> = packets.concat();
            coalescer.restore(buffer);
            assert_eq!(*buffer, before, "restored");
        }
        coalescer.clear();
    };
    for range in ranges {
        if !coalescer.add(&buffer, range.clone(), tcp, udp) {
            flush(&mut coalescer, &mut buffer);
            assert!(coalescer.add(&buffer, range, tcp, udp));
        }
    }
    flush(&mut coalescer, &mut buffer);
    given
}

/// Cuts what was given to the kernel again, as the kernel would.
fn cut(given: &[(Header, Vec<u8>)]) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    for (header, packet) in given {
        let mut packet = packet.clone();
        let mut segments = Segments::new(header, &mut packet).expect("well formed");
        while let Some(segment) = segments.next() {
            packets.push(segment.to_vec());
        }
    }
    packets
}

fn train(template: &Make, lengths: &[usize]) -> Vec<Vec<u8>> {
    let mut make = template.clone();
    lengths
        .iter()
        .map(|&length| {
            make.payload = (0..length).map(|n| n as u8).collect();
            let packet = make.packet();
            make.sequence = make.sequence.wrapping_add(length as u32);
            make.identification = make.identification.wrapping_add(1);
            packet
        })
        .collect()
}

fn joined(packets: &[Vec<u8>]) -> usize {
    pass(packets, true, true).len()
}

#[test]
fn a_train_is_one_packet_and_comes_apart_the_same() {
    for v6 in [false, true] {
        for udp in [false, true] {
            for dont_fragment in [false, true] {
                let make = Make {
                    v6,
                    udp,
                    dont_fragment,
                    ..Make::default()
                };
                let packets = train(&make, &[1200, 1200, 1200, 700]);
                let given = pass(&packets, true, true);
                assert_eq!(given.len(), 1, "{make:?}");
                assert_eq!(given[0].0.segment, 1200);
                assert_eq!(cut(&given), packets);
            }
        }
    }
}

#[test]
fn the_end_of_a_train_is_seen() {
    let make = Make {
        options: vec![1; 12],
        ..Make::default()
    };
    // A shorter segment ends a train, a longer one starts the next.
    assert_eq!(joined(&train(&make, &[1200, 700, 1200])), 2);
    assert_eq!(joined(&train(&make, &[700, 1200, 1200])), 2);
    // So do PSH and FIN, which the joined packet keeps.
    for flag in [PSH, FIN] {
        let mut packets = train(&make, &[1200, 1200]);
        packets.push(
            train(
                &Make {
                    flags: 0x10 | flag,
                    sequence: 3400,
                    identification: 9,
                    ..make.clone()
                },
                &[1200],
            )
            .remove(0),
        );
        packets.extend(train(
            &Make {
                sequence: 4600,
                identification: 10,
                ..make.clone()
            },
            &[1200, 1200],
        ));
        let given = pass(&packets, true, true);
        assert_eq!(given.len(), 2);
        assert_eq!(cut(&given), packets);
    }
}

#[test]
fn what_differs_does_not_join() {
    let base = Make::default();
    let second = Make {
        sequence: 2200,
        identification: 8,
        ..base.clone()
    };
    let differences: Vec<(&str, Make)> = vec![
        (
            "port",
            Make {
                port: 80,
                ..second.clone()
            },
        ),
        (
            "class",
            Make {
                class: 4,
                ..second.clone()
            },
        ),
        (
            "congestion seen",
            Make {
                class: 3,
                ..second.clone()
            },
        ),
        (
            "hop limit",
            Make {
                hops: 63,
                ..second.clone()
            },
        ),
        (
            "don't fragment",
            Make {
                dont_fragment: false,
                ..second.clone()
            },
        ),
        (
            "gap",
            Make {
                sequence: 2201,
                ..second.clone()
            },
        ),
        (
            "again",
            Make {
                sequence: 1000,
                ..second.clone()
            },
        ),
        (
            "acknowledgement",
            Make {
                acknowledgement: 78,
                ..second.clone()
            },
        ),
        (
            "window",
            Make {
                window: 501,
                ..second.clone()
            },
        ),
        (
            "flags",
            Make {
                flags: 0x30,
                ..second.clone()
            },
        ),
        (
            "congestion window reduced",
            Make {
                flags: 0x90,
                ..second.clone()
            },
        ),
        (
            "options",
            Make {
                options: vec![1; 4],
                ..second.clone()
            },
        ),
        (
            "identification",
            Make {
                identification: 9,
                ..second.clone()
            },
        ),
        (
            "family",
            Make {
                v6: true,
                ..second.clone()
            },
        ),
        (
            "protocol",
            Make {
                udp: true,
                ..second.clone()
            },
        ),
    ];
    let payload = vec![1; 1200];
    let packet = |make: &Make| {
        Make {
            payload: payload.clone(),
            ..make.clone()
        }
        .packet()
    };
    assert_eq!(joined(&[packet(&base), packet(&second)]), 1);
    for (what, make) in differences {
        assert_eq!(joined(&[packet(&base), packet(&make)]), 2, "{what}");
    }
    // Empty segments, and what opens or resets a connection.
    for flags in [0x02u8, 0x12, 0x04, 0x14, 0x38] {
        let (a, b) = (
            Make {
                flags,
                ..base.clone()
            },
            Make {
                flags,
                ..second.clone()
            },
        );
        assert_eq!(joined(&[packet(&a), packet(&b)]), 2, "flags {flags:#x}");
    }
    assert_eq!(
        joined(&[base.packet(), base.packet()]),
        2,
        "acknowledgements"
    );
}

#[test]
fn a_fixed_identification_joins_with_df_alone_and_never_with_a_rising_one() {
    let packet = |dont_fragment, identification, sequence| {
        Make {
            dont_fragment,
            identification,
            sequence,
            payload: vec![0; 100],
            ..Make::default()
        }
        .packet()
    };
    assert_eq!(
        joined(&[
            packet(true, 0, 0),
            packet(true, 0, 100),
            packet(true, 0, 200)
        ]),
        1
    );
    assert_eq!(
        joined(&[
            packet(true, 0, 0),
            packet(true, 0, 100),
            packet(true, 2, 200)
        ]),
        2
    );
    assert_eq!(
        joined(&[
            packet(true, 0, 0),
            packet(true, 1, 100),
            packet(true, 0, 200)
        ]),
        2
    );
    assert_eq!(joined(&[packet(false, 0, 0), packet(false, 0, 100)]), 2);
}

#[test]
fn a_wrong_checksum_joins_nothing_and_stays_wrong() {
    for broken in 0..3 {
        let mut packets = train(&Make::default(), &[500, 500, 500]);
        packets[broken][300] ^= 1;
        let given = pass(&packets, true, true);
        assert!(given.len() >= 2);
        assert_eq!(cut(&given), packets);
    }
    let mut packets = train(
        &Make {
            udp: true,
            ..Make::default()
        },
        &[500, 500],
    );
    packets.iter_mut().for_each(|packet| packet[26..28].fill(0));
    assert_eq!(joined(&packets), 2, "UDP without a checksum");
}

#[test]
fn what_is_not_plain_tcp_or_udp_passes_alone() {
    let fragment = |mut packet: Vec<u8>| {
        packet[6] = 0x20;
        packet
    };
    let icmp = |mut packet: Vec<u8>| {
        packet[9] = 1;
        packet
    };
    let options = |mut packet: Vec<u8>| {
        packet[0] = 0x46;
        packet
    };
    let packets = train(&Make::default(), &[500, 500]);
    for change in [&fragment as &dyn Fn(Vec<u8>) -> Vec<u8>, &icmp, &options] {
        let packets: Vec<_> = packets.iter().cloned().map(change).collect();
        assert_eq!(joined(&packets), 2);
    }
    let mut extended = train(
        &Make {
            v6: true,
            ..Make::default()
        },
        &[500, 500],
    );
    extended.iter_mut().for_each(|packet| packet[6] = 0);
    assert_eq!(joined(&extended), 2);
    assert_eq!(joined(&[vec![0x45; 20], vec![0x60; 40], vec![0x45]]), 3);
}

#[test]
fn each_kind_can_be_forbidden_and_trains_have_an_end() {
    let (tcp, udp) = (
        train(&Make::default(), &[100; 3]),
        train(
            &Make {
                udp: true,
                ..Make::default()
            },
            &[100; 3],
        ),
    );
    assert_eq!(
        (pass(&tcp, false, true).len(), pass(&udp, false, true).len()),
        (3, 1)
    );
    assert_eq!(
        (pass(&tcp, true, false).len(), pass(&udp, true, false).len()),
        (1, 3)
    );
    assert_eq!(joined(&train(&Make::default(), &[10; LONGEST + 1])), 2);
    let long = train(&Make::default(), &[1400; 60]);
    let given = pass(&long, true, true);
    assert!(given.iter().all(|(_, packet)| packet.len() <= 65_535) && given.len() == 2);
    assert_eq!(cut(&given), long);
}

proptest! {
    /// Any mixture of flows: cut again, it is what came in, in the same order.
    #[test]
    fn what_comes_apart_is_what_came_in(
        choices in prop::collection::vec((0usize..4, 0u8..8, prop::sample::select(vec![1usize, 200, 200, 200, 300])), 1..80),
        v6 in any::<bool>(), dont_fragment in any::<bool>(),
    ) {
        let mut flows: Vec<Make> = (0..4).map(|number| Make {
            v6, dont_fragment, udp: number == 3, port: 100 + number, identification: 65_530, ..Make::default()
        }).collect();
        let packets: Vec<Vec<u8>> = choices.iter().map(|&(flow, twist, length)| {
            let make = &mut flows[[0, 0, 1, 3][flow]];
            make.payload = vec![length as u8; length];
            make.flags = match twist { 0 => 0x18, 1 => 0x11, 2 => 0x90, _ => 0x10 };
            if twist == 3 { make.sequence = make.sequence.wrapping_add(1); }
            if twist == 4 { make.identification = make.identification.wrapping_add(1); }
            if twist == 5 { make.class ^= 3; }
            let packet = make.packet();
            make.sequence = make.sequence.wrapping_add(length as u32);
            make.identification = make.identification.wrapping_add(1);
            packet
        }).collect();
        prop_assert_eq!(cut(&pass(&packets, true, true)), packets);
    }
}
