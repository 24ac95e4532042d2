//! k3s's datastore on the one master: a SQLite file that kine keeps in WAL mode, copied while k3s writes, and put back.
//!
//! Database and WAL read as two files are no state that ever was. So a copy is SQLite's own online backup: all pages in
//! one read transaction, which in WAL mode holds up no writer (<https://www.sqlite.org/backup.html>).

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};

use super::argument;
use super::file::outside;

/// How long a copy waits for a lock that k3s holds: at its start, while it recovers or moves the WAL.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two tries at such a lock.
const PAUSE: Duration = Duration::from_millis(50);
/// So many revisions are left out when a copy takes the place of what came after it: more than anyone has written since.
const LEFT_OUT: i64 = 1_000_000_000;
/// What SQLite keeps beside a database: parts of its state, worthless or harmful beside another one.
const BESIDE: [&str; 3] = ["-wal", "-shm", "-journal"];

/// Why the datastore cannot be copied or put back.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is none: k3s has never run here, or it keeps its state elsewhere.
    #[error("there is no datastore at {}", .0.display())]
    Absent(PathBuf),
    /// A file could not be made, synced or replaced.
    #[error("cannot {verb} {}: {source}", .path.display())]
    File {
        /// What was tried.
        verb: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// SQLite refuses.
    #[error("cannot copy or change the datastore {}: {source}", .path.display())]
    Sqlite {
        /// The datastore.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// The copy is not sound, so the datastore is not.
    #[error("the datastore {} is damaged: {why}", .path.display())]
    Damaged {
        /// The datastore.
        path: PathBuf,
        /// The first thing that SQLite found.
        why: String,
    },
}

impl Error {
    fn file(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::File { verb, path, source }
    }

    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Error::Absent(_) => "E-DATASTORE-ABSENT",
            Error::File { .. } => "E-DATASTORE-FILE",
            Error::Sqlite { .. } => "E-DATASTORE-SQLITE",
            Error::Damaged { .. } => "E-DATASTORE-DAMAGED",
        }
    }

    /// What mends it.
    pub fn fix(&self) -> Option<String> {
        Some(match self {
            Error::Absent(_) => "start the node once, as the cluster's master".into(),
            Error::File { .. } => "make room in `node.storage` and let root write there".into(),
            Error::Sqlite { .. } => "see whether k3s itself runs; if it does, try again".into(),
            Error::Damaged { .. } => {
                "look at the disk (dmesg tells); keep the older snapshots, and restore the last good one".into()
            }
        })
    }
}

/// Where the datastore of the node in `<storage>/<node>` lies, as the host sees it.
pub fn path(directory: &Path) -> PathBuf {
    outside(directory, &format!("{}/server/db/state.db", argument::DATA))
}

/// Copies the datastore `from` to the one file `to`, mode 0600, as it is at one moment, whether k3s runs or not. When
/// this returns the copy was checked and is on the disk; if it fails, what was at `to` is untouched. Blocks for as long
/// as the disk takes. Gives the copy's length in bytes.
///
/// # Errors
/// When there is no datastore, a lock is held for more than half a minute, the datastore is damaged, or the disk
/// refuses.
pub fn copy(from: &Path, to: &Path) -> Result<u64, Error> {
    if !fs::symlink_metadata(from).is_ok_and(|found| found.is_file()) {
        return Err(Error::Absent(from.to_owned()));
    }
    let draft = beside(to, ".new");
    let copied = sweep(&draft)
        .and_then(|()| fill(from, &draft))
        .and_then(|()| place(&draft, to));
    if copied.is_err() {
        // It takes space that the disk may lack; the first error is the one to report.
        let _ = sweep(&draft);
    }
    copied
}

/// Puts a copy in the datastore's place, [advanced](advance). k3s must not run. A crash half-way leaves either the older
/// database or the copy, each without the other's WAL.
///
/// # Errors
/// When there is no copy, or the disk refuses.
pub fn put_back(copy: &Path, datastore: &Path) -> Result<(), Error> {
    let draft = beside(datastore, ".new");
    let draw = || {
        let mut from = File::open(copy)?;
        let mut to = create(&draft)?;
        io::copy(&mut from, &mut to)?;
        to.sync_all()
    };
    sweep(&draft)?;
    draw().map_err(|source| match source.kind() {
        ErrorKind::NotFound => Error::Absent(copy.to_owned()),
        _ => Error::file("write", &draft)(source),
    })?;
    advance(&draft)?;
    // First: SQLite would play the older database's WAL into the copy.
    for suffix in BESIDE {
        remove(&beside(datastore, suffix))?;
    }
    place(&draft, datastore).map(drop)
}

