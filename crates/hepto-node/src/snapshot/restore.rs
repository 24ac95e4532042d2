//! Turning a snapshot into a node's storage: read to its end first, unpacked beside the place, renamed at the end.
//!
//! Nothing is written before all of it was decrypted, proved and compared with the config; nothing stands in the
//! storage's place before all of it is on the disk; and what stood there is moved aside, never removed.

use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use hepto_mesh::identity::Identity;

use super::age;
use super::archive::{self, Contents};
use super::shelf::{Kept, Shelf, named};
use super::stamp::Stamp;
use crate::config::{ClusterSecret, Config};
use crate::fault::{Exit, Fault};
use crate::k3s::datastore;
use crate::secret::quote;
use crate::state;

/// In a node's folder: when that was last brought up from a snapshot.
const RESTORED: &str = "mesh/restored";

/// What was restored.
#[derive(Debug)]
pub struct Restored {
    /// What the snapshot says of itself.
    pub head: archive::Head,
    /// Where the storage that was there lies now.
    pub aside: Option<PathBuf>,
    /// The snapshot's overlay key is not the config's.
    pub other_overlay_key: bool,
}

/// The operator's key that opens snapshots.
///
/// # Errors
/// `E-KEY-…` when the file is not for root's eyes alone or holds no key of the age format.
pub fn operator_key(path: &Path) -> Result<age::Identity, Fault> {
    let text = crate::secret::read(path)?;
    age::Identity::in_file(&text).map_err(|error| {
        let what = format!("{}: {error}", path.display());
        Fault::new("E-KEY-OPERATOR", what)
            .fix("name the file that `hepto-node keys generate operator` wrote")
            .exit(Exit::Usage)
    })
}

/// Reads a snapshot to its end and writes nothing. With `cluster_key` it must prove to be made with that.
///
/// # Errors
/// Whatever is wrong with it, a code for each.
pub fn examine(
    file: &Path,
    key: &age::Identity,
    cluster_key: Option<&str>,
) -> Result<Contents, Fault> {
    read(file, key, cluster_key, None)
}

fn read(
    path: &Path,
    key: &age::Identity,
    cluster_key: Option<&str>,
    into: Option<&Path>,
) -> Result<Contents, Fault> {
    let file = File::open(path).map_err(|error| {
        let what = format!("cannot read the snapshot {}: {error}", path.display());
        Fault::new("E-RESTORE-READ", what)
            .fix("name the file that `hepto-node snapshot list` shows")
    })?;
    archive::read(file, key, cluster_key, into).map_err(|error| refused(path, error))
}

fn refused(path: &Path, error: archive::Error) -> Fault {
    let (code, fix) = match &error {
        archive::Error::Age(age::Error::OtherKey) => (
            "E-RESTORE-KEY",
            "name the operator's key whose public half was the master's `recipient` when it was made",
        ),
        archive::Error::Age(age::Error::Damaged) => (
            "E-RESTORE-DAMAGED",
            "take another copy: `hepto-node snapshot list` on the agents shows them",
        ),
        archive::Error::Age(age::Error::Read(_)) => (
            "E-RESTORE-READ",
            "see that the disk with the snapshot is sound (dmesg tells)",
        ),
        archive::Error::Age(_) | archive::Error::Form(_) => (
            "E-RESTORE-FORM",
            "name a snapshot, as `hepto-node snapshot list` shows them: NODE-TIME.age",
        ),
        archive::Error::Newer(_) => (
            "E-RESTORE-FORMAT",
            "install the version of hepto-node that made it, or a later one",
        ),
        archive::Error::Unproved => (
            "E-RESTORE-PROOF",
            "take the copy of another node; whoever kept this one may have made it himself",
        ),
        archive::Error::Write { .. } => (
            "E-RESTORE-WRITE",
            "make room in node.storage and let root write there",
        ),
    };
    Fault::new(code, format!("the snapshot {}: {error}", path.display())).fix(fix)
}

