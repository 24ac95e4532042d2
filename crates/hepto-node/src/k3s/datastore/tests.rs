//! Copies of a datastore that is written to, and what is put back.

use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

/// A datastore in WAL mode, as kine's: each transaction writes one number to both tables.
fn writer(path: &Path) -> Connection {
    let store = Connection::open(path).unwrap();
    store.busy_timeout(PATIENCE).unwrap();
    store
        .execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF;
             CREATE TABLE IF NOT EXISTS one (id INTEGER PRIMARY KEY, filling BLOB);
             CREATE TABLE IF NOT EXISTS other (id INTEGER PRIMARY KEY);",
        )
        .unwrap();
    store
}

fn write(store: &Connection) {
    store
        .execute_batch(
            "BEGIN IMMEDIATE; INSERT INTO one (filling) VALUES (randomblob(700));
             INSERT INTO other DEFAULT VALUES; COMMIT;",
        )
        .unwrap();
}

/// How many transactions a copy holds, after a check that it is whole: never half a transaction.
fn held(copy: &Path) -> i64 {
    let copy =
        Connection::open_with_flags(copy, OpenFlags::SQLITE_OPEN_READ_ONLY).expect("a database");
    let one = |sql: &str| copy.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    let check: String = copy
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(check, "ok");
    let count = one("SELECT count(*) FROM one");
    assert_eq!(count, one("SELECT count(*) FROM other"));
    assert_eq!(count, one("SELECT coalesce(max(id), 0) FROM one"));
    count
}

#[test]
fn copies_under_load_are_each_one_moment_and_ever_later() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("state.db"), folder.path().join("copy"));
    let store = writer(&from);
    write(&store);
    let ends = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ends.load(Ordering::Relaxed) {
                write(&opened(&from));
            }
        });
        let mut before = 0;
        for _ in 0..5 {
            let least: i64 = store
                .query_row("SELECT count(*) FROM one", [], |row| row.get(0))
                .unwrap();
            let length = copy(&from, &to).expect("a copy");
            assert_eq!(length, fs::metadata(&to).unwrap().len());
            let now = held(&to);
            assert!(
                now >= least && now >= before,
                "{now} after {least}, {before}"
            );
            before = now;
        }
        ends.store(true, Ordering::Relaxed);
    });
    assert_eq!(
        fs::metadata(&to).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let left: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .filter(|name| name.to_string_lossy().starts_with("copy"))
        .collect();
    assert_eq!(left, ["copy"], "the copy is one file");
}

/// A connection of its own, as another process has.
fn opened(path: &Path) -> Connection {
    let store = Connection::open(path).unwrap();
    store.busy_timeout(PATIENCE).unwrap();
    store
}

/// k3s was killed: the last transactions are in the WAL alone, and nobody has the datastore open.
#[test]
fn what_a_killed_k3s_left_in_the_wal_is_copied() {
    let folder = tempfile::tempdir().unwrap();
    let (live, from) = (folder.path().join("live"), folder.path().join("state.db"));
    let store = writer(&live);
    (0..20).for_each(|_| write(&store));
    for suffix in ["", "-wal"] {
        fs::copy(beside(&live, suffix), beside(&from, suffix)).unwrap();
    }
    let to = folder.path().join("copy");
    copy(&from, &to).expect("a copy");
    assert_eq!(held(&to), 20);
}

#[test]
fn a_copy_put_back_is_not_mixed_with_what_was_there() {
    let folder = tempfile::tempdir().unwrap();
    let (live, from) = (folder.path().join("live"), folder.path().join("state.db"));
    let to = folder.path().join("copy");
    let store = writer(&live);
    (0..3).for_each(|_| write(&store));
    copy(&live, &to).expect("a copy");
    (0..30).for_each(|_| write(&store));
    for suffix in ["", "-wal", "-shm"] {
        fs::copy(beside(&live, suffix), beside(&from, suffix)).unwrap();
    }
    put_back(&to, &from).expect("put back");
    assert!(!beside(&from, "-wal").exists());
    assert_eq!(held(&from), 3);
    let absent = put_back(&folder.path().join("none"), &from).unwrap_err();
    assert_eq!(absent.code(), "E-DATASTORE-ABSENT");
    assert_eq!(held(&from), 3, "what is there stays");
}