/// Has k3s go on from a copy with revisions that nobody has seen. Kubelets, kube-proxies and flannels that run on remember
/// the last revision that they heard of, perhaps one from after the copy, and would take all up to that one for old news: a
/// deleted pod would run on. So many revisions are left out, and what is older counts as compacted: whoever asks for it is
/// told to read everything anew. etcd's restore does the same (`--bump-revision`, `--mark-compacted`). A datastore that is
/// not kine's is left alone.
///
/// # Errors
/// When it is no database, or the disk refuses.
pub fn advance(datastore: &Path) -> Result<(), Error> {
    let advanced = || {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut store = Connection::open_with_flags(datastore, flags)?;
        let table = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'kine'";
        if store.query_row(table, [], |row| row.get::<_, i64>(0))? == 0 {
            return Ok(());
        }
        let step = store.transaction()?;
        // As kine itself fills a gap: it counts as a revision and is no object.
        step.execute(
            "INSERT INTO kine (id, name, created, deleted, create_revision, prev_revision, lease, value, old_value)
             SELECT last, 'gap-' || last, 0, 1, 0, 0, 0, NULL, NULL
             FROM (SELECT coalesce(max(id), 0) + ?1 AS last FROM kine)",
            [LEFT_OUT],
        )?;
        step.execute(
            "UPDATE OR IGNORE kine SET prev_revision = (SELECT max(id) FROM kine) WHERE name = 'compact_rev_key'",
            [],
        )?;
        step.commit()
    };
    advanced().map_err(|source| Error::Sqlite {
        path: datastore.to_owned(),
        source,
    })
}

/// The same path with more at its end, as SQLite names what belongs to a database.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).open(path)
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Error::file("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// Removes a draft that a crash left, and what lies beside it.
fn sweep(draft: &Path) -> Result<(), Error> {
    for suffix in BESIDE {
        remove(&beside(draft, suffix))?;
    }
    remove(draft)
}

fn fill(from: &Path, draft: &Path) -> Result<(), Error> {
    // SQLite would give it the mode that the umask leaves.
    create(draft).map_err(Error::file("make", draft))?;
    let refused = |source| Error::Sqlite {
        path: from.to_owned(),
        source,
    };
    let copied = backup(from, draft).map_err(refused)?;
    let found: String = copied
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(refused)?;
    if found != "ok" {
        return Err(Error::Damaged {
            path: from.to_owned(),
            why: found,
        });
    }
    copied.close().map_err(|(_, source)| refused(source))
}

/// The draft as an open database in one file, which holds all that was committed in `from`.
fn backup(from: &Path, draft: &Path) -> rusqlite::Result<Connection> {
    // Not read-only: of a WAL that a crash left, SQLite must first make the index anew.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let source = Connection::open_with_flags(from, flags)?;
    source.busy_timeout(PATIENCE)?;
    let mut target = Connection::open_with_flags(draft, flags)?;
    let deadline = Instant::now() + PATIENCE;
    let backup = Backup::new(&source, &mut target)?;
    loop {
        // All pages in one step, so in one transaction: k3s writes on, and never makes the copy begin anew.
        match backup.step(-1)? {
            StepResult::Done => break,
            StepResult::Busy | StepResult::Locked if Instant::now() > deadline => {
                let busy = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
                return Err(rusqlite::Error::SqliteFailure(busy, None));
            }
            _ => std::thread::sleep(PAUSE),
        }
    }
    drop(backup);
    // The copy says of itself that it has a WAL, as its source has; it is to be one file.
    target.pragma_update_and_check(None, "journal_mode", "delete", |_| Ok(()))?;
    Ok(target)
}

/// Syncs the draft and puts it in its place; gives its length.
fn place(draft: &Path, to: &Path) -> Result<u64, Error> {
    let sync = || {
        let file = File::open(draft)?;
        file.sync_all()?;
        let length = file.metadata()?.len();
        fs::rename(draft, to)?;
        // The rename itself lasts only once the folder is synced.
        let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
        Ok(length)
    };
    sync().map_err(Error::file("write", to))
}

#[cfg(test)]
mod tests;
