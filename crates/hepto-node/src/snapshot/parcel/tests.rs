//! A master and an agent over loopback.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::sync::Mutex;
use std::thread;

use super::*;
use crate::snapshot::stamp::Stamp;

const FAST: u64 = 1 << 30;
const BOUNDS: Bounds = Bounds {
    keep: 2,
    space: 1 << 20,
};

fn grumpy() -> NodeName {
    "grumpy".parse().unwrap()
}

/// A shelf with one snapshot of so many bytes.
fn master(folder: &Path, second: u64, size: usize) -> (Shelf, Offer) {
    let shelf = Shelf::of(folder);
    shelf.make().unwrap();
    let name = shelf::name(&grumpy(), Stamp(1_800_000_000 + second));
    let bytes: Vec<u8> = (0..size).map(|index| (index % 249) as u8).collect();
    shelf
        .draft(".draft", true)
        .unwrap()
        .write_all(&bytes)
        .unwrap();
    shelf
        .place(
            ".draft",
            &name,
            Bounds {
                keep: 9,
                space: FAST,
            },
        )
        .unwrap();
    let offer = Offer::of(&shelf, shelf.list().last().unwrap()).unwrap();
    (shelf, offer)
}

/// Runs `send` against an agent with this shelf; what both came to.
fn meet(
    agent: &Shelf,
    bounds: Bounds,
    send: impl FnOnce(SocketAddr) -> Result<(), String>,
) -> (Result<(), String>, Result<Kept, String>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::scope(|scope| {
        let received = scope.spawn(|| {
            let (stream, _) = listener.accept().unwrap();
            receive(stream, agent, &grumpy(), bounds, &AtomicBool::new(false))
        });
        (send(address), received.join().unwrap())
    })
}

fn plainly(shelf: &Shelf, offer: &Offer, to: SocketAddr) -> Result<(), String> {
    send(to, shelf, offer, FAST, &AtomicBool::new(false), &|_| {})
}

#[test]
fn a_snapshot_arrives_whole_and_only_so_many_are_kept() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let agent = Shelf::of(there.path());
    for second in 0..3 {
        let (shelf, offer) = master(here.path(), second, 100_000);
        let (sent, received) = meet(&agent, BOUNDS, |to| plainly(&shelf, &offer, to));
        sent.expect("sent");
        assert_eq!(received.expect("received").name, offer.name);
        let bytes = |shelf: &Shelf| std::fs::read(shelf.path(&offer.name)).unwrap();
        assert_eq!(bytes(&shelf), bytes(&agent));
    }
    assert_eq!(agent.list().len(), 2);
}

#[test]
fn what_was_cut_goes_on_where_it_was_cut_and_what_is_there_is_not_sent_again() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (shelf, offer) = master(here.path(), 0, 200_000);
    let agent = Shelf::of(there.path());
    let half = std::fs::read(shelf.path(&offer.name)).unwrap();
    let (_, received) = meet(&agent, BOUNDS, |to| {
        let mut stream = TcpStream::connect(to).unwrap();
        say(&mut stream, &offer).unwrap();
        assert_eq!(
            hear::<Answer>(&mut stream, SILENCE).unwrap(),
            Answer::From(0)
        );
        stream.write_all(&half[..100_000]).unwrap();
        Ok(())
    });
    assert!(received.unwrap_err().contains("cut after 100000 bytes"));
    assert!(agent.list().is_empty(), "half a snapshot is none");
    let first = Mutex::new(None);
    let (sent, _) = meet(&agent, BOUNDS, |to| {
        let progress = |have| {
            first.lock().unwrap().get_or_insert(have);
        };
        send(to, &shelf, &offer, FAST, &AtomicBool::new(false), &progress)
    });
    sent.expect("sent");
    assert_eq!(*first.lock().unwrap(), Some(100_000 + PIECE as u64));
    assert_eq!(std::fs::read(agent.path(&offer.name)).unwrap(), half);
    let nothing = |to| {
        let progress = |_| panic!("it is there already");
        send(to, &shelf, &offer, FAST, &AtomicBool::new(false), &progress)
    };
    let (sent, received) = meet(&agent, BOUNDS, nothing);
    assert!(sent.is_ok() && received.is_ok());
}

#[test]
fn another_digest_is_thrown_away_and_told() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (shelf, mut offer) = master(here.path(), 0, 1000);
    offer.digest = "0".repeat(64);
    let agent = Shelf::of(there.path());
    let (sent, received) = meet(&agent, BOUNDS, |to| plainly(&shelf, &offer, to));
    assert!(sent.unwrap_err().contains("another digest"));
    assert!(received.is_err() && agent.list().is_empty());
    let left = std::fs::read_dir(agent.path("")).unwrap().count();
    assert_eq!(
        left, 0,
        "no draft stays, or it would be gone on with for ever"
    );
}

#[test]
fn what_is_too_large_or_not_the_masters_is_refused_before_a_byte_is_sent() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (shelf, offer) = master(here.path(), 0, 1000);
    let agent = Shelf::of(there.path());
    let mut offers = vec![(
        offer.clone(),
        Bounds {
            keep: 2,
            space: 999,
        },
        "more than",
    )];
    for name in [
        "doc-20270115T080000Z.age",
        "../x",
        ".draft",
        "grumpy-20270115T080000Z.age/x",
    ] {
        let name = name.to_owned();
        offers.push((
            Offer {
                name,
                ..offer.clone()
            },
            BOUNDS,
            "not a snapshot of grumpy",
        ));
    }
    offers.push((
        Offer {
            version: 2,
            ..offer.clone()
        },
        BOUNDS,
        "version",
    ));
    offers.push((
        Offer {
            digest: "../../x".into(),
            ..offer.clone()
        },
        BOUNDS,
        "digest",
    ));
    for (offer, bounds, why) in offers {
        let (sent, received) = meet(&agent, bounds, |to| plainly(&shelf, &offer, to));
        assert!(received.unwrap_err().contains(why), "{offer:?}");
        assert!(sent.unwrap_err().contains(why), "{offer:?}");
    }
    assert!(agent.list().is_empty());
}

#[test]
fn garbage_is_hung_up_on() {
    let there = tempfile::tempdir().unwrap();
    let agent = Shelf::of(there.path());
    for garbage in [b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![b'x'; 4096]] {
        let (_, received) = meet(&agent, BOUNDS, |to| {
            TcpStream::connect(to)
                .unwrap()
                .write_all(&garbage)
                .map_err(|error| error.to_string())
        });
        assert!(received.is_err());
    }
}

#[test]
fn the_rate_is_kept() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (shelf, offer) = master(here.path(), 0, 64 * 1024);
    let begin = Instant::now();
    let (sent, _) = meet(&Shelf::of(there.path()), BOUNDS, |to| {
        send(
            to,
            &shelf,
            &offer,
            128 * 1024,
            &AtomicBool::new(false),
            &|_| {},
        )
    });
    sent.expect("sent");
    assert!(
        begin.elapsed() >= Duration::from_millis(500),
        "64 KiB at 128 KiB a second"
    );
}
