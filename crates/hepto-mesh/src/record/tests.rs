use super::*;
use proptest::prelude::*;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

fn cluster() -> ClusterName {
    "acides".parse().expect("a name")
}

fn identity() -> Identity {
    Identity::generate(&mut ChaCha20Rng::seed_from_u64(5))
}

fn sample() -> Content {
    let identity = identity();
    Content {
        attempt: 1,
        flags: FLAG_SETTLED,
        name: "grumpy".parse().expect("a name"),
        sequence: Sequence {
            start: 2,
            change: 3,
        },
        endpoints: vec![
            Endpoint::new(
                EndpointKind::Interface,
                "192.168.1.5:51820".parse().expect("an address"),
            ),
            Endpoint::new(
                EndpointKind::Interface,
                "[2001:db8::5]:51820".parse().expect("an address"),
            ),
        ],
        key_ids: [0xfe, 0xfe],
        mtu: 1320,
        identity: identity.public(),
        wireguard: identity.wireguard_public(),
        tail: vec![1, 2, 0xaa, 0xbb],
    }
}

#[test]
fn the_layout_is_golden() {
    let record = Record::sign(sample(), &cluster(), &identity());
    let hex: String = record
        .raw()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    insta::assert_snapshot!(hex, @"01010001066772756d707900000002000000030224ca6c00000000000000000000ffffc0a8010526ca6c20010db8000000000000000000000005fefe052828efc3482f82cb499b8687a5f93550cf98e007a9624e75ae54b8ae4219f07431861c35146b63dae4efd56e5f3435ef4ab4e81630c317b7f0fa52fc17e791da0c040102aabb8a1adf7575dd807566e04a706717cc818a40571c61a2504a70d36a63ea82621f0b5374b0a79de263c340dcfe0b03270c0905dd993dfe048c3bca148dc946280e");
}

#[test]
fn the_largest_record_is_as_long_as_planned() {
    let mut content = sample();
    content.name = "a".repeat(63).parse().expect("a name");
    content.endpoints = (1..=8)
        .map(|port| {
            Endpoint::new(
                EndpointKind::Observed,
                SocketAddr::new([192, 0, 2, 1].into(), port),
            )
        })
        .collect();
    content.tail = [vec![1, 62], vec![0; 62]].concat();
    let record = Record::sign(content, &cluster(), &identity());
    assert_eq!(record.raw().len(), RECORD_MAX);
    assert_eq!(
        Record::open(record.raw(), &cluster()).expect("itself"),
        record
    );
}

#[test]
fn no_bit_can_be_changed() {
    let record = Record::sign(sample(), &cluster(), &identity());
    for bit in 0..record.raw().len() * 8 {
        let mut raw = record.raw().to_vec();
        raw[bit / 8] ^= 1 << (bit % 8);
        assert!(Record::open(&raw, &cluster()).is_err(), "bit {bit}");
    }
    for length in 0..record.raw().len() {
        assert!(
            Record::open(&record.raw()[..length], &cluster()).is_err(),
            "cut to {length}"
        );
    }
    assert!(Record::open(&[record.raw(), &[0]].concat(), &cluster()).is_err());
    assert_eq!(
        Record::open(record.raw(), &"bases".parse().expect("a name")),
        Err(RecordError::Signature)
    );
}

#[test]
fn only_one_form_is_accepted() {
    let refused = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut raw = Record::sign(sample(), &cluster(), &identity())
            .raw()
            .to_vec();
        change(&mut raw);
        Unverified::parse(&raw).expect_err("refused")
    };
    let endpoints = 4 + 7 + 8 + 1;
    assert_eq!(refused(&|raw| raw[0] = 2), RecordError::Version(2));
    assert!(refused(&|raw| raw[5] = b'G').to_string().contains("name"));
    assert!(
        refused(&|raw| raw[endpoints] = 0x26)
            .to_string()
            .contains("endpoint")
    );
    assert!(
        refused(&|raw| raw[endpoints] = 0x44)
            .to_string()
            .contains("endpoint")
    );
    assert!(
        refused(&|raw| raw[endpoints - 1] = 9)
            .to_string()
            .contains("8 endpoints")
    );
}

#[test]
fn endpoints_out_of_order_or_twice_are_refused() {
    let mut content = sample();
    content.endpoints.reverse();
    let raw = [encode(&content), vec![0; 64]].concat();
    assert!(
        Unverified::parse(&raw)
            .expect_err("order")
            .to_string()
            .contains("order")
    );
    content.endpoints[1] = content.endpoints[0];
    let raw = [encode(&content), vec![0; 64]].concat();
    assert!(
        Unverified::parse(&raw)
            .expect_err("twice")
            .to_string()
            .contains("order")
    );
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    let kind = prop_oneof![
        Just(EndpointKind::Configured),
        Just(EndpointKind::Interface),
        Just(EndpointKind::Observed)
    ];
    (kind, any::<IpAddr>(), 1u16..)
        .prop_map(|(kind, ip, port)| Endpoint::new(kind, SocketAddr::new(ip, port)))
}

prop_compose! {
    fn content()(
        attempt: u8, flags: u16, name in "[a-z][a-z0-9]{0,62}", sequence: u64,
        endpoints in proptest::collection::btree_set(endpoint(), 0..=8),
        key_ids: [u8; 2], mtu in 1280u16.., wireguard in proptest::array::uniform32(1u8..),
        value in proptest::collection::vec(any::<u8>(), 0..=62),
    ) -> Content {
        Content {
            attempt, flags, name: name.parse().expect("a name"), sequence: sequence.into(),
            endpoints: endpoints.into_iter().collect(), key_ids, mtu, identity: identity().public(), wireguard,
            tail: [vec![9, value.len() as u8], value].concat(),
        }
    }
}

proptest! {
    #[test]
    fn records_survive_the_wire(content in content()) {
        let record = Record::sign(content.clone(), &cluster(), &identity());
        let read = Record::open(record.raw(), &cluster()).expect("itself");
        prop_assert_eq!(read.content(), &content);
    }

    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
        prop_assert!(Record::open(&bytes, &cluster()).is_err());
    }

    #[test]
    fn damage_never_panics_nor_passes(content in content(), at: prop::sample::Index, byte: u8) {
        let mut raw = Record::sign(content, &cluster(), &identity()).raw().to_vec();
        let at = at.index(raw.len());
        prop_assume!(raw[at] != byte);
        raw[at] = byte;
        prop_assert!(Record::open(&raw, &cluster()).is_err());
    }
}
