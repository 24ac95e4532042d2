//! Downloads from a mirror that misbehaves in each way that one can.

use std::cell::RefCell;
use std::time::Duration;

use hepto_tests::{Asked, Fault, Identity, Mirror};

use super::super::release::Machine;
use super::*;

const VERSION: &str = "v1.33.4+k3s1";

pub(super) fn machine() -> Machine {
    Machine::this().expect("tests run where k3s does")
}

pub(super) fn path(file: &str) -> String {
    format!("/{VERSION}/{file}")
}

/// A k3s, too long to come in one read.
fn program() -> Vec<u8> {
    (0..400_000u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect()
}

pub(super) fn digest(content: &[u8]) -> Digest {
    Digest::of(content).unwrap()
}

/// A mirror of one release, and a storage beside it.
pub(super) struct Scene {
    pub(super) place: Place,
    pub(super) mirror: Mirror,
    pub(super) program: Vec<u8>,
}

impl Scene {
    pub(super) fn new() -> Scene {
        Scene::of(Identity::Good)
    }

    fn of(identity: Identity) -> Scene {
        let mirror = Mirror::local(identity);
        let place = Place::new();
        fs::write(place.directory.path().join("ca.pem"), &mirror.authority).unwrap();
        let scene = Scene {
            place,
            mirror,
            program: program(),
        };
        scene.publish(&scene.program);
        scene
    }

    /// Publishes a program with its checksum, as a release does.
    pub(super) fn publish(&self, program: &[u8]) {
        self.mirror.put(&path(machine().program), program);
        let images = digest(b"images");
        let sums = format!(
            "{images}  {}\n{}  {}\n",
            machine().images,
            digest(program),
            machine().program
        );
        self.mirror.put(&path(machine().checksums), sums.as_bytes());
        self.mirror.put(&path(machine().images), b"images");
    }

    pub(super) fn order(&self) -> Order {
        self.order_of("mars", None)
    }

    pub(super) fn order_of(&self, node: &str, pin: Option<Digest>) -> Order {
        let source = Source::Release(Release {
            version: VERSION.parse().unwrap(),
            pin,
            mirror: self.mirror.url.clone(),
            authority: Some(self.place.directory.path().join("ca.pem")),
        });
        Order {
            patience: Patience {
                connect: Duration::from_secs(20),
                silence: Duration::from_secs(2),
                least: 1024,
            },
            ..self.place.order(node, source)
        }
    }

    /// Makes the program's answers go wrong, and gives the error.
    fn error(&self, fault: Fault) -> Error {
        self.mirror.fault(&path(machine().program), Some(fault));
        let error = get(&self.order()).unwrap_err();
        self.nothing_usable();
        error
    }

    /// No file below the store has a name by which it could be started, nor is any executable.
    pub(super) fn nothing_usable(&self) {
        let folder = Store::of(self.place.directory.path()).folder();
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let name = entry.file_name().into_string().unwrap();
            assert!(
                ["partial", ".lock", ".quiet", "lock.toml"].contains(&name.as_str()),
                "{name}"
            );
        }
        for entry in fs::read_dir(folder.join("partial"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let mode = entry.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o111, 0, "{:?}", entry.path());
        }
    }

    /// The partial files that are kept.
    pub(super) fn partial(&self) -> usize {
        let folder = Store::of(self.place.directory.path())
            .folder()
            .join("partial");
        fs::read_dir(folder).map_or(0, |entries| entries.count())
    }

    /// What was asked of the program itself: the first byte of each request.
    pub(super) fn asked(&self) -> Vec<Option<usize>> {
        let asked = self.mirror.asked();
        let program = asked
            .iter()
            .filter(|asked| asked.path == path(machine().program));
        program.map(|Asked { from, .. }| *from).collect()
    }

    fn good(&self) {
        let acquired = get(&self.order()).unwrap();
        assert_eq!(fs::read(&acquired.path).unwrap(), self.program);
        assert_eq!(
            fs::metadata(&acquired.path).unwrap().permissions().mode() & 0o777,
            0o755
        );
        assert_eq!(self.partial(), 0);
    }
}

#[test]
fn a_release_is_downloaded_once_held_to_its_checksum_and_then_needs_no_network() {
    let scene = Scene::new();
    let stages = RefCell::new(Vec::new());
    let tell = |stage| stages.borrow_mut().push(stage);
    let acquired = acquire(&scene.order(), &Cancel::default(), &tell).unwrap();
    assert_eq!(acquired.name, VERSION);
    let last = stages
        .into_inner()
        .into_iter()
        .filter_map(|stage| match stage {
            Stage::Downloading(progress) => progress.percent(),
            _ => None,
        });
    assert_eq!(last.max(), Some(100));
    scene.good();
    // The other node of the storage, and a mirror that is gone.
    scene.mirror.remove(&path(machine().program));
    scene.mirror.remove(&path(machine().checksums));
    assert_eq!(get(&scene.order_of("venus", None)).unwrap(), acquired);
    assert_eq!(scene.mirror.asked().len(), 2, "{:?}", scene.mirror.asked());
    let lock = fs::read_to_string(
        Store::of(scene.place.directory.path())
            .folder()
            .join("lock.toml"),
    )
    .unwrap();
    assert!(
        lock.contains(&digest(&scene.program).to_string()) && lock.contains(VERSION),
        "{lock}"
    );
}