/// Makes the storage of the config's node from a snapshot. With `force`, a storage that is there is moved aside.
///
/// # Errors
/// When the snapshot is not this node's or not sound, or the place is taken; then nothing was changed.
pub fn restore(
    config: &Config,
    file: &Path,
    key: &age::Identity,
    force: bool,
) -> Result<Restored, Fault> {
    let Some(ClusterSecret::Master(cluster_key)) = config.k3s.as_ref().map(|k3s| &k3s.secret)
    else {
        let what = format!(
            "{} is not the config of a master with k3s",
            config.path.display()
        );
        return Err(Fault::new("E-RESTORE-ROLE", what)
            .fix("name the master's config: cluster.master is node.name there, and k3s is on")
            .exit(Exit::BadConfig));
    };
    let contents = examine(file, key, Some(cluster_key.expose()))?;
    expect_same(config, &contents.head)?;
    let directory = config.node_directory();
    // Held to the end, so that nobody starts what is moved aside.
    let _lock = occupant(&directory, force)?;
    let staging = config
        .node
        .storage
        .join(format!(".restore-{}", config.node.name));
    let restored = fill(config, file, key, cluster_key.expose(), &staging, &contents)
        .and_then(|fingerprint| Ok((fingerprint, exchange(&staging, &directory)?)));
    let (fingerprint, aside) = match restored {
        Ok(done) => done,
        Err(fault) => {
            // The first error is the one to report.
            let _ = fs::remove_dir_all(&staging);
            return Err(fault);
        }
    };
    state::replace_identity(config, &fingerprint);
    let overlay = contents.overlay_key.parse().ok();
    Ok(Restored {
        head: contents.head,
        aside,
        other_overlay_key: overlay.as_ref() != Some(&config.cluster.overlay_key),
    })
}

/// When a node's storage was last brought up from a snapshot, seconds since 1970; 0 for never.
///
/// # Errors
/// `E-STORAGE` when that cannot be read: a node that forgets it would take itself for the machine that it was moved from.
pub fn moment(config: &Config) -> Result<u64, Fault> {
    let path = config.node_directory().join(RESTORED);
    let moment = match fs::read_to_string(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        Err(error) => Err(error.to_string()),
        Ok(text) => text
            .trim()
            .parse()
            .map_err(|_| "it holds no number".to_owned()),
    };
    moment.map_err(|why| {
        Fault::new(
            "E-STORAGE",
            format!("cannot read {}: {why}", path.display()),
        )
        .fix("check the disk; or restore the node once more, with --force")
    })
}

fn expect_same(config: &Config, head: &archive::Head) -> Result<(), Fault> {
    let (cluster, node) = (config.cluster.name.as_str(), config.node.name.as_str());
    if head.cluster == cluster && head.node == node {
        return Ok(());
    }
    let what = format!(
        "the snapshot is of {} in the cluster {}, and {} is of {node} in {cluster}",
        head.node,
        head.cluster,
        config.path.display()
    );
    Err(Fault::new("E-RESTORE-OTHER", what)
        .fix("name the config and the snapshot of one and the same master")
        .exit(Exit::BadConfig))
}

/// Refuses a place that is taken, unless it is to be moved aside and nobody runs there; gives the lock on it.
fn occupant(directory: &Path, force: bool) -> Result<Option<state::Lock>, Fault> {
    match fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unwritten(directory, &error)),
        Ok(mut entries) => {
            if entries.next().is_none() {
                return Ok(None);
            }
        }
    }
    if !force {
        let what = format!("{} holds a node already", directory.display());
        return Err(Fault::new("E-RESTORE-OCCUPIED", what)
            .fix("see whether it is still of use; --force moves it aside and removes nothing"));
    }
    state::lock(directory).map(Some)
}

