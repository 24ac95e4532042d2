//! First contact: how many round trips, and what stands in its way.

use std::net::SocketAddr;

use hepto_mesh::core::{Anchor, AnchorState, Input, Notice};
use hepto_mesh::record::{Endpoint, EndpointKind};

use crate::node::Nat;
use crate::seeds;
use crate::world::{World, millis, name, seconds};

/// One way takes 50 ms: a round trip 100.
fn steady(mut world: World) -> World {
    world.latency = (50, 50);
    world
}

#[test]
fn first_packet_within_four_round_trips() {
    let mut world = steady(World::cluster(1, 2, 1));
    world.boot(0);
    world.pass(seconds(60));
    world.boot(1);
    let time = world.within(millis(400), "first contact", |world| world.connected(0, 1));
    assert!(
        time > millis(300),
        "faster than the messages allow: {time:?}"
    );
}

#[test]
fn nodes_that_learn_of_each_other_from_an_anchor_meet_in_four_more() {
    let mut world = steady(World::cluster(2, 10, 1));
    for node in 0..9 {
        world.boot(node);
    }
    world.pass(seconds(60));
    assert!(world.all_connected(&world.running()));
    world.boot(9);
    // Anchor: 4 round trips, of which the records need the first 2.5; then 4 with each of the others.
    let all: Vec<usize> = (0..10).collect();
    world.within(millis(800), "all peers", |world| world.all_connected(&all));
}

#[test]
fn all_at_once_are_up_within_a_second_on_a_lan() {
    seeds(5, |seed| {
        let mut world = World::cluster(seed, 3, 1);
        world.latency = (0, 1);
        let all = [0, 1, 2];
        for node in all {
            world.boot(node);
        }
        world.within(seconds(1), "three nodes", |world| world.all_connected(&all));
    });
}

#[test]
fn a_dead_first_endpoint_costs_no_more() {
    let contact = |dead: &[&str]| {
        let mut world = steady(World::cluster(3, 3, 1));
        world.nodes[1].settings.endpoints = dead
            .iter()
            .map(|text| text.parse().expect("an address"))
            .collect();
        world.boot(0);
        world.boot(1);
        world.pass(seconds(30));
        world.boot(2);
        world.within(seconds(5), "contact", |world| world.connected(1, 2))
    };
    assert_eq!(
        contact(&[]),
        contact(&["203.0.113.1:9", "203.0.113.2:9", "203.0.113.3:9"])
    );
}

#[test]
fn a_restarted_node_is_back_within_three_seconds() {
    seeds(5, |seed| {
        let mut world = World::cluster(seed, 4, 1);
        (0..4).for_each(|node| world.boot(node));
        world.within(seconds(5), "start", |world| {
            world.all_connected(&[0, 1, 2, 3])
        });
        world.pass(seconds(20));
        world.kill(2);
        world.pass(millis(500));
        world.boot(2);
        world.within(seconds(3), "return", |world| {
            world.all_connected(&[0, 1, 2, 3])
        });
        (0..4).for_each(|node| world.kill(node));
        (0..4).for_each(|node| world.boot(node));
        world.within(seconds(3), "return of all", |world| {
            world.all_connected(&[0, 1, 2, 3])
        });
    });
}

#[test]
fn a_restarted_node_with_a_clock_of_1970_is_back_within_ten_seconds() {
    seeds(5, |seed| {
        let mut world = World::cluster(seed, 3, 1);
        (0..3).for_each(|node| world.boot(node));
        world.within(seconds(5), "start", |world| world.all_connected(&[0, 1, 2]));
        world.pass(seconds(20));
        world.kill(2);
        world.nodes[2].clock = seconds(0);
        world.boot(2);
        world.within(seconds(10), "return", |world| {
            world.all_connected(&[0, 1, 2])
        });
    });
}

#[test]
fn an_anchor_by_name_is_resolved_and_followed() {
    let mut world = World::cluster(4, 2, 0);
    world.nodes[1].settings.anchors = vec![Anchor {
        host: "sleepy.example.org".into(),
        port: 51820,
    }];
    world.boot(0);
    world.boot(1);
    world.pass(seconds(5));
    let now = world.now;
    assert_eq!(
        world.nodes[1].report(now).anchors[0].state,
        AnchorState::Unresolved
    );
    world
        .names
        .insert("sleepy.example.org".into(), vec![World::address(0)]);
    world.within(seconds(36), "the name resolves later", |world| {
        world.connected(0, 1)
    });
    let now = world.now;
    assert_eq!(
        world.nodes[1].report(now).anchors[0].state,
        AnchorState::Answers
    );
}

