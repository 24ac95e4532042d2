//! What goes in comes out; what was made by someone else does not.

use super::*;

const KEY: &str = "ClusterKeyClusterKeyClusterKey02";

fn put(root: &Path, name: &str, mode: u32, bytes: &[u8]) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, bytes).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
}

/// A node's storage with what k3s keeps there, and a place for the rest.
struct Home {
    folder: tempfile::TempDir,
    identity: age::Identity,
}

impl Home {
    fn new() -> Home {
        let folder = tempfile::tempdir().unwrap();
        let node = folder.path().join("grumpy");
        for (name, mode, text) in [
            ("cluster", 0o644, "acides\n"),
            ("drained", 0o644, "stop\n"),
            ("identity/node.key", 0o600, "wireguard …"),
            ("mesh/book", 0o600, "book"),
            ("etc-rancher/node/password", 0o600, "node-password"),
            ("etc-rancher/k3s/founded-by-hepto", 0o600, ""),
            ("rancher/server/token", 0o600, "K10…"),
            ("rancher/server/tls/server-ca.key", 0o600, "the authority"),
            ("rancher/server/tls/etcd/peer-ca.crt", 0o644, "another"),
            ("rancher/server/cred/encryption-config.json", 0o600, "{}"),
            (
                "rancher/server/manifests/mine.yaml",
                0o600,
                "kind: Namespace",
            ),
            // None of these goes along.
            (
                "rancher/server/db/state.db",
                0o600,
                "live, of no one moment",
            ),
            ("rancher/agent/client-kubelet.key", 0o600, "made anew"),
            ("kubelet/pods/x", 0o600, "a volume"),
            ("snapshots/.draft", 0o600, "itself"),
        ] {
            put(&node, name, mode, text.as_bytes());
        }
        symlink(
            "/var/lib/rancher/k3s/server/token",
            node.join("rancher/server/node-token"),
        )
        .unwrap();
        put(folder.path(), "copy.db", 0o600, &vec![7; 300_000]);
        put(folder.path(), "node.toml", 0o644, b"[node]\n");
        put(
            folder.path(),
            "overlay.key",
            0o600,
            b"0verlayKey0verlayKey0verlayKey01\n",
        );
        let identity = age::Identity::generate(&mut SystemRandom);
        Home { folder, identity }
    }

    fn snapshot(&self, head: Head) -> Vec<u8> {
        let root = self.folder.path();
        let plan = Plan {
            head,
            directory: &root.join("grumpy"),
            datastore: &root.join("copy.db"),
            config: &root.join("node.toml"),
            overlay_key: &root.join("overlay.key"),
            cluster_key: KEY,
        };
        write(&plan, &self.identity.recipient(), Vec::new()).unwrap()
    }

    /// What a tar of someone else's making says, encrypted to the operator all the same.
    fn forged(&self, fill: impl FnOnce(&mut Builder<GzEncoder<age::Writer<Vec<u8>>>>)) -> Vec<u8> {
        let sealed = age::Writer::new(&self.identity.recipient(), &mut SystemRandom, Vec::new());
        let mut tar = Builder::new(GzEncoder::new(sealed.unwrap(), Compression::fast()));
        fill(&mut tar);
        tar.into_inner()
            .unwrap()
            .finish()
            .unwrap()
            .finish()
            .unwrap()
    }

    fn refused(&self, bytes: &[u8], key: Option<&str>) -> String {
        let into = tempfile::tempdir().unwrap();
        let root = into.path().join("inner");
        fs::create_dir(&root).unwrap();
        let error = read(bytes, &self.identity, key, Some(&root)).expect_err("refused");
        let outside: Vec<_> = fs::read_dir(into.path()).unwrap().collect();
        assert_eq!(outside.len(), 1, "nothing is written elsewhere");
        error.to_string()
    }
}

fn head() -> Head {
    Head {
        format: FORMAT,
        cluster: "acides".into(),
        node: "grumpy".into(),
        made: Stamp(1_795_539_620),
        version: "0.1.0".into(),
        identity: "fingerprint".into(),
    }
}

/// Every file below a folder: name, mode, content.
fn files(root: &Path, prefix: &str) -> Vec<(String, u32, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root).unwrap().flatten() {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        let kind = fs::symlink_metadata(entry.path()).unwrap();
        if kind.is_dir() {
            found.extend(files(&entry.path(), &format!("{name}/")));
        } else if kind.is_symlink() {
            let target = fs::read_link(entry.path()).unwrap();
            found.push((name, 0, target.to_string_lossy().into_owned().into_bytes()));
        } else {
            found.push((name, kind.mode() & 0o777, fs::read(entry.path()).unwrap()));
        }
    }
    found.sort();
    found
}

