//! Questions about the way: answered where they came from, dialled back to there alone, and bounded.

use std::net::SocketAddr;

use hepto_mesh::asker::{Asker, Heard};
use hepto_mesh::key::OverlayKey;
use hepto_mesh::seal::Seal;
use hepto_mesh::seal::message::{Head, Kind};
use hepto_mesh::seal::probe::{Answer, Probe};
use rand_core::Rng;

use crate::world::{DIAL_PORT, PORT, Payload, World, cluster, millis, seconds};

const CLAIMED: u16 = 51999;

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// Somebody with the overlay key who is no node.
struct Stranger {
    asker: Asker,
    address: SocketAddr,
}

impl Stranger {
    fn new(world: &mut World, from: &str) -> Self {
        let keys = world.settings("x", &[]).keys;
        let mut seed = [0; 32];
        world.rng.fill_bytes(&mut seed);
        Self {
            asker: Asker::new(&keys, seed),
            address: address(from),
        }
    }

    /// One that has shown where it is.
    fn proved(world: &mut World, from: &str) -> Self {
        let mut it = Self::new(world, from);
        let hello = it.asker.hello();
        assert!(matches!(
            it.sends(world, hello)[..],
            [(_, Heard::Alive { observed, .. })] if observed == it.address
        ));
        it
    }

    /// Sends to node 0, and gives what it hears at any of its ports, with the port.
    fn sends(&mut self, world: &mut World, datagram: Vec<u8>) -> Vec<(u16, Heard)> {
        world.stray.clear();
        world.inject(self.address, World::address(0), Payload::Message(datagram));
        world.pass(millis(200));
        let mut heard = Vec::new();
        for (_, to, bytes) in world.stray.clone() {
            if to.ip() == self.address.ip()
                && let Some(said) = self.asker.read(&bytes)
            {
                heard.push((to.port(), said));
            }
        }
        heard
    }
}

fn up(seed: u64) -> World {
    let mut world = World::cluster(seed, 2, 1);
    (0..2).for_each(|node| world.boot(node));
    world.within(seconds(10), "start", |world| world.all_connected(&[0, 1]));
    world.latency = (1, 1);
    world
}

/// What node 0 sends to `ip` while this happens, from its own port and from others.
fn sent_to(world: &mut World, ip: &str, action: impl FnOnce(&mut World)) -> Vec<(u16, usize)> {
    world.tape = Some(Vec::new());
    action(world);
    world.pass(seconds(2));
    let tape = world.tape.take().expect("a tape");
    let own = World::address(0).ip();
    tape.iter()
        .filter(|(from, to, _)| from.ip() == own && to.ip() == address(ip).ip())
        .map(|(from, _, bytes)| (from.port(), bytes.len()))
        .collect()
}

#[test]
fn a_question_is_answered_and_dialled_back_to() {
    let mut world = up(1);
    let mut stranger = Stranger::proved(&mut world, "50.0.0.1:4000");
    for length in [400, 1200, 1472] {
        let question = stranger.asker.question(length, None);
        assert_eq!(question.len(), length);
        let heard = stranger.sends(&mut world, question);
        let [
            (
                4000,
                Heard::Arrived {
                    length: arrived,
                    observed,
                    dialled: false,
                    ..
                },
            ),
        ] = heard[..]
        else {
            panic!("{heard:?}")
        };
        assert_eq!((arrived, observed), (length, stranger.address));
    }
    let question = stranger.asker.question(400, Some(CLAIMED));
    let mut heard = stranger.sends(&mut world, question);
    heard.sort_by_key(|(port, _)| *port);
    assert!(
        matches!(
            heard[..],
            [
                (4000, Heard::Arrived { dialled: true, .. }),
                (CLAIMED, Heard::Reached)
            ]
        ),
        "{heard:?}"
    );
    let from: Vec<u16> = world
        .stray
        .iter()
        .filter(|(_, to, _)| to.port() == CLAIMED)
        .map(|(from, ..)| from.port())
        .collect();
    assert_eq!(from, [DIAL_PORT], "not from the port that was asked");
    let report = world.nodes[0].report(world.now);
    assert_eq!(report.members.len(), 1, "who asks is no member");
}

#[test]
fn a_dial_back_cannot_be_aimed_at_another() {
    let mut world = up(2);
    let mut stranger = Stranger::proved(&mut world, "50.0.0.1:4000");
    let questions: Vec<Vec<u8>> = (0..50)
        .map(|_| stranger.asker.question(400, Some(53)))
        .collect();
    // With the victim's source address, and a token that is another's.
    let sent = sent_to(&mut world, "60.0.0.1:1", |world| {
        for question in &questions {
            world.inject(
                address("60.0.0.1:4000"),
                World::address(0),
                Payload::Message(question.clone()),
            );
        }
    });
    assert_eq!(sent, []);
    // Another port behind the same address has to prove itself too.
    let sent = sent_to(&mut world, "50.0.0.1:1", |world| {
        for question in &questions {
            world.inject(
                address("50.0.0.1:4001"),
                World::address(0),
                Payload::Message(question.clone()),
            );
        }
    });
    assert_eq!(sent, []);
    // Nor can one that never was heard ask: the token that its HELLO causes goes to the victim and is shorter.
    let mut unheard = Stranger::new(&mut world, "60.0.0.1:4000");
    let (hello, question) = (unheard.asker.hello(), unheard.asker.question(400, Some(53)));
    let length = hello.len();
    let sent = sent_to(&mut world, "60.0.0.1:1", |world| {
        for datagram in [hello, question] {
            world.inject(
                address("60.0.0.1:4000"),
                World::address(0),
                Payload::Message(datagram),
            );
        }
    });
    assert!(
        matches!(sent[..], [(PORT, token)] if token < length),
        "{sent:?}"
    );
    assert!(world.nodes[0].report(world.now).counters.bad_token >= 101);
}

