//! Those who hold the overlay key, or recorded what travelled: what they can do is bounded, and nothing they forge is taken.

use std::net::SocketAddr;

use hepto_mesh::core::{Input, Notice};
use hepto_mesh::identity::Identity;
use hepto_mesh::record::{Content, Endpoint, EndpointKind, Record, Sequence};
use hepto_mesh::seal::Seal;
use hepto_mesh::seal::message::{Head, Hello, Kind, Part, SyncWriter, TokenReply};
use rand_core::Rng;

use crate::seeds;
use crate::world::{Payload, World, cluster, millis, name, seconds};

/// A liar with the overlay key, at an address of its own.
struct Liar {
    seal: Seal,
    address: SocketAddr,
    identity: Identity,
    boot: [u8; 8],
    counter: u64,
}

impl Liar {
    fn new(world: &mut World) -> Self {
        let keys = world.settings("x", &[]).keys;
        Self {
            seal: Seal::new(&keys),
            address: "50.0.0.1:51820".parse().expect("an address"),
            identity: Identity::generate(&mut world.rng),
            boot: [9; 8],
            counter: 0,
        }
    }

    /// A record in the liar's handwriting.
    fn record(&self, text: &str, wireguard: [u8; 32], change: u32) -> Record {
        let content = Content {
            attempt: 0,
            flags: 0,
            name: name(text),
            sequence: Sequence {
                start: 1000,
                change,
            },
            endpoints: vec![Endpoint::new(EndpointKind::Interface, self.address)],
            key_ids: [0, 0],
            mtu: 1320,
            identity: self.identity.public(),
            wireguard,
            tail: Vec::new(),
        };
        Record::sign(content, &cluster(), &self.identity)
    }

    fn seal(&self, world: &mut World, body: &[u8]) -> Payload {
        let mut nonce = [0; 24];
        world.rng.fill_bytes(&mut nonce);
        Payload::Message(self.seal.seal(body, nonce))
    }

    /// Says HELLO with `record`, asks for a token as everyone does, and waits for answers.
    fn hello(&mut self, world: &mut World, to: SocketAddr, record: &[u8]) {
        let mut token = [0; 16];
        for _ in 0..2 {
            self.counter += 1;
            let head = Head {
                kind: Kind::Hello,
                boot: self.boot,
                counter: self.counter,
                token,
            };
            let body = Hello {
                hash: [7; 32],
                flags: 0,
                record,
            }
            .write(&head);
            let payload = self.seal(world, &body);
            world.stray.clear();
            world.inject(self.address, to, payload);
            world.pass(millis(200));
            for (_, _, bytes) in world.stray.clone() {
                let body = self.seal.open(&bytes).expect("sealed under the same key");
                if let Some((
                    Head {
                        kind: Kind::Token, ..
                    },
                    rest,
                )) = Head::parse(&body)
                {
                    token = TokenReply::parse(rest).expect("a token").token;
                }
            }
        }
    }

