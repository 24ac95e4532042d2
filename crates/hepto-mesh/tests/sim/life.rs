//! What happens to a cluster over time: cuts, moves, collisions, absence.

use hepto_mesh::address::{Addressing, Prefixes};
use hepto_mesh::core::{Input, Notice, Saved, Settings};
use hepto_mesh::name::NodeName;

use crate::node::Nat;
use crate::seeds;
use crate::tunnel::Tunnel;
use crate::world::{World, cluster, name, seconds};

fn up(seed: u64, number: usize) -> World {
    let mut world = World::cluster(seed, number, 1);
    (0..number).for_each(|node| world.boot(node));
    let all = world.running();
    world.within(seconds(10), "start", |world| world.all_connected(&all));
    world
}

/// The old machine of a node that was brought up from a snapshot elsewhere, powered on again.
#[test]
fn of_two_machines_with_one_identity_the_later_restored_is_the_node() {
    for seed in 0..20 {
        let mut world = World::cluster(seed, 3, 1);
        (0..3).for_each(|node| world.boot(node));
        world.within(seconds(20), "contact", |world| {
            world.all_connected(&[0, 1, 2])
        });
        world.pass(seconds(120));
        world.kill(2);
        // Restored from what the disk held long before.
        let settings = Settings {
            restored: 1_700_000_500,
            ..world.nodes[2].settings.clone()
        };
        let identity = world.nodes[2].identity.clone();
        let moved = world.add(settings);
        world.nodes[moved].tunnel = Tunnel::new(identity.wireguard_public());
        world.nodes[moved].identity = identity;
        world.boot(moved);
        world.within(seconds(120), "the moved one is met", |world| {
            world.all_connected(&[0, 1, moved])
        });
        world.pass(seconds(60));
        let said = |world: &World, node: usize| -> Vec<_> {
            world.nodes[node].notices.iter().map(Notice::code).collect()
        };
        world.boot(2);
        world.pass(seconds(120));
        assert!(
            said(&world, 2).contains(&"E-MESH-MOVED"),
            "{seed}: {:?}",
            said(&world, 2)
        );
        assert!(!said(&world, moved).contains(&"E-MESH-MOVED"), "{seed}");
        // It ends, as the notice has it do, and the others are back with the moved one.
        world.kill(2);
        world.within(seconds(300), "the moved one is met again", |world| {
            world.all_connected(&[0, 1, moved])
        });
    }
}

/// The machine that a node was moved from by a snapshot, powered on again with a word that is newer than the moved one's.
#[test]
fn who_was_moved_says_that_its_old_machine_ran_again_and_takes_no_old_news_for_that() {
    seeds(10, |seed| {
        let said = |world: &World, node: usize, code: &str| {
            let notices = world.nodes[node].notices.iter();
            notices.filter(|notice| notice.code() == code).count()
        };
        let mut world = World::cluster(seed, 3, 1);
        // Restored itself, so that it leaps at each start as the moved one does.
        world.nodes[2].settings.restored = 1_700_000_500;
        (0..3).for_each(|node| world.boot(node));
        world.within(seconds(20), "contact", |world| {
            world.all_connected(&[0, 1, 2])
        });
        let snapshot = world.nodes[2].disk.clone();
        for _ in 0..3 {
            world.kill(2);
            world.boot(2);
            world.within(seconds(20), "return", |world| {
                world.all_connected(&[0, 1, 2])
            });
            world.pass(seconds(20));
        }
        world.kill(2);

        let moved = world.add(Settings {
            restored: 1_700_001_000,
            ..world.nodes[2].settings.clone()
        });
        world.nodes[moved].identity = world.nodes[2].identity.clone();
        world.nodes[moved].disk = snapshot;
        world.boot(moved);
        world.within(seconds(120), "the moved one is met", |world| {
            world.all_connected(&[0, 1, moved])
        });
        world.pass(seconds(60));
        assert!(
            said(&world, moved, "I-MESH-SEQUENCE") > 0,
            "{seed}: it was brought what the old machine said before the move"
        );
        assert_eq!(said(&world, moved, "W-MESH-OLD-MACHINE"), 0, "{seed}");

        // It is ahead whatever the leaps are: two were made where nobody heard of it.
        for _ in 0..2 {
            world.boot(2);
            world.kill(2);
        }
        world.boot(2);
        world.within(seconds(120), "both say what is there", |world| {
            said(world, moved, "W-MESH-OLD-MACHINE") > 0 && said(world, 2, "E-MESH-MOVED") > 0
        });
        world.kill(2);
        world.within(seconds(300), "the moved one is met again", |world| {
            world.all_connected(&[0, 1, moved])
        });
        world.pass(seconds(60));
        assert_eq!(said(&world, moved, "W-MESH-OLD-MACHINE"), 1, "{seed}: once");
        assert_eq!(said(&world, moved, "E-MESH-MOVED"), 0, "{seed}");
    });
}

