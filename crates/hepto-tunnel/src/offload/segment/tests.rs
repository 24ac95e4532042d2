use proptest::prelude::*;

use super::*;
use crate::offload::flow::Make;

fn segments(header: &Header, packet: &mut [u8]) -> Vec<Vec<u8>> {
    let mut segments = Segments::new(header, packet).expect("well formed");
    std::iter::from_fn(|| segments.next().map(<[u8]>::to_vec)).collect()
}

/// The header that the kernel puts before such a packet, and the packet with the checksum that it leaves.
fn large(make: &Make, segment: u16) -> (Header, Vec<u8>) {
    let mut packet = make.packet();
    let transport = if make.v6 { 40 } else { 20 };
    let (protocol, field) = if make.udp { (17, 6) } else { (6, 16) };
    let pseudo = checksum::fold(checksum::pseudo(
        &packet,
        protocol,
        packet.len() - transport,
    ));
    packet[transport + field..transport + field + 2].copy_from_slice(&pseudo.to_ne_bytes());
    let gso = match (make.udp, make.v6) {
        (true, _) => Gso::Udp,
        (false, true) => Gso::Tcp6,
        (false, false) => Gso::Tcp4,
    };
    let checksum = Some((transport as u16, field as u16));
    (
        Header {
            gso,
            segment,
            checksum,
            length: 0,
        },
        packet,
    )
}

proptest! {
    /// Each segment is what the sender would have sent, had it cut the data itself.
    #[test]
    fn segments_are_what_the_sender_would_have_sent(
        v6 in any::<bool>(), udp in any::<bool>(), flags in prop::sample::select(vec![0x10u8, 0x18, 0x11, 0x90, 0x99, 0x58]),
        options in prop::sample::select(vec![0usize, 12, 40]), sequence in any::<u32>(), identification in any::<u16>(),
        length in 1usize..6000, segment in 1usize..1500, class in any::<u8>(), dont_fragment in any::<bool>(),
    ) {
        // The kernel never makes more.
        let segment = segment.max(length / 100);
        let payload: Vec<u8> = (0..length).map(|n| (n * 31 / 8) as u8).collect();
        let whole = Make {
            v6, udp, flags, sequence, identification, class, dont_fragment,
            options: if udp { vec![] } else { vec![1; options] }, payload, ..Make::default()
        };
        let (header, mut packet) = large(&whole, segment as u16);
        let chunks: Vec<&[u8]> = whole.payload.chunks(segment).collect();
        let expected: Vec<Vec<u8>> = chunks.iter().enumerate().map(|(number, chunk)| {
            let mut flags = whole.flags;
            if number + 1 < chunks.len() { flags &= !0x09; }
            if number > 0 { flags &= !0x80; }
            Make {
                flags, payload: chunk.to_vec(),
                sequence: sequence.wrapping_add((number * segment) as u32),
                identification: identification.wrapping_add(number as u16),
                ..whole.clone()
            }.packet()
        }).collect();
        prop_assert_eq!(segments(&header, &mut packet), expected);
    }

    /// Whatever the header says of whatever bytes: an error or segments, never a panic.
    #[test]
    fn nonsense_is_refused_or_cut(
        gso in prop::sample::select(vec![Gso::None, Gso::Tcp4, Gso::Tcp6, Gso::Udp]), segment in any::<u16>(),
        checksum in prop::option::of((0u16..200, 0u16..40)), first in prop::sample::select(vec![0x45u8, 0x4f, 0x60, 0x40]),
        mut packet in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        if let Some(byte) = packet.first_mut() { *byte = first; }
        let header = Header { gso, segment: segment.max(1), checksum, length: 0 };
        if let Ok(mut segments) = Segments::new(&header, &mut packet) {
            while segments.next().is_some() {}
        }
    }
}

#[test]
fn a_packet_that_is_not_to_be_cut_gets_its_checksum() {
    for udp in [false, true] {
        let make = Make {
            udp,
            payload: b"odd".to_vec(),
            ..Make::default()
        };
        let (header, mut packet) = large(&make, 0);
        let header = Header {
            gso: Gso::None,
            ..header
        };
        assert_eq!(segments(&header, &mut packet), vec![make.packet()]);
        let mut whole = make.packet();
        assert_eq!(segments(&Header::PLAIN, &mut whole), vec![make.packet()]);
    }
}

#[test]
fn extension_headers_stay_on_every_segment() {
    // A hop-by-hop header of eight bytes between IPv6 and TCP.
    let make = Make {
        v6: true,
        payload: vec![5; 100],
        ..Make::default()
    };
    let (header, mut packet) = large(&make, 60);
    packet.splice(40..40, [6, 0, 1, 4, 0, 0, 0, 0]);
    packet[6] = 0;
    let header = Header {
        checksum: Some((48, 16)),
        ..header
    };
    let cut = segments(&header, &mut packet);
    assert_eq!(
        cut.iter().map(Vec::len).collect::<Vec<_>>(),
        [48 + 20 + 60, 48 + 20 + 40]
    );
    for segment in cut {
        assert_eq!(&segment[40..48], &[6, 0, 1, 4, 0, 0, 0, 0]);
        assert_eq!(
            usize::from(u16::from_be_bytes([segment[4], segment[5]])),
            segment.len() - 40
        );
        let pseudo = checksum::pseudo(&segment, 6, segment.len() - 48);
        assert_eq!(
            checksum::fold(checksum::sum(pseudo, &segment[48..])),
            0xffff
        );
    }
}