    /// Answers the last SYNC that came with `parts`.
    fn sync(&mut self, world: &mut World, to: SocketAddr, parts: &[Part<'_>]) {
        let bodies = world
            .stray
            .clone()
            .into_iter()
            .filter_map(|(_, _, bytes)| self.seal.open(&bytes));
        let mut heads = bodies.filter_map(|body| Head::parse(&body).map(|(head, _)| head));
        let Some(asked) = heads.rfind(|head| head.kind == Kind::Sync) else {
            return;
        };
        self.counter += 1;
        let head = Head {
            kind: Kind::Sync,
            boot: self.boot,
            counter: self.counter,
            token: [0; 16],
        };
        let mut writer = SyncWriter::new(&head, asked.counter, to, 0);
        for part in parts {
            assert!(writer.push(part));
        }
        let payload = self.seal(world, &writer.finish());
        world.inject(self.address, to, payload);
        world.pass(millis(200));
    }
}

fn up(seed: u64) -> World {
    let mut world = World::cluster(seed, 4, 1);
    (0..4).for_each(|node| world.boot(node));
    world.within(seconds(10), "start", |world| {
        world.all_connected(&[0, 1, 2, 3])
    });
    world.pass(seconds(20));
    world
}

/// Every node holds the true identity and key of every other.
fn untouched(world: &World) {
    for (number, node) in world.nodes.iter().enumerate() {
        for member in node.report(world.now).members {
            let Some(truth) = world
                .nodes
                .iter()
                .find(|truth| truth.settings.node == member.name)
            else {
                assert!(member.provisional, "n{number} took {} in", member.name);
                continue;
            };
            assert_eq!(member.public_key, truth.identity.wireguard_public());
            assert_eq!(member.fingerprint, truth.identity.fingerprint());
        }
    }
}

#[test]
fn forged_records_are_never_accepted() {
    seeds(3, |seed| {
        let mut world = up(seed);
        let mut liar = Liar::new(&mut world);
        let victim = World::address(0);
        let stolen = world.nodes[2].identity.wireguard_public();
        let own_key = liar.identity.wireguard_public();
        // Posing as a member, as the victim itself, under a member's tunnel key, and with a broken signature.
        let mut broken = liar.record("n2", own_key, 1).raw().to_vec();
        *broken.last_mut().expect("bytes") ^= 1;
        let forged = [
            liar.record("n2", own_key, 1),
            liar.record("n0", own_key, 1),
            liar.record("evil", stolen, 1),
        ];
        for record in &forged {
            liar.hello(&mut world, victim, record.raw());
        }
        liar.hello(&mut world, victim, &broken);
        // The same inside a SYNC, after an introduction under a name of its own.
        let introduction = liar.record("evil", own_key, 2);
        liar.hello(&mut world, victim, introduction.raw());
        let parts: Vec<Part<'_>> = forged
            .iter()
            .map(|record| Part::Record(record.raw()))
            .collect();
        liar.sync(&mut world, victim, &parts);
        for record in &forged {
            world.input(1, Input::GossipRecord(record.raw()));
        }
        world.pass(seconds(40));
        untouched(&world);
        assert!(world.all_connected(&[0, 1, 2, 3]));
        let report = world.nodes[0].report(world.now);
        assert!(
            report.counters.records_refused >= 3 && report.counters.records_bad >= 1,
            "{:?}",
            report.counters
        );
        let said: Vec<_> = world.nodes[0].notices.iter().map(Notice::code).collect();
        for code in [
            "E-MESH-IDENTITY",
            "E-MESH-NAME-TAKEN",
            "E-MESH-TUNNEL-KEY",
            "W-MESH-RECORD",
        ] {
            assert_eq!(
                said.iter().filter(|said| **said == code).count(),
                1,
                "{code} in {said:?}"
            );
        }
    });
}

#[test]
fn a_liar_alone_makes_nobody_a_member() {
    let mut world = up(1);
    let mut liar = Liar::new(&mut world);
    let own_key = liar.identity.wireguard_public();
    let introduction = liar.record("evil", own_key, 1);
    liar.hello(&mut world, World::address(0), introduction.raw());
    let invented: Vec<Record> = (0..4)
        .map(|number| liar.record(&format!("x{number}"), [number + 1; 32], 1))
        .collect();
    let parts: Vec<Part<'_>> = invented
        .iter()
        .map(|record| Part::Record(record.raw()))
        .collect();
    liar.sync(&mut world, World::address(0), &parts[..3]);
    world.pass(seconds(120));
    untouched(&world);
    let report = world.nodes[0].report(world.now);
    assert_eq!(
        report
            .members
            .iter()
            .filter(|member| member.provisional)
            .count(),
        4
    );
    assert!(world.nodes.iter().all(|node| node.hosts.len() == 4));
    assert!(
        (1..4).all(|node| world.nodes[node].report(world.now).members.len() == 3),
        "it spreads to nobody"
    );
}

#[test]
fn invented_names_do_not_fill_the_book_at_once() {
    let mut world = up(2);
    let mut liar = Liar::new(&mut world);
    for number in 0..300u32 {
        let mut key = [1; 32];
        key[..4].copy_from_slice(&number.to_be_bytes());
        let record = liar.record(&format!("x{number}"), key, 1);
        world.input(0, Input::GossipRecord(record.raw()));
    }
    let now = world.now;
    assert!(world.nodes[0].report(now).members.len() <= 3 + 128);
    let own_key = liar.identity.wireguard_public();
    let record = liar.record("evil", own_key, 1);
    liar.hello(&mut world, World::address(0), record.raw());
    world.pass(seconds(60));
    assert!(world.all_connected(&[0, 1, 2, 3]));
}

#[test]
fn whatever_is_replayed_changes_nothing() {
    seeds(3, |seed| {
        let mut world = World::cluster(seed, 4, 1);
        world.tape = Some(Vec::new());
        (0..4).for_each(|node| world.boot(node));
        world.within(seconds(10), "start", |world| {
            world.all_connected(&[0, 1, 2, 3])
        });
        world.pass(seconds(20));
        let tape = world.tape.take().expect("a tape");
        assert!(tape.len() > 50);
        for pause in [0, 30, 200] {
            world.pass(seconds(pause));
            let before: Vec<_> = (0..4)
                .map(|node| world.nodes[node].report(world.now))
                .collect();
            let elsewhere: SocketAddr = "50.0.0.1:51820".parse().expect("an address");
            for (from, to, bytes) in &tape {
                world.inject(*from, *to, Payload::Message(bytes.clone()));
                world.inject(elsewhere, *to, Payload::Message(bytes.clone()));
            }
            world.pass(seconds(3));
            for (node, before) in before.iter().enumerate() {
                let after = world.nodes[node].report(world.now);
                assert_eq!(after.own, before.own);
                assert_eq!(after.members.len(), before.members.len());
                assert_eq!(
                    after.counters.records, before.counters.records,
                    "nothing was learnt"
                );
                assert_eq!(
                    after.counters.handshakes, before.counters.handshakes,
                    "no handshake was started"
                );
            }
            assert!(world.all_connected(&[0, 1, 2, 3]));
        }
        let counted: u64 = world
            .nodes
            .iter()
            .map(|node| node.report(world.now).counters)
            .map(|counters| counters.replayed + counters.unasked + counters.bad_token)
            .sum();
        assert!(counted > 50, "{counted}");
    });
}

#[test]
fn answers_to_strangers_are_smaller_than_what_they_sent_and_limited() {
    let mut world = up(3);
    world.tape = Some(Vec::new());
    let mut liar = Liar::new(&mut world);
    let own_key = liar.identity.wireguard_public();
    let record = liar.record("evil", own_key, 1);
    world.latency = (1, 1);
    for _ in 0..2000 {
        liar.counter += 1;
        let head = Head {
            kind: Kind::Hello,
            boot: liar.boot,
            counter: liar.counter,
            token: [0; 16],
        };
        let body = Hello {
            hash: [7; 32],
            flags: 0,
            record: record.raw(),
        }
        .write(&head);
        let payload = liar.seal(&mut world, &body);
        world.inject(liar.address, World::address(0), payload);
    }
    world.pass(millis(50));
    let tape = world.tape.take().expect("a tape");
    let answers: Vec<_> = tape
        .iter()
        .filter(|(_, to, _)| *to == liar.address)
        .collect();
    assert_eq!(answers.len(), 64);
    assert!(answers.iter().all(|(_, _, bytes)| bytes.len() < 400));
}

#[test]
fn garbage_and_truncation_change_nothing() {
    let mut world = up(4);
    world.tape = Some(Vec::new());
    world.pass(seconds(30));
    let tape = world.tape.take().expect("a tape");
    let now = world.now;
    let before = world.nodes[0].report(now);
    for (from, _, bytes) in tape.iter().take(20) {
        for length in (0..bytes.len()).step_by(7) {
            world.input(
                0,
                Input::Datagram {
                    bytes: &bytes[..length],
                    from: *from,
                    to: None,
                },
            );
        }
        let mut damaged = bytes.clone();
        let at = world.below(u32::try_from(bytes.len()).expect("short")) as usize;
        damaged[at] ^= 1;
        world.input(
            0,
            Input::Datagram {
                bytes: &damaged,
                from: *from,
                to: None,
            },
        );
    }
    let after = world.nodes[0].report(now);
    assert!(after.counters.undecryptable > 500);
    assert_eq!(
        (after.counters.sent, after.own),
        (before.counters.sent, before.own)
    );
    assert_eq!(world.nodes[0].notices.len(), 1, "said once");
}

#[test]
fn a_liar_cannot_make_a_node_take_an_anchor_for_itself() {
    let mut world = up(5);
    world.tape = Some(Vec::new());
    let mut liar = Liar::new(&mut world);
    let own_key = liar.identity.wireguard_public();
    let introduction = liar.record("evil", own_key, 1);
    let victim = World::address(1);
    liar.hello(&mut world, victim, introduction.raw());
    let answer = world.stray.last().expect("an answer").2.clone();
    let (head, _) = Head::parse(&liar.seal.open(&answer).expect("sealed"))
        .map(|(head, rest)| (head, rest.len()))
        .expect("a head");
    // Calls to an anchor that is away stay open: the liar answers them with the victim's boot id and every counter that
    // it may have used.
    world.kill(0);
    for _ in 0..20 {
        for counter in 1..300 {
            let body = Hello {
                hash: [0; 32],
                flags: 0,
                record: &[],
            }
            .write(&Head {
                kind: Kind::Hello,
                counter,
                ..head
            });
            let payload = liar.seal(&mut world, &body);
            world.inject(liar.address, victim, payload);
        }
        world.pass(seconds(1));
    }
    world.boot(0);
    world.pass(seconds(20));
    let anchors = world.nodes[1].report(world.now).anchors;
    assert_eq!(anchors[0].state, hepto_mesh::core::AnchorState::Answers);
}

#[test]
fn a_liar_that_calls_under_a_members_name_keeps_nobody_apart() {
    seeds(3, |seed| {
        let mut world = up(seed);
        let mut liar = Liar::new(&mut world);
        world.tape = Some(Vec::new());
        let posed = {
            let node = &mut world.nodes[2];
            node.core.as_ref().expect("it runs").own_record().clone()
        };
        world.kill(2);
        for step in 0..20u8 {
            liar.boot = [step; 8];
            liar.hello(&mut world, World::address(0), posed.raw());
            if step == 10 {
                world.boot(2);
            }
        }
        let quiet = |world: &World| world.connected(0, 2);
        world.within(seconds(3), "the true one", quiet);
        assert!(world.all_connected(&[0, 1, 3]));
    });
}

#[test]
fn sealed_nonsense_neither_panics_nor_changes_anything() {
    seeds(3, |seed| {
        let mut world = up(seed);
        let liar = Liar::new(&mut world);
        world.tape = Some(Vec::new());
        world.kill(3);
        world.boot(3);
        world.pass(seconds(40));
        let tape = world.tape.take().expect("a tape");
        let before: Vec<_> = (0..4)
            .map(|node| world.nodes[node].report(world.now).members.len())
            .collect();
        let bodies: Vec<Vec<u8>> = tape
            .iter()
            .filter_map(|(_, _, bytes)| liar.seal.open(bytes))
            .collect();
        for round in 0..4000 {
            let number = world.below(u32::try_from(bodies.len()).expect("few")) as usize;
            let (from, to, _) = tape[number];
            let mut body = bodies[number].clone();
            for _ in 0..=world.below(4) {
                // Past the token, so that it still holds while it is fresh.
                let at = 33 + world.below(u32::try_from(body.len() - 33).expect("short")) as usize;
                body[at] = world.below(256) as u8;
            }
            // A counter that is new.
            body[9..17].copy_from_slice(&(1_000_000u64 + round).to_be_bytes());
            if world.below(8) == 0 {
                let length = world.below(u32::try_from(body.len()).expect("short")) as usize;
                body.truncate(length);
            }
            let payload = liar.seal(&mut world, &body);
            world.inject(from, to, payload);
        }
        world.pass(seconds(30));
        untouched(&world);
        let after: Vec<_> = (0..4)
            .map(|node| world.nodes[node].report(world.now).members.len())
            .collect();
        assert_eq!(after, before);
        assert!(world.all_connected(&[0, 1, 2, 3]));
        let malformed: u64 = (0..4)
            .map(|node| world.nodes[node].report(world.now).counters.malformed)
            .sum();
        assert!(malformed > 0);
    });
}