#[test]
fn a_cut_of_90_seconds_heals_within_15() {
    seeds(10, |seed| {
        let mut world = up(seed, 4);
        // At any age of the sessions: rekeying, expired, just made.
        let before = u64::from(world.below(240));
        world.pass(seconds(before));
        world.nodes[1].cut_until = world.now + seconds(90);
        world.pass(seconds(90));
        world.within(seconds(15), "healed", |world| {
            world.all_connected(&[0, 1, 2, 3])
        });
    });
}

#[test]
fn a_cut_of_ten_minutes_heals_within_15() {
    seeds(3, |seed| {
        let mut world = up(seed, 4);
        world.nodes[0].cut_until = world.now + seconds(600);
        world.pass(seconds(600));
        assert!(world.all_connected(&[1, 2, 3]), "the anchor is not needed");
        world.within(seconds(15), "healed", |world| {
            world.all_connected(&[0, 1, 2, 3])
        });
    });
}

#[test]
fn a_node_that_moves_is_found_again_and_keeps_its_overlay_address() {
    seeds(5, |seed| {
        let mut world = up(seed, 4);
        let hosts = world.nodes[0].hosts[&name("n2")].clone();
        for _ in 0..3 {
            let before = u64::from(world.below(200));
            world.pass(seconds(before));
            let address = std::net::Ipv4Addr::from(0x2800_0000 + world.below(1000));
            world.readdress(2, vec![address.into()]);
            world.within(seconds(3), "found again", |world| {
                world.all_connected(&[0, 1, 2, 3])
            });
        }
        assert_eq!(world.nodes[0].hosts[&name("n2")], hosts);
    });
}

#[test]
fn a_node_that_moves_is_called_by_one_whose_router_lets_no_stranger_in() {
    seeds(5, |seed| {
        let mut world = World::cluster(seed, 4, 2);
        world.nodes[3].addresses = vec!["192.168.3.2".parse().expect("an address")];
        let public = "30.0.0.1".parse().expect("an address");
        world.nodes[3].nat = Some(Nat::new(public, false));
        (0..4).for_each(|node| world.boot(node));
        world.within(seconds(60), "all connected", |world| {
            world.all_connected(&[0, 1, 2, 3])
        });
        world.pass(seconds(30));
        world.readdress(0, vec!["40.0.0.7".parse().expect("an address")]);
        // The record comes with the next comparison of books, every 15 s.
        world.within(seconds(20), "called at its new address", |world| {
            world.all_connected(&[0, 1, 2, 3])
        });
    });
}

#[test]
fn a_node_that_moved_while_it_was_off_is_found_again() {
    let mut world = up(1, 4);
    world.kill(2);
    world.pass(seconds(30));
    world.nodes[2].addresses = vec!["40.0.0.7".parse().expect("an address")];
    world.boot(2);
    world.within(seconds(3), "found again", |world| {
        world.all_connected(&[0, 1, 2, 3])
    });
}

#[test]
fn hosts_hold_everyone_and_sessions_outlive_every_event() {
    let mut world = up(2, 5);
    world.pass(seconds(30));
    for node in 0..5 {
        assert_eq!(world.nodes[node].hosts.len(), 5);
    }
    let handshakes: Vec<usize> = world.nodes.iter().map(|node| node.handshakes).collect();
    let settings = world.settings("late", &[World::address(0)]);
    let late = world.add(settings);
    world.boot(late);
    world.within(seconds(3), "the sixth", |world| {
        world.all_connected(&[0, 1, 2, 3, 4, 5])
    });
    world.pass(seconds(1000));
    let after: usize = world.nodes.iter().map(|node| node.handshakes).sum();
    assert!(
        after <= handshakes.iter().sum::<usize>() + 10,
        "the core starts no handshake where there is a session"
    );
}

/// Two names that compute one IPv4 address at attempt 0.
fn colliding(world: &World) -> (NodeName, NodeName) {
    let prefixes = world.settings("x", &[]).prefixes;
    let mut seen = std::collections::BTreeMap::new();
    for number in 0.. {
        let name = name(&format!("c{number}"));
        if let Some(other) = seen.insert(prefixes.overlay_v4(&name, 0), name.clone()) {
            return (other, name);
        }
    }
    unreachable!("the names do not end")
}

