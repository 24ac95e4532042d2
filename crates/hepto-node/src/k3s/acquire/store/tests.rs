use super::super::Acquired;
use super::*;

struct Place {
    directory: tempfile::TempDir,
    store: Store,
}

fn place() -> Place {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::of(directory.path());
    Place { directory, store }
}

impl Place {
    fn lock(&self) -> Locked {
        self.store.lock(&Cancel::default(), || ()).unwrap()
    }

    /// Puts `content` as the file of `digest`.
    fn put(&self, content: &[u8], digest: &Digest) -> Result<PathBuf, Error> {
        let locked = self.lock();
        let partial = locked.partial(digest).unwrap();
        fs::write(&partial, content).unwrap();
        locked.put(&partial, digest, "k3s", "the test")
    }
}

fn digest(content: &[u8]) -> Digest {
    Digest::of(content).unwrap()
}

#[test]
fn what_is_put_is_executable_and_found_again() {
    let place = place();
    let digest = digest(b"k3s");
    assert_eq!(place.store.verified(&digest, "k3s").unwrap(), None);
    let path = place.put(b"k3s", &digest).unwrap();
    assert_eq!(
        place.store.verified(&digest, "k3s").unwrap(),
        Some(path.clone())
    );
    assert_eq!(
        fs::metadata(path).unwrap().permissions().mode() & 0o777,
        0o755
    );
    assert_eq!(
        fs::read_dir(place.store.folder().join("partial"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn another_digest_leaves_nothing() {
    let place = place();
    let wanted = digest(b"k3s");
    let error = place.put(b"evil", &wanted).unwrap_err();
    assert_eq!(error.code(), "E-K3S-DIGEST");
    for named in [wanted, digest(b"evil")] {
        assert!(error.to_string().contains(&named.to_string()), "{error}");
    }
    assert!(!place.store.path(&wanted, "k3s").exists());
    assert_eq!(
        fs::read_dir(place.store.folder().join("partial"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn a_file_that_was_changed_is_not_found_good() {
    let place = place();
    let digest = digest(b"k3s");
    let path = place.put(b"k3s", &digest).unwrap();
    fs::write(&path, b"k3z").unwrap();
    assert_eq!(place.store.verified(&digest, "k3s").unwrap(), None);
    place.put(b"k3s", &digest).unwrap();
    assert!(place.store.verified(&digest, "k3s").unwrap().is_some());
}

#[test]
fn one_writes_at_a_time_and_who_waits_can_be_told_to_end() {
    let place = place();
    let held = place.lock();
    let (store, cancel) = (place.store.clone(), std::sync::Arc::new(Cancel::default()));
    let (sender, receiver) = std::sync::mpsc::channel();
    let mine = cancel.clone();
    let waiter = std::thread::spawn(move || store.lock(&mine, || sender.send(()).unwrap()));
    receiver.recv().expect("the second says that it waits");
    cancel.cancel();
    assert!(matches!(waiter.join().unwrap(), Err(Error::Cancelled)));
    drop(held);
    place.lock();
}

#[test]
fn tidying_keeps_what_any_node_has_in_its_history() {
    let place = place();
    let all: Vec<Digest> = [&b"1"[..], b"2", b"3", b"4"].map(digest).to_vec();
    for (content, digest) in [&b"1"[..], b"2", b"3", b"4"].iter().zip(&all) {
        place.put(content, digest).unwrap();
    }
    for (node, digest) in [("mars", all[0]), ("venus", all[1])] {
        let directory = place.directory.path().join(node);
        fs::create_dir(&directory).unwrap();
        let acquired = Acquired {
            path: place.store.path(&digest, "k3s"),
            digest,
            name: "x".into(),
            images: None,
        };
        History::update(&directory, |history| {
            history.good = Some((&acquired).into())
        })
        .unwrap();
    }
    // A storage holds other things too.
    fs::write(place.directory.path().join("notes"), "x").unwrap();
    let locked = place.lock();
    for digest in &all {
        fs::write(locked.partial(digest).unwrap().with_extension("etag"), "x").unwrap();
    }
    locked.tidy(&all[2..3], &Cancel::default()).unwrap();
    let there = |digest: &Digest| place.store.path(digest, "k3s").exists();
    assert_eq!(
        all.iter().map(there).collect::<Vec<_>>(),
        [true, true, true, false]
    );
    let partial: Vec<_> = fs::read_dir(place.store.folder().join("partial"))
        .unwrap()
        .collect();
    assert_eq!(partial.len(), 1, "{partial:?}");

    // A history that cannot be read may name anything.
    fs::write(place.directory.path().join("mars/k3s.toml"), "?").unwrap();
    locked.tidy(&[], &Cancel::default()).unwrap();
    assert!(there(&all[2]));
}