/// A supervisor is killed at whatever point of it, and the next one does it again.
#[test]
fn a_copy_that_was_put_back_half_way_is_put_back_again() {
    let folder = tempfile::tempdir().unwrap();
    let (live, to) = (folder.path().join("live"), folder.path().join("copy"));
    let store = writer(&live);
    (0..3).for_each(|_| write(&store));
    copy(&live, &to).expect("a copy");
    (0..30).for_each(|_| write(&store));
    let whole = fs::read(&to).unwrap();
    // The draft begun, the draft whole, some and then all of the older state removed, the draft in its place.
    let points: [(Option<usize>, &[&str]); 5] = [
        (Some(1000), &["", "-wal", "-shm"]),
        (Some(whole.len()), &["", "-wal", "-shm"]),
        (Some(whole.len()), &["", "-shm"]),
        (Some(whole.len()), &[""]),
        (None, &[]),
    ];
    for (point, (draft, older)) in points.into_iter().enumerate() {
        let from = folder.path().join(format!("{point}")).join("state.db");
        fs::create_dir(from.parent().unwrap()).unwrap();
        for suffix in older {
            fs::copy(beside(&live, suffix), beside(&from, suffix)).unwrap();
        }
        match draft {
            Some(length) => fs::write(beside(&from, ".new"), &whole[..length]).unwrap(),
            None => fs::write(&from, &whole).unwrap(),
        }
        put_back(&to, &from).unwrap_or_else(|error| panic!("at point {point}: {error}"));
        assert_eq!(held(&from), 3, "at point {point}");
        let left = fs::read_dir(from.parent().unwrap()).unwrap().count();
        assert_eq!(left, 1, "at point {point}: one file");
        put_back(&to, &from).expect("once more");
        assert_eq!(held(&from), 3, "the copy is still there, and whole");
    }
}

#[test]
fn what_is_no_sound_datastore_is_refused_and_the_older_copy_stays() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("state.db"), folder.path().join("copy"));
    assert_eq!(copy(&from, &to).unwrap_err().code(), "E-DATASTORE-ABSENT");
    std::os::unix::fs::symlink("/etc/passwd", &from).unwrap();
    assert_eq!(copy(&from, &to).unwrap_err().code(), "E-DATASTORE-ABSENT");
    fs::remove_file(&from).unwrap();
    let store = writer(&from);
    (0..200).for_each(|_| write(&store));
    drop(store);
    copy(&from, &to).expect("a copy");
    // A page in the middle of the tree, as a failing card loses it.
    let mut bytes = fs::read(&from).unwrap();
    bytes[3 * 4096..4 * 4096].fill(0xff);
    fs::write(&from, &bytes).unwrap();
    let error = copy(&from, &to).unwrap_err();
    assert_eq!(error.code(), "E-DATASTORE-DAMAGED", "{error}");
    assert_eq!(held(&to), 200);
    fs::write(&from, "no database").unwrap();
    assert_eq!(copy(&from, &to).unwrap_err().code(), "E-DATASTORE-SQLITE");
    assert!(!beside(&to, ".new").exists());
}

#[test]
fn k3s_goes_on_from_a_copy_with_revisions_that_nobody_has_seen() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("state.db"), folder.path().join("copy"));
    let store = opened(&from);
    // As kine makes it, in the columns that matter.
    store
        .execute_batch(
            "CREATE TABLE kine (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT, created INTEGER, deleted INTEGER,
                 create_revision INTEGER, prev_revision INTEGER, lease INTEGER, value BLOB, old_value BLOB);
             CREATE UNIQUE INDEX kine_name_prev_revision_uindex ON kine (name, prev_revision);
             INSERT INTO kine (name, created, deleted, prev_revision) VALUES ('compact_rev_key', 1, 0, 0), ('/a', 1, 0, 0);",
        )
        .unwrap();
    copy(&from, &to).unwrap();
    let later =
        "INSERT INTO kine (name, created, deleted, prev_revision) VALUES ('/lost', 1, 0, 0)";
    store.execute(later, []).unwrap();
    drop(store);
    put_back(&to, &from).unwrap();
    let store = opened(&from);
    let number = |sql: &str| {
        store
            .query_row(sql, [], |row| row.get::<_, i64>(0))
            .unwrap()
    };
    let last = number("SELECT max(id) FROM kine");
    assert!(last > 1000 + 3, "{last}");
    assert_eq!(
        number("SELECT prev_revision FROM kine WHERE name = 'compact_rev_key'"),
        last
    );
    assert_eq!(number("SELECT count(*) FROM kine WHERE deleted = 0"), 2);
    store.execute(later, []).unwrap();
    assert_eq!(number("SELECT max(id) FROM kine"), last + 1);
    assert_eq!(
        number("SELECT count(*) FROM kine WHERE name LIKE 'gap-%'"),
        1
    );
}