#[test]
fn an_anchor_is_silent_only_when_it_had_time_to_answer() {
    let mut world = World::cluster(4, 2, 1);
    let state = |world: &World| world.nodes[1].report(world.now).anchors[0].state;
    let addresses = std::mem::take(&mut world.nodes[1].addresses);
    world.boot(1);
    // Without an uplink nobody is asked, however long that lasts.
    world.pass(seconds(60));
    assert_eq!(state(&world), AnchorState::Unasked);
    world.readdress(1, addresses);
    world.pass(seconds(1));
    assert_eq!(state(&world), AnchorState::Unasked);
    world.pass(seconds(4));
    assert_eq!(state(&world), AnchorState::Silent);
    world.boot(0);
    world.within(seconds(5), "contact", |world| world.connected(0, 1));
    assert_eq!(state(&world), AnchorState::Answers);
    // One that has answered before is silent when it no longer does.
    world.kill(0);
    world.pass(seconds(70));
    assert_eq!(state(&world), AnchorState::Silent);
}

#[test]
fn being_ones_own_anchor_is_nothing_to_complain_of() {
    let mut world = World::cluster(5, 1, 1);
    // Through a router that loops back: the address is not the uplink's, so only the boot id tells.
    let public: SocketAddr = "203.0.113.9:51820".parse().expect("an address");
    world.nodes[0].settings.anchors.push(Anchor {
        host: "203.0.113.9".into(),
        port: 51820,
    });
    world.nodes[0].addresses.push(public.ip());
    world.boot(0);
    world.nodes[0].addresses.truncate(1);
    world.readdress(0, vec![World::address(0).ip()]);
    world.pass(millis(50));
    world.nodes[0].addresses.push(public.ip());
    world.pass(seconds(60));
    let now = world.now;
    let states: Vec<AnchorState> = world.nodes[0]
        .report(now)
        .anchors
        .iter()
        .map(|anchor| anchor.state)
        .collect();
    assert_eq!(states, [AnchorState::Myself, AnchorState::Myself]);
    assert_eq!(world.nodes[0].notices, []);
    assert!(world.nodes[0].report(now).counters.own > 0);
}

#[test]
fn a_master_whose_only_anchor_is_itself_behind_a_router_has_nothing_to_complain_of() {
    let mut world = World::cluster(5, 2, 0);
    let public: SocketAddr = "203.0.113.9:51820".parse().expect("an address");
    world.names.insert("home.example.org".into(), vec![public]);
    world.nodes[0].settings.anchors = vec![Anchor {
        host: "home.example.org".into(),
        port: 51820,
    }];
    world.boot(0);
    world.pass(seconds(60));
    assert_eq!(world.nodes[0].notices, []);
    // Another node says to be there, is met by another way, and goes.
    world.nodes[1].settings.endpoints = vec![public];
    world.nodes[1].settings.anchors = vec![Anchor {
        host: World::address(0).ip().to_string(),
        port: 51820,
    }];
    world.boot(1);
    world.within(seconds(20), "contact", |world| world.connected(0, 1));
    world.kill(1);
    world.pass(seconds(300));
    let codes: Vec<_> = world.nodes[0].notices.iter().map(Notice::code).collect();
    assert_eq!(codes, ["E-MESH-ANCHORS"]);
}

#[test]
fn an_address_that_leads_here_by_the_configuration_is_ones_own() {
    let mut world = World::cluster(5, 2, 0);
    let public: SocketAddr = "203.0.113.9:51820".parse().expect("an address");
    let names = [public, World::address(1)].map(|address| Anchor {
        host: address.ip().to_string(),
        port: address.port(),
    });
    world.nodes[0].settings.anchors = names.to_vec();
    world.nodes[0].settings.endpoints = vec![public];
    world.boot(0);
    world.pass(seconds(60));
    let anchors = world.nodes[0].report(world.now).anchors;
    let states: Vec<AnchorState> = anchors.iter().map(|anchor| anchor.state).collect();
    assert_eq!(states, [AnchorState::Myself, AnchorState::Silent]);
    let said = world.nodes[0].notices[0].to_string();
    assert_eq!(said, "no anchor answers: 20.0.0.2:51820");
}