#[test]
fn a_collision_is_resolved_by_the_joiner_and_stays_resolved() {
    for swap in [false, true] {
        let mut world = World::cluster(3, 2, 1);
        let (mut first, mut second) = colliding(&world);
        if swap {
            std::mem::swap(&mut first, &mut second);
        }
        let anchors = [World::address(0)];
        let settings = world.settings(first.as_str(), &anchors);
        let resident = world.add(settings);
        let settings = world.settings(second.as_str(), &anchors);
        let joiner = world.add(settings);
        (0..3).for_each(|node| world.boot(node));
        world.within(seconds(5), "start", |world| world.all_connected(&[0, 1, 2]));
        world.input(resident, Input::K3sStarted);
        world.pass(seconds(20));
        world.boot(joiner);
        let moved =
            |world: &World| world.nodes[joiner].attempt > 0 && world.all_connected(&[0, 1, 2, 3]);
        world.within(seconds(2), "moved", moved);
        assert_eq!(world.nodes[resident].attempt, 0);
        assert_eq!(
            world.nodes[joiner].attempts, 2,
            "told at the start and once after"
        );
        world.input(joiner, Input::K3sStarted);
        world.pass(seconds(60));
        let attempt = world.nodes[joiner].attempt;
        for node in 0..4 {
            let hosts = &world.nodes[node].hosts;
            assert_eq!(
                (hosts.len(), hosts[&first].len(), hosts[&second].len()),
                (4, 2, 2)
            );
            assert_ne!(hosts[&first][0], hosts[&second][0]);
        }
        world.kill(joiner);
        world.boot(joiner);
        world.within(seconds(3), "return", |world| {
            world.all_connected(&[0, 1, 2, 3])
        });
        assert_eq!(world.nodes[joiner].attempt, attempt);
        assert!(world.nodes[resident].notices.is_empty());
    }
}

#[test]
fn two_that_have_settled_apart_keep_their_addresses_and_others_decide_alike() {
    let mut world = World::cluster(4, 2, 1);
    let (first, second) = colliding(&world);
    let anchors = [World::address(0)];
    for name in [&first, &second] {
        let settings = world.settings(name.as_str(), &anchors);
        let node = world.add(settings);
        world.boot(node);
        world.input(node, Input::K3sStarted);
    }
    world.boot(0);
    world.boot(1);
    world.within(seconds(10), "start", |world| {
        world.all_connected(&[0, 1, 2, 3])
    });
    world.pass(seconds(60));
    assert!((2..4).all(|node| {
        world.nodes[node]
            .notices
            .iter()
            .any(|notice| notice.code() == "E-MESH-ADDRESS")
    }));
    let lengths = |node: usize| {
        (
            world.nodes[node].hosts[&first].len(),
            world.nodes[node].hosts[&second].len(),
        )
    };
    assert_eq!(
        lengths(0).0 + lengths(0).1,
        3,
        "one of them is reached over IPv6 alone"
    );
}

#[test]
fn who_computes_addresses_in_another_way_is_named_until_he_does_no_longer() {
    let mut world = World::cluster(6, 3, 1);
    let wesher = |settings: &mut Settings| {
        let prefixes = settings.prefixes.clone();
        settings.prefixes = prefixes
            .with_addressing(Addressing::Wesher)
            .expect("whole bytes");
    };
    wesher(&mut world.nodes[0].settings);
    wesher(&mut world.nodes[1].settings);
    (0..3).for_each(|node| world.boot(node));
    world.within(seconds(5), "start", |world| world.all_connected(&[0, 1, 2]));
    world.pass(seconds(60));
    let codes = |world: &World, node: usize| -> Vec<&str> {
        let notices = &world.nodes[node].notices;
        notices.iter().map(Notice::code).collect()
    };
    let families = |world: &World, of: &str| -> Vec<usize> {
        let hosts = (0..3).map(|node| &world.nodes[node].hosts);
        hosts.map(|hosts| hosts[&name(of)].len()).collect()
    };
    assert_eq!(codes(&world, 0), ["E-MESH-ADDRESSING"]);
    assert_eq!(codes(&world, 1), ["E-MESH-ADDRESSING"]);
    assert_eq!(codes(&world, 2), ["E-MESH-ADDRESSING", "E-MESH-ADDRESSING"]);
    assert_eq!(
        families(&world, "n0"),
        [2, 2, 1],
        "IPv6 alone where they differ"
    );
    assert_eq!(families(&world, "n2"), [1, 1, 2]);
    assert_eq!(
        world.nodes[1].hosts[&name("n0")][0].to_string(),
        "10.44.129.91"
    );

    wesher(&mut world.nodes[2].settings);
    world.kill(2);
    world.boot(2);
    world.within(seconds(5), "return", |world| {
        world.all_connected(&[0, 1, 2]) && codes(world, 1).len() == 2
    });
    assert_eq!(codes(&world, 0), ["E-MESH-ADDRESSING", "I-MESH-ADDRESSING"]);
    assert_eq!(families(&world, "n2"), [2, 2, 2]);
    let notices = &world.nodes[0].notices;
    assert!(notices[1].ends(&notices[0]));
}

