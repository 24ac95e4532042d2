//! Acquiring beside others: two nodes, a stop, a node that goes on trying, a disk that is full.

use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use hepto_tests::Fault;

use super::download::{Scene, digest, machine, path};
use super::*;

#[test]
fn two_nodes_of_one_storage_download_once() {
    let scene = Scene::new();
    scene
        .mirror
        .fault(&path(machine().program), Some(Fault::StallAfter(1000)));
    let slow = Order {
        patience: Patience::default(),
        ..scene.order()
    };
    let (sender, receiver) = mpsc::channel();
    let first = thread::spawn(move || {
        acquire(&slow, &Cancel::default(), &|stage| {
            if matches!(stage, Stage::Downloading(_)) {
                sender.send(()).ok();
            }
        })
    });
    receiver.recv().expect("the first downloads");
    let (sender, waits) = mpsc::channel();
    let other = scene.order_of("venus", None);
    let second = thread::spawn(move || {
        acquire(&other, &Cancel::default(), &|stage| {
            if stage == Stage::Waiting {
                sender.send(()).ok();
            }
        })
    });
    waits.recv().expect("the second waits");
    // The first is cut, and the second goes on with what the first has begun.
    scene.mirror.fault(&path(machine().program), None);
    assert_eq!(first.join().unwrap().unwrap_err().code(), "E-K3S-CUT");
    let acquired = second.join().unwrap().unwrap();
    assert_eq!(fs::read(acquired.path).unwrap(), scene.program);
    assert_eq!(scene.asked(), [None, Some(1000)]);
}

#[test]
fn a_stop_ends_a_download_that_stands_still_at_once() {
    let scene = Scene::new();
    scene
        .mirror
        .fault(&path(machine().program), Some(Fault::StallAfter(1000)));
    let order = Order {
        patience: Patience::default(),
        ..scene.order()
    };
    let cancel = Arc::new(Cancel::default());
    let (sender, receiver) = mpsc::channel();
    let mine = cancel.clone();
    let work = thread::spawn(move || {
        acquire(&order, &mine, &|stage| {
            if matches!(&stage, Stage::Downloading(progress) if progress.done > 0) {
                sender.send(()).ok();
            }
        })
    });
    receiver.recv().expect("it downloads");
    let before = Instant::now();
    cancel.cancel();
    assert!(matches!(work.join().unwrap(), Err(Error::Cancelled)));
    // The server would have been waited for a minute.
    assert!(before.elapsed() < Duration::from_secs(30));
}

#[tokio::test]
async fn an_acquisition_goes_on_until_it_succeeds_and_tells_of_an_earlier_k3s() {
    let scene = Scene::new();
    let good = get(&scene.order()).unwrap();
    History::update(&scene.order().node_directory, |history| {
        history.good = Some((&good).into())
    })
    .unwrap();
    scene.publish(b"a newer one");
    let mut order = scene.order();
    let Source::Release(release) = &mut order.source else {
        unreachable!("the order is for a release");
    };
    release.version = "v1.34.0+k3s1".parse().unwrap();
    let mut acquisition = Acquisition::start(order);
    let problem = loop {
        acquisition.changed().await;
        if let Some(problem) = acquisition.standing().problem {
            break problem;
        }
    };
    assert_eq!(problem.code, "E-K3S-RELEASE");
    assert_eq!(
        acquisition.standing().earlier.map(|earlier| earlier.path),
        Some(good.path)
    );
    let at = |file: &str| format!("/v1.34.0+k3s1/{file}");
    scene.mirror.put(&at(machine().program), b"a newer one");
    let sums = format!("{}  {}\n", digest(b"a newer one"), machine().program);
    scene.mirror.put(&at(machine().checksums), sums.as_bytes());
    let acquired = loop {
        acquisition.changed().await;
        if let Some(acquired) = acquisition.standing().acquired {
            break acquired;
        }
    };
    assert_eq!(fs::read(acquired.path).unwrap(), b"a newer one");
}

/// A disk of two megabytes, which root can mount; the storage is on it.
#[test]
fn a_full_disk_is_told_and_left_as_it_was() {
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test mounts a small disk and needs root"
    );
    // A plain thread: what it mounts in a mount namespace of its own vanishes with it.
    let test = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(
            None::<&str>,
            "/",
            None::<&str>,
            MsFlags::MS_REC | MsFlags::MS_PRIVATE,
            None::<&str>,
        )
        .unwrap();
        let scene = Scene::new();
        let folder = Store::of(scene.place.directory.path()).folder();
        fs::create_dir_all(&folder).unwrap();
        mount(
            Some("tmpfs"),
            &folder,
            Some("tmpfs"),
            MsFlags::empty(),
            Some("size=1m"),
        )
        .unwrap();
        // Before anything is written, and, where the server does not say how much comes, in the middle.
        for fault in [None, Some(Fault::NoLength)] {
            scene.mirror.fault(&path(machine().program), fault);
            let error = get(&scene.order()).unwrap_err();
            assert_eq!(error.code(), "E-K3S-ROOM", "{error}");
            scene.nothing_usable();
            assert_eq!(scene.partial(), 0, "the disk is free again");
        }
        // So that the folder can be removed.
        nix::mount::umount(&folder).unwrap();
    });
    test.join().unwrap();
}
