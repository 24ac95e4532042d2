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
mod backup;
mod cancel;
mod client;
mod digest;
mod download;
mod embedded;
mod error;
mod fetch;
mod history;
mod images;
#[cfg(test)]
mod pack;
mod record;
mod release;
mod store;

use std::path::{Path, PathBuf};

pub use self::acquisition::{Acquisition, pause};
pub use self::backup::back_up;
pub use self::cancel::Cancel;
pub use self::client::Patience;
pub use self::digest::{Digest, NotADigest};
pub use self::download::Progress;
pub use self::embedded::{EMBEDDED, Embedded};
pub use self::error::Error;
use self::fetch::Fetch;
pub use self::history::{History, Known};
pub use self::images::{Archive, FORMS};
pub use self::release::{PUBLIC, Release, Version};
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
    /// `k3s.version`: a release, downloaded once.
    Release(Release),
}

impl std::fmt::Display for Source {
    /// What the operator calls it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::Binary(path) => write!(f, "{}", path.display()),
            Source::Embedded(_) => f.write_str("the embedded k3s"),
            Source::Release(release) => write!(f, "k3s {}", release.version),
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
    /// Images that are to be there before pods start.
    pub images: Option<Archive>,
    /// How long servers are waited for.
    pub patience: Patience,
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
    /// The release's checksums are asked for, or its server.
    Asking,
    /// A file is downloaded.
    Downloading(Progress),
    /// After a failure, until it is tried again.
    Pausing,
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Stage::Reading => "reading what is there",
            Stage::Waiting => "waiting for another node of this storage, which is at it",
            Stage::Unpacking => "unpacking",
            Stage::Asking => "asking for the release's checksums",
            Stage::Downloading(progress) => return write!(f, "downloading {progress}"),
            Stage::Pausing => "pausing",
        })
    }
}

/// Acquires what is ordered, and notes it in the node's history. Blocks: for as long as reading 70 MB takes where it is
/// there already.
///
/// # Errors
/// What stands in the way; nothing that could be started is left half.
pub fn acquire(order: &Order, cancel: &Cancel, tell: &dyn Fn(Stage)) -> Result<Acquired, Error> {
    tell(Stage::Reading);
    let mut acquired = match &order.source {
        Source::Binary(path) => own(path)?,
        Source::Embedded(embedded) => unpacked(order, embedded, cancel, tell)?,
        Source::Release(release) => Fetch::new(order, release, cancel, tell)?.release()?,
    };
    if let Some(Archive::File(path)) = &order.images {
        acquired.images = Some(images::own(path)?);
    }
    images::place(&order.node_directory, acquired.images.as_ref(), cancel)?;
    note(order, &acquired)?;
    Ok(acquired)
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
    let acquired = |path| Acquired {
        path,
        digest,
        name: order.source.to_string(),
        images: None,
    };
    if let Some(path) = store.verified(&digest, PROGRAM)? {
        let acquired = acquired(path);
        if keep(order, &acquired)? {
            return Ok(acquired);
        }
    }
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
    let acquired = acquired(path);
    note(order, &acquired)?;
    locked.tidy(&[digest], cancel)?;
    Ok(acquired)
}

/// Notes what was just found in the store, without waiting for who downloads there; whether it still lies there: from
/// then on it does.
fn keep(order: &Order, acquired: &Acquired) -> Result<bool, Error> {
    let _quiet = Store::of(&order.storage).quiet(&Cancel::default())?;
    let files = [
        Some(&acquired.path),
        acquired.images.as_ref().map(|images| &images.path),
    ];
    let there = files.into_iter().flatten().all(|path| path.exists());
    if there {
        note(order, acquired)?;
    }
    Ok(there)
}

#[cfg(test)]
mod tests;