/// Unpacks into the staging folder and looks at what came out; gives the identity's fingerprint.
fn fill(
    config: &Config,
    file: &Path,
    key: &age::Identity,
    cluster_key: &str,
    staging: &Path,
    contents: &Contents,
) -> Result<String, Fault> {
    let made = match fs::remove_dir_all(staging) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        // What an earlier restore left that was killed.
        _ => DirBuilder::new().mode(0o700).create(staging),
    };
    made.map_err(|error| unwritten(staging, &error))?;
    // All of it is proved once more: the file may have been changed since it was examined.
    read(file, key, Some(cluster_key), Some(staging))?;
    let identity = Identity::load(&staging.join("identity"))?;
    let fingerprint = identity.map(|identity| identity.fingerprint());
    if fingerprint.as_ref() != Some(&contents.head.identity) || !datastore::path(staging).is_file()
    {
        let what = format!(
            "the snapshot {} lacks the identity or the datastore",
            file.display()
        );
        return Err(Fault::new("E-RESTORE-FORM", what).fix("take another snapshot"));
    }
    // Of the machines with this identity the last that was restored is the node. A clock that stands at 1970 does not count.
    let moment = Stamp::now().0.max(contents.head.made.0 + 1);
    let mut folder = DirBuilder::new();
    folder.recursive(true).mode(0o700);
    folder
        .create(staging.join("mesh"))
        .and_then(|()| fs::write(staging.join(RESTORED), format!("{moment}\n")))
        .map_err(|error| unwritten(staging, &error))?;
    // Agents that run on have perhaps heard of what came after it.
    datastore::advance(&datastore::path(staging))?;
    let synced =
        File::open(&config.node.storage).and_then(|storage| Ok(rustix::fs::syncfs(&storage)?));
    synced.map_err(|error| unwritten(staging, &error))?;
    Ok(contents.head.identity.clone())
}

/// Puts the staging folder in its place; gives where the storage that was there lies now.
fn exchange(staging: &Path, directory: &Path) -> Result<Option<PathBuf>, Fault> {
    let occupied = fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some());
    let mut aside = directory.as_os_str().to_owned();
    aside.push(format!(".before-{}", Stamp::now()));
    let aside = occupied.then(|| PathBuf::from(aside));
    let renamed = || -> io::Result<()> {
        if let Some(aside) = &aside {
            fs::rename(directory, aside)?;
        }
        // An empty folder in its place gives way.
        if let Err(error) = fs::rename(staging, directory) {
            if let Some(aside) = &aside {
                fs::rename(aside, directory)?;
            }
            return Err(error);
        }
        match directory.parent() {
            Some(storage) => File::open(storage)?.sync_all(),
            None => Ok(()),
        }
    };
    renamed().map_err(|error| unwritten(directory, &error))?;
    Ok(aside)
}

fn unwritten(path: &Path, error: &io::Error) -> Fault {
    Fault::new(
        "E-RESTORE-WRITE",
        format!("cannot write {}: {error}", path.display()),
    )
    .fix("make room in node.storage and let root write there")
}

/// The newest snapshot of the config's node that a node of its cluster on this machine keeps.
///
/// # Errors
/// `E-RESTORE-AGENT` when there is none.
pub fn of_agent(config: &Config, agent: &str) -> Result<PathBuf, Fault> {
    let run = crate::target::RunDirectory::new(config.cluster.name.as_str(), agent);
    // A node that does not run is looked for in the same storage.
    let directory = state::Record::read(&run.path).map_or_else(
        || config.node.storage.join(agent),
        |record| record.directory,
    );
    let shelf = Shelf::of(&directory);
    let ours = |kept: &Kept| named(&kept.name).is_some_and(|(node, _)| node == config.node.name);
    match shelf.list().into_iter().rfind(ours) {
        Some(kept) => Ok(shelf.path(&kept.name)),
        None => {
            let what = format!(
                "{agent} keeps no snapshot of {} on this machine",
                config.node.name
            );
            Err(Fault::new("E-RESTORE-AGENT", what).fix(format!(
                "on the agent's machine `hepto-node snapshot list` shows what it keeps: copy one here, and name it with \
                 --from FILE; here it was looked for in {}",
                quote(&shelf.path(""))
            )))
        }
    }
}