#[test]
fn what_a_master_needs_comes_back_with_its_modes_and_nothing_else_does() {
    let home = Home::new();
    let snapshot = home.snapshot(head());
    let into = tempfile::tempdir().unwrap();
    let contents = read(&snapshot[..], &home.identity, Some(KEY), Some(into.path())).unwrap();
    assert_eq!(contents.head, head());
    assert_eq!(
        contents.overlay_key.as_str(),
        "0verlayKey0verlayKey0verlayKey01"
    );
    assert_eq!(contents.cluster_key.as_str(), KEY);
    let mut wanted = files(&home.folder.path().join("grumpy"), "");
    let left = ["rancher/agent", "kubelet", "snapshots"];
    wanted.retain(|(name, ..)| !left.iter().any(|part| name.starts_with(part)));
    for (name, _, bytes) in &mut wanted {
        if name == DATASTORE {
            *bytes = vec![7; 300_000];
        }
    }
    assert_eq!(files(into.path(), ""), wanted);
    // The places are those where the sandbox binds them.
    let inside = |path: &str| crate::sandbox::outside(Path::new(""), Path::new(path)).unwrap();
    assert_eq!(
        crate::k3s::datastore::path(Path::new("")),
        Path::new(DATASTORE)
    );
    assert_eq!(inside("/etc/rancher"), Path::new("etc-rancher"));
}

#[test]
fn reading_alone_writes_nothing_and_proves_all() {
    let home = Home::new();
    let snapshot = home.snapshot(head());
    read(&snapshot[..], &home.identity, Some(KEY), None).unwrap();
    read(&snapshot[..], &home.identity, None, None).unwrap();
    let error = read(&snapshot[..], &home.identity, Some("another"), None).unwrap_err();
    assert!(matches!(error, Error::Unproved));
}

#[test]
fn a_cut_a_change_and_another_key_are_told_apart() {
    let home = Home::new();
    let snapshot = home.snapshot(head());
    for cut in [snapshot.len() - 1, snapshot.len() / 2, 300] {
        let error = read(&snapshot[..cut], &home.identity, Some(KEY), None).unwrap_err();
        assert!(
            matches!(error, Error::Age(age::Error::Damaged)),
            "{cut}: {error}"
        );
    }
    for place in [250, snapshot.len() / 2, snapshot.len() - 1] {
        let mut changed = snapshot.clone();
        changed[place] ^= 0x10;
        let error = read(&changed[..], &home.identity, Some(KEY), None).unwrap_err();
        assert!(
            matches!(error, Error::Age(age::Error::Damaged)),
            "{place}: {error}"
        );
    }
    let other = age::Identity::generate(&mut SystemRandom);
    let error = read(&snapshot[..], &other, Some(KEY), None).unwrap_err();
    assert!(matches!(error, Error::Age(age::Error::OtherKey)), "{error}");
}

#[test]
fn a_later_format_is_named() {
    let home = Home::new();
    let newer = home.snapshot(Head {
        format: 2,
        ..head()
    });
    assert!(home.refused(&newer, Some(KEY)).contains("format 2"));
}

fn file(tar: &mut Builder<impl Write>, name: &str, text: &str) {
    let mut header = header(EntryType::Regular, 0o600, text.len() as u64);
    // The library itself would refuse some of these names.
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_cksum();
    tar.append(&header, text.as_bytes()).unwrap();
}

fn link(tar: &mut Builder<impl Write>, name: &str, target: &str) {
    let mut header = header(EntryType::Symlink, 0o777, 0);
    tar.append_link(&mut header, name, target).unwrap();
}

/// An agent knows the public key: what it makes itself is not taken, and nothing of it gets out of the staging folder.
#[test]
fn what_an_agent_made_itself_is_refused() {
    let home = Home::new();
    let text = serde_json::to_string(&head()).unwrap();
    let begin = |tar: &mut Builder<_>| {
        file(tar, HEAD, &text);
        file(tar, OVERLAY_KEY, "x");
        file(tar, CLUSTER_KEY, KEY);
    };
    let unproved = home.forged(|tar| {
        begin(tar);
        file(tar, PROOF, &"0".repeat(64));
    });
    assert!(
        home.refused(&unproved, Some(KEY))
            .contains("not made with this cluster key")
    );
    for name in ["../out", "/out", "node/../../out", "node/a/../../../out"] {
        let forged = home.forged(|tar| {
            begin(tar);
            file(tar, name, "evil");
        });
        assert!(
            home.refused(&forged, None).contains("it has an entry"),
            "{name}"
        );
    }
    let through = home.forged(|tar| {
        begin(tar);
        link(tar, "node/rancher", "..");
        file(tar, "node/rancher/out", "evil");
    });
    assert!(
        home.refused(&through, None)
            .contains("comes before its folder")
    );
    let over = home.forged(|tar| {
        begin(tar);
        link(tar, "node/cluster", "../out");
        file(tar, "node/cluster", "evil");
    });
    assert!(home.refused(&over, None).contains("cannot write"));
    let headless = home.forged(|tar| file(tar, "node/x", "x"));
    assert!(home.refused(&headless, None).contains("first entry"));
    let endless = home.forged(begin);
    assert!(home.refused(&endless, None).contains("proof is missing"));
    let device = home.forged(|tar| {
        begin(tar);
        let mut header = header(EntryType::Block, 0o600, 0);
        tar.append_data(&mut header, "node/disk", io::empty())
            .unwrap();
    });
    assert!(home.refused(&device, None).contains("of the kind"));
}