#[test]
fn replayed_questions_are_not_answered() {
    let mut world = up(3);
    let mut stranger = Stranger::proved(&mut world, "50.0.0.1:4000");
    let recorded: Vec<Vec<u8>> = (0..3)
        .map(|_| stranger.asker.question(400, Some(CLAIMED)))
        .collect();
    for question in &recorded {
        assert_eq!(stranger.sends(&mut world, question.clone()).len(), 2);
    }
    for pause in [0, 30, 90, 300] {
        world.pass(seconds(pause));
        let replayed = |from: &'static str| {
            let recorded = recorded.clone();
            move |world: &mut World| {
                for question in recorded {
                    world.inject(address(from), World::address(0), Payload::Message(question));
                }
            }
        };
        for from in ["50.0.0.1:4000", "60.0.0.1:4000"] {
            let sent = sent_to(&mut world, from, replayed(from));
            assert_eq!(sent, [], "to {from} after {pause} s");
        }
    }
}

#[test]
fn a_flood_of_questions_is_answered_within_limits_and_never_amplified() {
    let mut world = up(4);
    let mut stranger = Stranger::proved(&mut world, "50.0.0.1:4000");
    let mut asked = 0;
    let sent = sent_to(&mut world, "50.0.0.1:1", |world| {
        for _ in 0..500 {
            let question = stranger.asker.question(400, Some(CLAIMED));
            asked += question.len();
            world.inject(
                stranger.address,
                World::address(0),
                Payload::Message(question),
            );
        }
    });
    let dialled = sent.iter().filter(|(port, _)| *port == DIAL_PORT).count();
    assert_eq!((dialled, sent.len() - dialled), (4, 64));
    assert!(sent.iter().map(|(_, length)| length).sum::<usize>() < asked);

    // Many who each have proved where they are: all together have a limit too.
    let mut many: Vec<Stranger> = (0..100)
        .map(|number| Stranger::proved(&mut world, &format!("70.0.0.{number}:4000")))
        .collect();
    world.pass(seconds(60));
    world.tape = Some(Vec::new());
    for stranger in &mut many {
        let question = stranger.asker.question(400, Some(CLAIMED));
        world.inject(
            stranger.address,
            World::address(0),
            Payload::Message(question),
        );
    }
    world.pass(millis(900));
    let tape = world.tape.take().expect("a tape");
    let dialled = tape
        .iter()
        .filter(|(from, ..)| from.port() == DIAL_PORT)
        .count();
    assert_eq!(dialled, 16);
    assert!(world.all_connected(&[0, 1]));
}

#[test]
fn what_is_forged_or_short_is_not_answered() {
    let mut world = up(5);
    let key: OverlayKey = "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345".parse().expect("a key");
    let mut foreign = Asker::new(&key.derive(&cluster()), [1; 32]);
    let mut stranger = Stranger::proved(&mut world, "50.0.0.1:4000");
    let seal = Seal::new(&world.settings("x", &[]).keys);
    let head = Head {
        kind: Kind::Probe,
        boot: [3; 8],
        counter: 1,
        token: [0; 16],
    };
    let answer = Probe::Answer(Answer {
        echo: 1,
        observed: stranger.address,
        length: 1400,
        flags: 1,
    });
    let before = world.nodes[0].report(world.now).counters;
    let good = stranger.asker.question(400, Some(CLAIMED));
    let mut cut = Head::parse(&seal.open(&good).expect("its own"))
        .map(|(head, _)| Probe::Question { dial: Some(1) }.write(&head, 0))
        .expect("a head");
    cut.truncate(300);
    let datagrams = vec![
        foreign.hello(),
        foreign.question(400, Some(CLAIMED)),
        seal.seal(&answer.write(&head, 0), [4; 24]),
        seal.seal(&Probe::DialBack { echo: 1 }.write(&head, 0), [5; 24]),
        seal.seal(&cut, [6; 24]),
    ];
    let from = stranger.address;
    let sent = sent_to(&mut world, "50.0.0.1:1", |world| {
        for datagram in datagrams {
            world.inject(from, World::address(0), Payload::Message(datagram));
        }
    });
    assert_eq!(sent, []);
    let after = world.nodes[0].report(world.now).counters;
    assert_eq!(
        (
            after.unasked - before.unasked,
            after.malformed - before.malformed
        ),
        (2, 1)
    );
}

#[test]
fn an_answer_counts_for_who_asked_in_that_run_alone() {
    let mut world = up(6);
    let mut first = Stranger::proved(&mut world, "50.0.0.1:4000");
    let question = first.asker.question(400, Some(CLAIMED));
    assert_eq!(first.sends(&mut world, question).len(), 2);
    let recorded = world.stray.clone();
    assert_eq!(recorded.len(), 2);
    let mut second = Stranger::proved(&mut world, "50.0.0.1:4000");
    second.asker.question(400, Some(CLAIMED));
    assert!(
        recorded
            .iter()
            .all(|(_, _, bytes)| second.asker.read(bytes).is_none())
    );
}