#[test]
fn no_anchor_answers_is_said_once_and_its_end_too() {
    let mut world = World::cluster(6, 2, 1);
    world.boot(1);
    world.pass(seconds(60));
    let said = |world: &World| {
        world.nodes[1]
            .notices
            .iter()
            .map(Notice::code)
            .collect::<Vec<_>>()
    };
    assert_eq!(said(&world), ["E-MESH-ANCHORS"]);
    world.boot(0);
    world.within(seconds(4), "contact", |world| world.connected(0, 1));
    assert_eq!(said(&world), ["E-MESH-ANCHORS", "I-MESH-ANCHOR"]);
    assert_eq!(world.nodes[0].notices, []);
}

#[test]
fn a_node_with_a_wrong_key_never_appears_and_disturbs_nobody() {
    for wanted in [false, true] {
        let mut world = World::cluster(7, 3, 1);
        world.boot(0);
        world.boot(1);
        let own = world.nodes[0].settings.keys.key_id;
        // A wrong key with another key id, then one that has the same by chance.
        let keys = (0..10_000).map(|number| format!("wrong{number:027}").parse().expect("a key"));
        let mut derived =
            keys.map(|key: hepto_mesh::key::OverlayKey| key.derive(&crate::world::cluster()));
        world.nodes[2].settings.keys = derived
            .find(|keys| (keys.key_id == own) == wanted)
            .expect("one in 256");
        world.boot(2);
        world.pass(seconds(120));
        let now = world.now;
        assert!(world.connected(0, 1));
        assert!(
            world.nodes[0]
                .report(now)
                .members
                .iter()
                .all(|member| member.name != name("n2"))
        );
        assert_eq!(world.nodes[2].report(now).members.len(), 0);
        let counters = world.nodes[0].report(now).counters;
        assert!(
            if wanted {
                counters.undecryptable
            } else {
                counters.foreign_key
            } > 10
        );
        let said = |node: usize| {
            world.nodes[node]
                .notices
                .iter()
                .map(Notice::code)
                .collect::<Vec<_>>()
        };
        assert_eq!(said(0), ["W-MESH-FOREIGN-KEY"]);
        assert_eq!(said(2), ["E-MESH-ANCHORS"]);
        assert!(
            world.nodes[2].notices[0]
                .fix()
                .expect("a fix")
                .contains("overlay_key_file")
        );
    }
}

#[test]
fn nodes_behind_two_nats_meet_at_their_observed_addresses() {
    let mut world = World::cluster(8, 5, 3);
    for (node, public) in [(3, "30.0.0.1"), (4, "30.0.0.2")] {
        world.nodes[node].addresses =
            vec![format!("192.168.{node}.2").parse().expect("an address")];
        world.nodes[node].nat = Some(Nat::new(public.parse().expect("an address"), false));
    }
    (0..5).for_each(|node| world.boot(node));
    world.within(seconds(60), "hole punched", |world| {
        world.all_connected(&[0, 1, 2, 3, 4])
    });
    let now = world.now;
    let own = world.nodes[3].report(now).own;
    let observed = Endpoint::new(
        EndpointKind::Observed,
        "30.0.0.1:40000".parse().expect("an address"),
    );
    assert!(own.endpoints.contains(&observed), "{:?}", own.endpoints);
}

#[test]
fn a_symmetric_nat_is_noticed() {
    let mut world = World::cluster(9, 4, 3);
    world.nodes[3].addresses = vec!["192.168.3.2".parse().expect("an address")];
    world.nodes[3].nat = Some(Nat::new("30.0.0.1".parse().expect("an address"), true));
    (0..4).for_each(|node| world.boot(node));
    world.pass(seconds(60));
    assert!(
        world.all_connected(&[0, 1, 2, 3]),
        "it can still call others"
    );
    let now = world.now;
    assert!(world.nodes[3].report(now).symmetric_nat);
    let codes: Vec<_> = world.nodes[3].notices.iter().map(Notice::code).collect();
    assert_eq!(codes, ["W-MESH-SYMMETRIC-NAT"]);
}