#[test]
fn a_pinned_digest_needs_no_checksums_and_yields_to_none() {
    let scene = Scene::new();
    let other = digest(b"another");
    let error = get(&scene.order_of("mars", Some(other))).unwrap_err();
    assert_eq!(error.code(), "E-K3S-DIGEST");
    for named in [other, digest(&scene.program)] {
        assert!(error.to_string().contains(&named.to_string()), "{error}");
    }
    scene.nothing_usable();
    assert_eq!(scene.partial(), 0);
    scene.mirror.remove(&path(machine().checksums));
    get(&scene.order_of("mars", Some(digest(&scene.program)))).unwrap();
    assert!(
        scene
            .mirror
            .asked()
            .iter()
            .all(|asked| asked.path == path(machine().program))
    );
}

#[test]
fn a_program_that_was_tampered_with_is_refused_and_not_kept() {
    let scene = Scene::new();
    assert_eq!(scene.error(Fault::Tampered).code(), "E-K3S-DIGEST");
    assert_eq!(scene.partial(), 0);
    scene.mirror.fault(&path(machine().program), None);
    scene.good();
}

#[test]
fn a_release_that_publishes_another_digest_later_is_refused_by_both_names() {
    let scene = Scene::new();
    let acquired = get(&scene.order()).unwrap();
    scene.publish(b"another program");
    get(&scene.order()).expect("what is there runs on");
    fs::remove_file(&acquired.path).unwrap();
    let error = get(&scene.order()).unwrap_err();
    assert_eq!(error.code(), "E-K3S-CHANGED");
    for named in [digest(b"another program"), digest(&scene.program)] {
        assert!(error.to_string().contains(&named.to_string()), "{error}");
    }
    scene.publish(&scene.program);
    scene.good();
}

#[test]
fn a_cut_is_gone_on_with() {
    let scene = Scene::new();
    for at in [500_000, 700_000] {
        let error = scene.error(Fault::CutAfter(at));
        assert_eq!(error.code(), "E-K3S-CUT", "{error}");
        assert!(error.came_further() && error.may_pass());
    }
    scene.mirror.fault(&path(machine().program), None);
    scene.good();
    assert_eq!(scene.asked(), [None, Some(500_000), Some(1_200_000)]);
}

#[test]
fn what_cannot_be_gone_on_with_is_begun_anew() {
    for fault in [Some(Fault::NoRange), Some(Fault::WrongRange), None] {
        let scene = Scene::new();
        scene.error(Fault::CutAfter(300_000));
        if fault.is_none() {
            // The file was put there again: another entity tag.
            scene.publish(&scene.program);
        }
        if fault == Some(Fault::WrongRange) {
            scene.mirror.fault(&path(machine().program), fault);
            let answer = get(&scene.order());
            assert!(answer.is_ok(), "{answer:?}");
            assert_eq!(scene.asked(), [None, Some(300_000), None]);
        } else {
            scene.mirror.fault(&path(machine().program), fault);
            scene.good();
            assert_eq!(scene.asked(), [None, Some(300_000)]);
        }
    }
}

#[test]
fn a_beginning_that_is_something_else_is_thrown_away_once() {
    let scene = Scene::new();
    scene.error(Fault::CutAfter(300_000));
    let partial = Store::of(scene.place.directory.path())
        .folder()
        .join("partial")
        .join(digest(&scene.program).to_string());
    fs::write(&partial, vec![0; 300_000]).unwrap();
    scene.mirror.fault(&path(machine().program), None);
    scene.good();
    assert_eq!(scene.asked(), [None, Some(300_000), None]);

    // Longer than the whole.
    let scene = Scene::new();
    scene.error(Fault::CutAfter(300_000));
    let partial = Store::of(scene.place.directory.path())
        .folder()
        .join("partial")
        .join(digest(&scene.program).to_string());
    fs::write(&partial, vec![0; scene.program.len() + 1]).unwrap();
    scene.mirror.fault(&path(machine().program), None);
    scene.good();
}

#[test]
fn wrong_lengths_are_noticed() {
    let scene = Scene::new();
    assert_eq!(scene.error(Fault::Longer(10)).code(), "E-K3S-CUT");
    let scene = Scene::new();
    assert_eq!(scene.error(Fault::Shorter(10)).code(), "E-K3S-DIGEST");
    assert_eq!(scene.error(Fault::Claims(1 << 40)).code(), "E-K3S-LENGTH");
    assert_eq!(scene.partial(), 0);
    scene
        .mirror
        .fault(&path(machine().program), Some(Fault::NoLength));
    scene.good();
}