#[test]
fn two_that_wesher_gives_one_address_are_named_and_nobody_moves() {
    let mut world = World::new(7);
    let anchors = [World::address(0)];
    let plan = |world: &World, of: &str| {
        let mut settings = world.settings(of, &anchors);
        let ipv4 = "10.44.0.0/24".parse().expect("a prefix");
        settings.prefixes = Prefixes::new(&settings.cluster, None, ipv4)
            .and_then(|plan| plan.with_addressing(Addressing::Wesher))
            .expect("a plan");
        settings
    };
    let prefixes = plan(&world, "x").prefixes;
    let mut seen = std::collections::BTreeMap::new();
    let (first, second) = (0..)
        .find_map(|number| {
            let name = name(&format!("w{number}"));
            let other = seen.insert(prefixes.overlay_v4(&name, 0), name.clone());
            other.map(|other| (other, name))
        })
        .expect("the names do not end");
    for of in [&first, &second] {
        let settings = plan(&world, of.as_str());
        let node = world.add(settings);
        world.boot(node);
    }
    world.within(seconds(5), "start", |world| world.all_connected(&[0, 1]));
    world.pass(seconds(60));
    assert!((0..2).all(|node| world.nodes[node].attempt == 0));
    let said: Vec<_> = (0..2)
        .flat_map(|node| &world.nodes[node].notices)
        .map(Notice::code)
        .collect();
    assert_eq!(said, ["E-MESH-ADDRESS"], "by the one that cannot have it");
}

#[test]
fn a_restored_backup_goes_past_its_own_newer_record() {
    let mut world = up(5, 3);
    let backup = world.nodes[2].disk.clone();
    for _ in 0..3 {
        world.kill(2);
        world.boot(2);
        world.within(seconds(3), "return", |world| {
            world.all_connected(&[0, 1, 2])
        });
    }
    world.kill(2);
    world.nodes[2].disk = backup;
    world.nodes[2].addresses = vec!["40.0.0.9".parse().expect("an address")];
    world.boot(2);
    world.within(seconds(5), "return", |world| {
        world.all_connected(&[0, 1, 2])
    });
    world.pass(seconds(20));
    let now = world.now;
    let own = world.nodes[2].report(now).own.sequence;
    let held = |node: usize| {
        let saved = Saved::decode(&world.nodes[node].disk, &cluster()).expect("a book");
        let member = saved
            .members
            .iter()
            .find(|member| member.record.name() == &name("n2"))
            .cloned();
        member.expect("known").record.content().sequence
    };
    assert_eq!((held(0), held(1)), (own, own));
    assert!(world.nodes[2].notices.contains(&Notice::SequenceBehind));
}

#[test]
fn an_empty_disk_under_a_pinned_name_is_refused_and_reported_on_both_sides() {
    let mut world = up(6, 3);
    world.kill(2);
    world.nodes[2].disk = Vec::new();
    let identity = hepto_mesh::identity::Identity::generate(&mut world.rng);
    world.nodes[2].identity = identity;
    world.boot(2);
    world.pass(seconds(30));
    assert!(!world.reaches(2, 0) && !world.reaches(0, 2));
    let said = |node: usize| {
        world.nodes[node]
            .notices
            .iter()
            .map(Notice::code)
            .collect::<Vec<_>>()
    };
    assert_eq!(said(0), ["E-MESH-IDENTITY"]);
    assert_eq!(said(2), ["E-MESH-NAME-TAKEN"]);
}

#[test]
fn a_peer_without_contact_for_30_days_is_dormant_and_its_hello_wakes_it() {
    let mut world = up(7, 3);
    world.pass(seconds(10));
    let key = world.nodes[2].identity.wireguard_public();
    world.kill(2);
    // The days are told by the book on disk: 30 days of virtual seconds would be many events.
    for node in [0, 1] {
        world.kill(node);
        let mut saved = Saved::decode(&world.nodes[node].disk, &cluster()).expect("a book");
        for member in saved
            .members
            .iter_mut()
            .filter(|member| member.record.name() == &name("n2"))
        {
            member.idle = seconds(30 * 24 * 3600);
        }
        world.nodes[node].disk = saved.encode();
        world.boot(node);
    }
    world.pass(seconds(20));
    let now = world.now;
    assert!(!world.nodes[0].tunnel.has(&key));
    let report = world.nodes[0].report(now);
    assert!(
        report
            .members
            .iter()
            .any(|member| member.name == name("n2") && member.dormant)
    );
    assert!(
        world.nodes[0].hosts.contains_key(&name("n2")),
        "it is still known by name"
    );
    world.boot(2);
    world.within(seconds(3), "awake", |world| world.all_connected(&[0, 1, 2]));
}