#[test]
fn traffic_that_waits_for_a_session_hurries_the_hello() {
    let asked = |wants: bool| {
        let mut world = World::cluster(10, 3, 1);
        (0..3).for_each(|node| world.boot(node));
        world.pass(seconds(30));
        world.kill(2);
        world.pass(seconds(900));
        world.tape = Some(Vec::new());
        for _ in 0..10 {
            let now = world.now;
            let mut sessions = world.nodes[0].tunnel.sessions(now);
            sessions
                .iter_mut()
                .for_each(|session| session.wants = wants);
            world.input(0, Input::Sessions(sessions));
            world.pass(seconds(1));
        }
        let tape = world.tape.take().expect("a tape").into_iter();
        tape.filter(|(from, to, _)| (*from, *to) == (World::address(0), World::address(2)))
            .count()
    };
    let (calm, hurried) = (asked(false), asked(true));
    assert!(calm <= 1 && (9..=11).contains(&hurried), "{calm} {hurried}");
}

#[test]
fn hellos_keep_their_times() {
    // HELLOs of n0 to the dead n2 in a minute, after `pause` seconds without it; beside a live n1 or alone.
    let asked = |alone: bool, pause: u64| {
        let mut world = World::cluster(11, 3, 0);
        let anchor = Anchor {
            host: World::address(0).ip().to_string(),
            port: 51820,
        };
        world.nodes[1].settings.anchors = vec![anchor.clone()];
        world.nodes[2].settings.anchors = vec![anchor];
        (0..3).for_each(|node| world.boot(node));
        world.within(seconds(5), "start", |world| world.all_connected(&[0, 1, 2]));
        world.kill(2);
        if alone {
            world.kill(1);
        }
        // The session has to run out first.
        world.pass(seconds(185 + pause));
        world.tape = Some(Vec::new());
        world.pass(seconds(60));
        let tape = world.tape.take().expect("a tape").into_iter();
        tape.filter(|(from, to, bytes)| {
            (*from, *to) == (World::address(0), World::address(2)) && bytes.len() >= 400
        })
        .count()
    };
    assert!((10..=14).contains(&asked(false, 0)), "each 5 s at first");
    assert!(
        (3..=5).contains(&asked(false, 600)),
        "each 15 s after ten minutes"
    );
    assert!((26..=35).contains(&asked(true, 0)), "each 2 s while alone");
    assert!(
        (26..=35).contains(&asked(true, 600)),
        "for as long as it is alone"
    );
}

#[test]
fn a_large_book_reaches_a_newcomer_in_seconds() {
    let mut world = World::cluster(12, 2, 1);
    let mut saved = hepto_mesh::core::Saved::default();
    for number in 0..120u32 {
        let identity = hepto_mesh::identity::Identity::generate(&mut world.rng);
        let host = std::net::Ipv4Addr::from(0x1e00_0000 + number);
        let endpoint = Endpoint::new(EndpointKind::Interface, SocketAddr::new(host.into(), 51820));
        let content = hepto_mesh::record::Content {
            attempt: 0,
            flags: 0,
            name: name(&format!("m{number}")),
            sequence: Default::default(),
            endpoints: vec![endpoint],
            key_ids: [0, 0],
            mtu: 1320,
            identity: identity.public(),
            wireguard: identity.wireguard_public(),
            tail: Vec::new(),
        };
        let record = hepto_mesh::record::Record::sign(content, &crate::world::cluster(), &identity);
        saved.members.push(hepto_mesh::core::SavedMember {
            record,
            idle: seconds(0),
        });
    }
    world.nodes[0].disk = saved.encode();
    world.boot(0);
    world.pass(seconds(20));
    world.boot(1);
    let all = |world: &World| world.nodes[1].report(world.now).members.len() == 121;
    world.within(seconds(2), "the whole book", all);
    assert!(
        !world.nodes[1].hosts.contains_key(&name("m0")),
        "one member's word is not enough for the hosts file"
    );
}

#[test]
fn a_peer_whose_clock_went_back_and_that_never_answers_is_only_asked() {
    let mut world = World::cluster(13, 2, 1);
    (0..2).for_each(|node| world.boot(node));
    world.within(seconds(5), "start", |world| world.connected(0, 1));
    world.kill(1);
    world.pass(seconds(300));
    let handshakes = world.nodes[0].handshakes;
    for _ in 0..10 {
        let now = world.now;
        let mut sessions = world.nodes[0].tunnel.sessions(now);
        sessions[0].stale_clock = true;
        world.input(0, Input::Sessions(sessions));
        world.pass(seconds(1));
    }
    assert_eq!(
        world.nodes[0].handshakes, handshakes,
        "there is no address that it has proved"
    );
}
