//! What is kept, and in which order it goes.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use super::*;

const WIDE: Bounds = Bounds {
    keep: 100,
    space: u64::MAX,
};

fn shelf() -> (tempfile::TempDir, Shelf) {
    let folder = tempfile::tempdir().unwrap();
    let shelf = Shelf::of(folder.path());
    shelf.make().unwrap();
    (folder, shelf)
}

fn put(shelf: &Shelf, second: u64, size: usize, bounds: Bounds) -> String {
    let name = name(&"grumpy".parse().unwrap(), Stamp(1_800_000_000 + second));
    let mut draft = shelf.draft(".draft", true).unwrap();
    draft.write_all(&vec![0; size]).unwrap();
    shelf.place(".draft", &name, bounds).unwrap();
    name
}

fn names(shelf: &Shelf) -> Vec<String> {
    shelf.list().into_iter().map(|kept| kept.name).collect()
}

#[test]
fn names_say_whose_and_when() {
    let master: NodeName = "big-grumpy-7".parse().unwrap();
    let name = name(&master, Stamp(1_795_539_620));
    assert_eq!(name, "big-grumpy-7-20261124T170020Z.age");
    assert_eq!(named(&name), Some((master, Stamp(1_795_539_620))));
    for other in [
        ".draft",
        "grumpy.age",
        "grumpy-2026.age",
        "../x-20261124T170020Z.age",
        "x-20261124T170020Z",
    ] {
        assert_eq!(named(other), None, "{other}");
    }
}

#[test]
fn the_oldest_go_and_the_new_one_stays_whatever_the_bounds() {
    let (_folder, shelf) = shelf();
    let all: Vec<String> = (0..4).map(|second| put(&shelf, second, 10, WIDE)).collect();
    assert_eq!(names(&shelf), all);
    let newest = put(
        &shelf,
        4,
        10,
        Bounds {
            keep: 3,
            space: u64::MAX,
        },
    );
    assert_eq!(
        names(&shelf),
        [all[2].clone(), all[3].clone(), newest.clone()]
    );
    let larger = put(&shelf, 5, 15, Bounds { keep: 3, space: 25 });
    assert_eq!(names(&shelf), [newest, larger]);
    let huge = put(&shelf, 6, 50, Bounds { keep: 3, space: 25 });
    assert_eq!(names(&shelf), [huge]);
}

/// A clock that was set back makes an older name: it is still the one that was wanted now.
#[test]
fn a_new_one_with_an_older_name_is_not_the_first_to_go() {
    let (_folder, shelf) = shelf();
    let later = put(&shelf, 100, 10, WIDE);
    let back = put(
        &shelf,
        0,
        10,
        Bounds {
            keep: 1,
            space: u64::MAX,
        },
    );
    assert_eq!(names(&shelf), [back]);
    assert!(!shelf.path(&later).exists());
}

#[test]
fn a_full_disk_leaves_the_older_ones() {
    let (_folder, shelf) = shelf();
    let older = put(&shelf, 0, 10, WIDE);
    // No draft: as when the disk took none.
    let refused = shelf.place(
        ".draft",
        "grumpy-20271124T170020Z.age",
        Bounds { keep: 1, space: 1 },
    );
    assert!(refused.is_err());
    assert_eq!(names(&shelf), [older]);
}

#[test]
fn drafts_are_for_root_alone_no_snapshot_and_swept() {
    let (_folder, shelf) = shelf();
    let kept = put(&shelf, 0, 3, WIDE);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&shelf.path(&kept)), 0o600);
    assert_eq!(mode(&shelf.folder), 0o700);
    shelf.draft(".one", true).unwrap();
    shelf.draft(".two", true).unwrap();
    assert_eq!(names(&shelf), [kept.as_str()]);
    shelf.sweep(Some(".two"));
    assert!(!shelf.path(".one").exists() && shelf.path(".two").exists());
    assert_eq!(names(&shelf), [kept]);
}

#[test]
fn the_digest_is_sha256() {
    let abc = digest(&mut &b"abc"[..]).unwrap();
    assert_eq!(
        abc,
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    );
}
