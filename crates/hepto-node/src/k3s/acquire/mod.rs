//! Acquiring k3s: from the config's [`Source`] to a program that may be started, or the reason why there is none.
//!
//! It never starts anything and never ends anything. What it gives is a file whose digest it has just read; what is not
//! whole never has a name by which it could be started. Start reading at [`acquire`], which blocks; [`Acquisition`] runs
//! it beside a node, again and again until it succeeds.
//!
//! For who starts, upgrades and rolls back:
//!
//! - [`Acquisition::start`] with the order of a config, then [`Acquisition::changed`] and [`Acquisition::acquired`]: the
//!   path of the program for this config, or [`Acquisition::problem`];
//! - [`History`]: which k3s the node acquired, started, and was ready with last. What it names stays in the store.
//! - [`Store::folder`] is visible inside of the node, so a program that comes later can be started in the sandbox that is
//!   there.

mod acquisition;
mod digest;
mod embedded;
mod error;
mod history;
#[cfg(test)]
mod pack;
mod store;

use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use self::acquisition::Acquisition;
pub use self::digest::Digest;
pub use self::embedded::{EMBEDDED, Embedded};
pub use self::error::Error;
pub use self::history::{History, Known};
pub use self::store::Store;
use super::binary;

/// The program's name in the store.
const PROGRAM: &str = "k3s";

/// Where k3s comes from: the one way that a config chose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `k3s.binary`: a program of the owner's.
    Binary(PathBuf),
    /// The one inside of our own binary.
    Embedded(Embedded),
}

impl std::fmt::Display for Source {
    /// What the operator calls it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::Binary(path) => write!(f, "{}", path.display()),
            Source::Embedded(_) => f.write_str("the embedded k3s"),
        }
    }
}

/// What is to be acquired, for which node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// From where.
    pub source: Source,
    /// `node.storage`, whose nodes share what is acquired.
    pub storage: PathBuf,
    /// The node's own folder, with its [`History`].
    pub node_directory: PathBuf,
}

/// A k3s that may be started: its file was read and has this digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acquired {
    /// The program.
    pub path: PathBuf,
    /// Its digest.
    pub digest: Digest,
    /// What the operator calls it: a version, a path.
    pub name: String,
    /// The archive of images to be imported before pods start, if one is wanted.
    pub images: Option<Images>,
}

/// An archive of container images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Images {
    /// The archive.
    pub path: PathBuf,
    /// Its digest.
    pub digest: Digest,
}

/// What is being done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Stage {
    /// What is there is read.
    #[default]
    Reading,
    /// Another node of this storage works on the store.
    Waiting,
    /// The embedded program is unpacked.
    Unpacking,
    /// After a failure, until it is tried again.
    Pausing,
}

/// Acquires what is ordered, and notes it in the node's history. Blocks: for as long as reading 70 MB takes where it is
/// there already.
///
/// # Errors
/// What stands in the way; nothing that could be started is left half.
pub fn acquire(order: &Order, cancel: &Cancel, tell: &dyn Fn(Stage)) -> Result<Acquired, Error> {
    tell(Stage::Reading);
    match &order.source {
        Source::Binary(path) => {
            let acquired = own(path)?;
            note(order, &acquired)?;
            Ok(acquired)
        }
        Source::Embedded(embedded) => unpacked(order, embedded, cancel, tell),
    }
}

fn note(order: &Order, acquired: &Acquired) -> Result<(), Error> {
    History::update(&order.node_directory, |history| {
        history.acquired = Some(acquired.into());
    })
}

/// A program of the owner's.
fn own(path: &Path) -> Result<Acquired, Error> {
    binary::check(path)?;
    let read = std::fs::File::open(path).and_then(Digest::of);
    let digest = read.map_err(|error| Error::Binary {
        path: path.to_owned(),
        why: error.to_string(),
    })?;
    Ok(Acquired {
        path: path.to_owned(),
        digest,
        name: path.display().to_string(),
        images: None,
    })
}

/// The program inside of our own binary, unpacked if it is not.
fn unpacked(
    order: &Order,
    embedded: &Embedded,
    cancel: &Cancel,
    tell: &dyn Fn(Stage),
) -> Result<Acquired, Error> {
    let store = Store::of(&order.storage);
    let digest: Digest = embedded.sha256.parse().expect("the build wrote a digest");
    // The store is held also where nothing is to be written: what is noted now is not tidied away.
    let locked = store.lock(cancel, || tell(Stage::Waiting))?;
    let path = match store.verified(&digest, PROGRAM)? {
        Some(path) => path,
        None => {
            tell(Stage::Unpacking);
            let partial = locked.partial(&digest)?;
            embedded.unpack(&partial, cancel)?;
            locked.put(&partial, &digest, PROGRAM, "the k3s inside of hepto-node")?
        }
    };
    let acquired = Acquired {
        path,
        digest,
        name: order.source.to_string(),
        images: None,
    };
    note(order, &acquired)?;
    locked.tidy(&[digest]);
    Ok(acquired)
}

/// By which work that blocks is told to end.
#[derive(Debug, Default)]
pub struct Cancel {
    over: Mutex<bool>,
    changed: Condvar,
}

impl Cancel {
    /// Ends the work.
    pub fn cancel(&self) {
        *self.over.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    /// Whether it is to end.
    pub fn is_cancelled(&self) -> bool {
        *self.over.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits; whether the work is to end.
    pub fn sleep(&self, duration: Duration) -> bool {
        let until = Instant::now() + duration;
        let mut over = self.over.lock().unwrap_or_else(PoisonError::into_inner);
        while !*over {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            over = self
                .changed
                .wait_timeout(over, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        true
    }
}

#[cfg(test)]
mod tests;
