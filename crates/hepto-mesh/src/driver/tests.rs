//! Whole drivers in a network namespace of their own: real sockets, real gossip on real overlay addresses, and a
//! tunnel that is only claimed. Needs root and iproute2.

mod street;

use std::collections::BTreeSet;
use std::fs;

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use self::street::Street;
use super::*;
use crate::core::{AnchorState, GossipState};

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[tokio::test]
async fn a_pair_meets_and_hears_gossip_of_one_another() {
    let street = Street::new();
    let mars = street.home("mars", 1, &[]);
    let venus = street.home("venus", 2, &[1]);
    mars.until("mars has a session with venus", |state| {
        state.sessions == names(&["venus"])
    })
    .await;
    venus
        .until("venus has a session with mars", |state| {
            state.sessions == names(&["mars"])
        })
        .await;
    venus
        .until("both are in the hosts list, venus first", |state| {
            state.hosts == ["venus", "mars"]
        })
        .await;
    for (home, other) in [(&mars, "venus"), (&venus, "mars")] {
        home.until_report("gossip hears the other", |report| {
            let alive = |member: &core::Member| member.gossip == GossipState::Alive;
            report
                .core
                .members
                .iter()
                .any(|member| member.name.as_str() == other && alive(member))
        })
        .await;
    }
    venus
        .until_report("the anchor answers", |report| {
            report.core.anchors[0].state == AnchorState::Answers
        })
        .await;
}

#[tokio::test]
async fn three_meet_through_one_anchor() {
    let street = Street::new();
    let homes = [
        street.home("mars", 1, &[]),
        street.home("venus", 2, &[1]),
        street.home("earth", 3, &[1]),
    ];
    let all = names(&["earth", "mars", "venus"]);
    for home in &homes {
        let mut others = all.clone();
        others.remove(home.name());
        home.until("sessions with both others", |state| {
            state.sessions == others
        })
        .await;
        home.until_report("gossip hears both", |report| {
            report
                .core
                .members
                .iter()
                .filter(|member| member.gossip == GossipState::Alive)
                .count()
                == 2
        })
        .await;
    }
}

#[tokio::test]
async fn a_new_address_of_one_is_known_to_the_other_at_once() {
    let street = Street::new();
    let mars = street.home("mars", 1, &[]);
    let venus = street.home("venus", 2, &[1]);
    let alive = |report: &Report| {
        report
            .core
            .members
            .iter()
            .any(|member| member.gossip == GossipState::Alive)
    };
    mars.until_report("gossip hears venus", alive).await;
    venus.until_report("gossip hears mars", alive).await;
    // The address is not on the street: nothing but what mars says of itself can bring it.
    let moved: IpAddr = "203.0.113.9".parse().unwrap();
    let addresses = vec!["198.51.100.1".parse().unwrap(), moved];
    mars.command(Command::Addresses(addresses));
    venus
        .until_report("mars's new address", |report| {
            let endpoints = report
                .core
                .members
                .iter()
                .flat_map(|member| &member.endpoints);
            endpoints
                .into_iter()
                .any(|endpoint| endpoint.address.ip() == moved)
        })
        .await;
}

#[tokio::test]
async fn a_restart_needs_no_anchor_since_the_book_was_saved() {
    let street = Street::new();
    let mars = street.home("mars", 1, &[]);
    let venus = street.home("venus", 2, &[1]);
    venus
        .until("a session", |state| state.sessions == names(&["mars"]))
        .await;
    let starts = venus.report().await.core.own.sequence.start;
    let directory = venus.stop().await;
    assert!(
        directory.path().join("mesh/book").exists(),
        "the book was saved"
    );
    // Without an anchor, from the book alone; and with a higher start counter.
    let venus = street.home_in(directory, "venus", 2, &[]);
    venus
        .until("the session again", |state| {
            state.sessions == names(&["mars"])
        })
        .await;
    assert_eq!(venus.report().await.core.own.sequence.start, starts + 1);
    drop(mars);
}

#[tokio::test]
async fn another_overlay_key_is_counted_and_never_a_peer() {
    let street = Street::new();
    let mars = street.home("mars", 1, &[]);
    let stranger = street.stranger("venus", 2, &[1]);
    mars.until_report("foreign envelopes are counted", |report| {
        report.inbox.foreign_key > 0
    })
    .await;
    mars.until("main is told of them", |state| {
        state.notices.contains("W-MESH-FOREIGN-KEY")
    })
    .await;
    assert!(mars.report().await.core.members.is_empty());
    assert!(stranger.report().await.core.members.is_empty());
}

