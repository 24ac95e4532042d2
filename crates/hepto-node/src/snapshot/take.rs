//! Making one snapshot, in a running node or beside one that is stopped.

use std::fs::{self, File};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

use hepto_mesh::identity::Identity;
use hepto_mesh::name::{ClusterName, NodeName};
use zeroize::Zeroizing;

use super::age::Recipient;
use super::archive::{self, FORMAT, Head, Plan};
use super::shelf::{self, Bounds, Kept, Shelf};
use super::stamp::Stamp;
use crate::config::{ClusterSecret, Config};
use crate::fault::Fault;
use crate::k3s::datastore;

/// The copy of the datastore while a snapshot is made.
const DATASTORE: &str = ".datastore";
/// The snapshot while it is made.
const DRAFT: &str = ".draft";

/// All that making a master's snapshots takes.
pub struct Job {
    /// The cluster.
    pub cluster: ClusterName,
    /// The master.
    pub node: NodeName,
    /// `<storage>/<node>`.
    pub directory: PathBuf,
    /// Its config file.
    pub config: PathBuf,
    /// The overlay key's file.
    pub overlay_key: PathBuf,
    /// The cluster key.
    pub cluster_key: Zeroizing<String>,
    /// To whom they are encrypted.
    pub recipient: Recipient,
    /// What is kept on its own disk.
    pub bounds: Bounds,
}

impl Job {
    /// Of a master; `None` where this node makes none: it is an agent, or runs no k3s.
    ///
    /// # Errors
    /// `W-SNAPSHOT-RECIPIENT` where no key is set to encrypt them to.
    pub fn new(config: &Config) -> Result<Option<Job>, Fault> {
        let Some(ClusterSecret::Master(key)) = config.k3s.as_ref().map(|k3s| &k3s.secret) else {
            return Ok(None);
        };
        let Some(recipient) = &config.snapshot.recipient else {
            let what = "no snapshots are made: there is no key to encrypt them to";
            return Err(Fault::new("W-SNAPSHOT-RECIPIENT", what).fix(
                "on your own machine: hepto-node keys generate operator --out FILE; write the public key that it prints as \
                 `recipient` below [snapshot]",
            ));
        };
        Ok(Some(Job {
            cluster: config.cluster.name.clone(),
            node: config.node.name.clone(),
            directory: config.node_directory(),
            config: config.path.clone(),
            overlay_key: config.cluster.key_files.overlay.clone(),
            cluster_key: Zeroizing::new(key.expose().to_owned()),
            recipient: recipient.clone(),
            bounds: Bounds {
                keep: config.snapshot.keep.max(1),
                space: config.snapshot.space,
            },
        }))
    }

    /// Its shelf.
    pub fn shelf(&self) -> Shelf {
        Shelf::of(&self.directory)
    }

    /// Makes a snapshot and puts it on the shelf. Blocks for as long as the disk takes.
    ///
    /// # Errors
    /// When something cannot be read, copied or written; the older snapshots are as they were.
    pub fn take(&self) -> Result<Kept, Fault> {
        let shelf = self.shelf();
        shelf
            .make()
            .map_err(|error| self.unwritten(&shelf, error))?;
        let taken = self.draw(&shelf);
        for rest in [DATASTORE, DRAFT] {
            // It takes space that the disk may lack. That it may be gone is no news.
            let _ = fs::remove_file(shelf.path(rest));
        }
        taken
    }

    fn draw(&self, shelf: &Shelf) -> Result<Kept, Fault> {
        let identity = Identity::load(&self.directory.join("identity"))?.ok_or_else(|| {
            let what = format!("there is no identity in {}", self.directory.display());
            Fault::new("E-SNAPSHOT-WRITE", what).fix("start the node once")
        })?;
        let copy = shelf.path(DATASTORE);
        datastore::copy(&datastore::path(&self.directory), &copy)?;
        // Never of the same second as the one before, nor of an earlier one where the clock was set back: the latest is
        // known by its name, here and on the agents.
        let last = shelf.list().pop();
        let earliest = last.map_or(Stamp(0), |last| Stamp(last.made.0 + 1));
        let head = Head {
            format: FORMAT,
            cluster: self.cluster.to_string(),
            node: self.node.to_string(),
            made: Stamp::now().max(earliest),
            version: env!("CARGO_PKG_VERSION").into(),
            identity: identity.fingerprint(),
        };
        let name = shelf::name(&self.node, head.made);
        let written = || {
            let draft = BufWriter::new(shelf.draft(DRAFT, true)?);
            self.write(head, &copy, draft)?;
            shelf.place(DRAFT, &name, self.bounds)?;
            Ok(fs::metadata(shelf.path(&name))?.len())
        };
        let size = written().map_err(|error| self.unwritten(shelf, error))?;
        let (_, made) = shelf::named(&name).expect("it was just named so");
        Ok(Kept { name, made, size })
    }

    fn write(&self, head: Head, datastore: &Path, draft: BufWriter<File>) -> io::Result<()> {
        let plan = Plan {
            head,
            directory: &self.directory,
            datastore,
            config: &self.config,
            overlay_key: &self.overlay_key,
            cluster_key: &self.cluster_key,
        };
        archive::write(&plan, &self.recipient, draft)?.flush()
    }

    fn unwritten(&self, shelf: &Shelf, error: io::Error) -> Fault {
        let what = format!(
            "cannot write a snapshot into {}: {error}",
            shelf.path("").display()
        );
        let fault = Fault::new("E-SNAPSHOT-WRITE", what);
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => fault.fix(
                "make room on the disk of node.storage, or lower snapshot.keep; the older snapshots are as they were",
            ),
            _ => fault.fix("see that root can read and write there; the older snapshots are as they were"),
        }
    }
}
