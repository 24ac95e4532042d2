use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

fn embedded(program: &[u8]) -> Embedded {
    let packed = pack::pack(program).unwrap();
    Embedded {
        sha256: packed.sha256.leak(),
        length: packed.length as u64,
        packed: packed.bytes.leak(),
    }
}

struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        // Not in /tmp, where a program of the owner's is refused.
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        for node in ["mars", "venus"] {
            fs::create_dir(directory.path().join(node)).unwrap();
        }
        Place { directory }
    }

    fn order(&self, node: &str, source: Source) -> Order {
        Order {
            source,
            storage: self.directory.path().to_owned(),
            node_directory: self.directory.path().join(node),
            images: None,
            patience: Patience::default(),
        }
    }
}

fn get(order: &Order) -> Result<Acquired, Error> {
    acquire(order, &Cancel::default(), &|_| ())
}

#[test]
fn an_embedded_program_is_unpacked_once_and_mended_when_it_is_damaged() {
    let place = Place::new();
    // As long as several chunks, and not too easy to compress.
    let program: Vec<u8> = (0..1_000_000u32)
        .flat_map(|n| n.wrapping_mul(n).to_le_bytes())
        .collect();
    let order = place.order("mars", Source::Embedded(embedded(&program)));
    let acquired = get(&order).unwrap();
    assert_eq!(fs::read(&acquired.path).unwrap(), program);
    assert_eq!(
        fs::metadata(&acquired.path).unwrap().permissions().mode() & 0o777,
        0o755
    );
    assert_eq!(
        History::read(&order.node_directory).acquired,
        Some((&acquired).into())
    );

    let written = fs::metadata(&acquired.path).unwrap().modified().unwrap();
    let other = place.order("venus", order.source.clone());
    assert_eq!(get(&other).unwrap(), acquired);
    assert_eq!(
        fs::metadata(&acquired.path).unwrap().modified().unwrap(),
        written,
        "unpacked once"
    );

    fs::write(&acquired.path, "damaged").unwrap();
    assert_eq!(get(&order).unwrap(), acquired);
    assert_eq!(fs::read(&acquired.path).unwrap(), program);
}

#[test]
fn an_embedded_program_that_is_not_what_the_build_read_is_refused() {
    let place = Place::new();
    let good = embedded(b"k3s k3s k3s");
    for damaged in [
        Embedded {
            sha256: embedded(b"other").sha256,
            ..good
        },
        Embedded {
            packed: &good.packed[..good.packed.len() / 2],
            ..good
        },
        Embedded { length: 4, ..good },
    ] {
        let order = place.order("mars", Source::Embedded(damaged));
        let error = get(&order).unwrap_err();
        assert_eq!(error.code(), "E-K3S-DIGEST", "{error}");
        assert_eq!(History::read(&order.node_directory), History::default());
    }
}

#[test]
fn a_program_of_the_owners_is_read_and_left_where_it_is() {
    let place = Place::new();
    let path = place.directory.path().join("k3s");
    let order = place.order("mars", Source::Binary(path.clone()));
    assert_eq!(get(&order).unwrap_err().code(), "E-K3S-BINARY");
    fs::write(&path, "k3s").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let acquired = get(&order).unwrap();
    assert_eq!(acquired.path, path);
    assert_eq!(acquired.digest, Digest::of(&b"k3s"[..]).unwrap());
    assert!(!Store::of(place.directory.path()).folder().exists());
}

#[test]
fn an_upgrade_keeps_the_good_one_and_removes_the_one_before() {
    let place = Place::new();
    let mut paths = Vec::new();
    for version in [&b"one"[..], b"two", b"three"] {
        let order = place.order("mars", Source::Embedded(embedded(version)));
        let acquired = get(&order).unwrap();
        History::update(&order.node_directory, |history| {
            history.ran = Some((&acquired).into());
            history.good = Some((&acquired).into());
        })
        .unwrap();
        paths.push(acquired.path);
    }
    let there: Vec<bool> = paths.iter().map(|path| path.exists()).collect();
    assert_eq!(
        there,
        [false, true, true],
        "the last good one and the new one"
    );
}

mod download;
mod life;