#[tokio::test]
async fn a_damaged_book_is_put_aside_and_filled_again() {
    let street = Street::new();
    let mars = street.home("mars", 1, &[]);
    let directory = tempfile::tempdir().unwrap();
    let mesh = directory.path().join("mesh");
    fs::create_dir(&mesh).unwrap();
    fs::write(mesh.join("book"), b"hepto book v1\0 and no more").unwrap();
    let venus = street.home_in(directory, "venus", 2, &[1]);
    venus
        .until("a session", |state| state.sessions == names(&["mars"]))
        .await;
    let directory = venus.stop().await;
    assert!(directory.path().join("mesh/book.damaged").exists());
    let book = fs::read(directory.path().join("mesh/book")).unwrap();
    let saved = Saved::decode(&book, &street.cluster()).unwrap();
    assert_eq!(saved.members.len(), 1);
    drop(mars);
}

#[tokio::test]
async fn a_read_only_disk_is_said_and_survived() {
    let street = Street::new();
    let mars = street.home("mars", 1, &[]);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    // The thread alone sees this mount, and it goes with the thread.
    let read_only = move || {
        // SAFETY: a mount namespace of its own changes what paths mean to this thread, which opens none before.
        #[allow(unsafe_code)]
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
        mount_change(
            "/",
            MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
        )?;
        mount("tmpfs", path.join("mesh"), "tmpfs", MountFlags::RDONLY, c"")?;
        Ok(())
    };
    let venus = street.home_with(directory, "venus", 2, &[1], read_only);
    venus
        .until_report("the trouble is in the report", |report| {
            report
                .disk
                .as_ref()
                .is_some_and(|disk| disk.code == "E-MESH-FILE-READONLY")
        })
        .await;
    venus
        .until("a session all the same", |state| {
            state.sessions == names(&["mars"])
        })
        .await;
    drop(mars);
}

#[tokio::test]
async fn who_cannot_enter_the_namespace_does_not_start() {
    let directory = tempfile::tempdir().unwrap();
    let (_inbox, receiver) = inbox();
    let denied = || Err(io::Error::from(io::ErrorKind::PermissionDenied));
    let settings = Street::settings(directory.path(), "mars", 1, &[]);
    let identity =
        Identity::load_or_create(&directory.path().join("identity"), &mut street::rng()).unwrap();
    let error = spawn(
        settings,
        identity,
        receiver,
        Box::new(|_, _, _| Ok(())),
        Box::new(denied),
    )
    .err()
    .unwrap();
    assert_eq!(error.code(), "E-MESH-ENTER");
}

/// A core and what a driver needs beside it, with a channel of one event.
fn slow() -> (
    run::Driver,
    mpsc::UnboundedSender<Command>,
    mpsc::Receiver<Event>,
    tempfile::TempDir,
) {
    let directory = tempfile::tempdir().unwrap();
    let settings = Street::settings(directory.path(), "mars", 1, &[]);
    let core = core::Settings {
        keys: settings.key.derive(&settings.cluster),
        operator: None,
        cluster: settings.cluster,
        node: settings.node,
        master: settings.master,
        prefixes: settings.prefixes.clone(),
        port: settings.port,
        mtu: settings.mtu,
        anchors: Vec::new(),
        endpoints: Vec::new(),
        restored: 0,
    };
    let identity = Identity::generate(&mut street::rng());
    let core = Core::new(
        core,
        identity,
        Saved::default(),
        [1; 8],
        [2; 32],
        Instant::now(),
    );
    let (_, receiver) = inbox();
    let (commands, commands_out) = mpsc::unbounded_channel();
    let (events_in, events) = mpsc::channel(1);
    let book = BookFile::open(directory.path()).unwrap();
    let send: Send = Box::new(|_, _, _| Ok(()));
    let driver = run::Driver::new(
        core,
        settings.prefixes,
        book,
        receiver,
        send,
        commands_out,
        events_in,
    );
    (driver, commands, events, directory)
}

#[tokio::test]
async fn events_wait_for_a_slow_main_in_order_and_hold_up_nothing() {
    let (mut driver, commands, mut events, _directory) = slow();
    for attempt in 0..200 {
        driver.tell(Event::Attempt(attempt));
    }
    let main = async move {
        // Main takes no event, and is answered all the same.
        let (reply, report) = oneshot::channel();
        commands.send(Command::Report(reply)).unwrap();
        street::within("a report", report).await.unwrap();
        for wanted in 0..200 {
            let event = street::within("an event", events.recv()).await;
            assert!(
                matches!(event, Some(Event::Attempt(attempt)) if attempt == wanted),
                "{event:?}"
            );
        }
    };
    let ((), ()) = tokio::join!(driver.run(None), main);
}