#[test]
fn a_server_that_stands_still_is_left_and_one_that_trickles_too() {
    let scene = Scene::new();
    let error = scene.error(Fault::StallAfter(100_000));
    assert_eq!(error.code(), "E-K3S-STALL", "{error}");
    assert!(error.came_further());
    let error = scene.error(Fault::Trickle);
    assert_eq!(error.code(), "E-K3S-STALL", "{error}");
    scene.mirror.fault(&path(machine().program), None);
    scene.good();
}

#[test]
fn a_server_that_refuses_or_leads_astray_is_named() {
    let scene = Scene::new();
    for (fault, code) in [
        (Fault::Status(404), "E-K3S-RELEASE"),
        (Fault::Status(503), "E-K3S-STATUS"),
        (
            Fault::Redirect(scene.mirror.url.clone() + &path(machine().program)),
            "E-K3S-REDIRECT",
        ),
        (
            Fault::Redirect("http://127.0.0.1:1/k3s".into()),
            "E-K3S-REDIRECT",
        ),
    ] {
        let error = scene.error(fault.clone());
        assert_eq!(error.code(), code, "{fault:?}: {error}");
        assert!(error.fix().is_some());
    }
    // A redirect to a good place is followed, as GitHub's are.
    scene.mirror.put("/elsewhere", &scene.program);
    let to = format!("{}/elsewhere", scene.mirror.url);
    scene
        .mirror
        .fault(&path(machine().program), Some(Fault::Redirect(to)));
    scene.good();
}

#[test]
fn a_version_that_does_not_exist_is_told_from_a_file_that_is_not_named() {
    let scene = Scene::new();
    scene
        .mirror
        .put(&path(machine().checksums), b"nothing of use\n");
    assert_eq!(get(&scene.order()).unwrap_err().code(), "E-K3S-CHECKSUM");
    scene
        .mirror
        .put(&path(machine().checksums), &vec![b'x'; 300_000]);
    assert_eq!(get(&scene.order()).unwrap_err().code(), "E-K3S-LENGTH");
    scene.mirror.remove(&path(machine().checksums));
    let error = get(&scene.order()).unwrap_err();
    assert_eq!(error.code(), "E-K3S-RELEASE");
    assert!(
        error.fix().unwrap().contains("there is no such version"),
        "{error}"
    );
    scene.nothing_usable();
}

#[test]
fn a_server_that_may_be_another_is_not_believed() {
    for (identity, words) in [
        (Identity::Expired, "it has expired"),
        (Identity::Stranger, "nobody whom this machine trusts"),
    ] {
        let scene = Scene::of(identity);
        let error = get(&scene.order()).unwrap_err();
        assert_eq!(error.code(), "E-K3S-CERTIFICATE", "{error}");
        assert!(error.to_string().contains(words), "{error}");
        scene.nothing_usable();
    }
    let scene = Scene::new();
    fs::write(
        scene.place.directory.path().join("ca.pem"),
        "no certificate",
    )
    .unwrap();
    assert_eq!(get(&scene.order()).unwrap_err().code(), "E-K3S-CA");
}

#[test]
fn without_a_network_the_reason_is_told() {
    let scene = Scene::new();
    let mut order = scene.order();
    let Source::Release(release) = &mut order.source else {
        unreachable!("the order is for a release");
    };
    // Nobody listens on a port that was free a moment ago, and nobody answers by a name of RFC 6761, §6.4.
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    for mirror in [format!("https://{free}"), "https://nobody.invalid".into()] {
        release.mirror = mirror;
        let order = Order {
            source: Source::Release(release.clone()),
            ..scene.order()
        };
        let error = get(&order).unwrap_err();
        assert_eq!(error.code(), "E-K3S-NETWORK", "{error}");
        assert!(error.may_pass());
    }
}

#[test]
fn the_images_of_the_release_come_under_the_same_rules() {
    let scene = Scene::new();
    let order = Order {
        images: Some(Archive::Release),
        ..scene.order()
    };
    scene
        .mirror
        .fault(&path(machine().images), Some(Fault::Tampered));
    assert_eq!(get(&order).unwrap_err().code(), "E-K3S-DIGEST");
    scene.mirror.fault(&path(machine().images), None);
    let acquired = get(&order).unwrap();
    assert_eq!(
        acquired.images.as_ref().map(|images| images.digest),
        Some(digest(b"images"))
    );
    let folder =
        crate::k3s::file::outside(&order.node_directory, "/var/lib/rancher/k3s/agent/images");
    assert_eq!(
        fs::read(folder.join("hepto-airgap-images.tar.zst")).unwrap(),
        b"images"
    );
    assert_eq!(scene.asked(), [None], "the program is not asked for twice");
}
