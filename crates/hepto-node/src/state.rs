//! What a node holds on its host while it runs: the lock on its storage, its run directory, and the note beside
//! its config file by which a lost disk is told from a new node.

mod lock;

use std::fs::{self, DirBuilder, File};
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use hepto_mesh::core::Notice;
use nix::fcntl::Flock;
use rustix::io::{FdFlags, fcntl_setfd};
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::fault::{Exit, Fault};
use crate::node::{Fixed, fixed};

pub use lock::take as lock;

/// The lock on a node's storage.
pub type Lock = Flock<File>;

/// The name of the file in the run directory that says what a node made, for `stop` after a crash.
const RECORD: &str = "node.json";

/// What a running node wrote down about itself in its run directory.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Record {
    /// The cluster's name.
    pub cluster: String,
    /// The node's name.
    pub node: String,
    /// The supervisor's process.
    pub pid: i32,
    /// The config file, absolute.
    pub config: PathBuf,
    /// `<storage>/<node>`.
    pub directory: PathBuf,
    /// The namespace's name under `/run/netns`.
    pub namespace: String,
    /// The host's interface that carries the uplink.
    pub interface: String,
    /// The settings that it keeps while it runs, with their values.
    #[serde(default)]
    pub fixed: Fixed,
}

impl Record {
    /// The record in a run directory; `None` when there is none that can be read.
    pub fn read(run_directory: &Path) -> Option<Record> {
        serde_json::from_slice(&fs::read(run_directory.join(RECORD)).ok()?).ok()
    }
}

/// The lock and the run directory of a node that runs. Dropping it frees the lock alone.
#[derive(Debug)]
pub struct State {
    lock: Flock<File>,
    run_directory: PathBuf,
}

impl State {
    /// Takes the node's storage and makes its run directory. `inherited` is the descriptor of the lock that the program
    /// before a reload held.
    ///
    /// # Errors
    /// `E-RUN-TWICE` (exit 75) while another process holds the node, `E-STORAGE-OTHER` when the storage belongs to a
    /// node of another cluster, `E-MESH-MOVED` when the node is on another machine, `E-STORAGE-ABSENT` when the storage that held the identity is not there, `E-STORAGE` and `E-RUN-DIR` when a folder cannot be made.
    pub fn acquire(config: &Config, inherited: Option<i32>) -> Result<State, Fault> {
        expect_storage(config)?;
        let directory = config.node_directory();
        make_directory(&directory).map_err(|error| {
            Fault::new(
                "E-STORAGE",
                format!("cannot make {}: {error}", directory.display()),
            )
            .fix("check node.storage, and that its disk is mounted, writable and not full")
        })?;
        let lock = match inherited {
            Some(descriptor) => lock::inherit(descriptor, &directory)?,
            None => lock::take(&directory)?,
        };
        claim(&directory, config)?;
        expect_here(&directory)?;
        let run_directory = config.run_directory();
        let made =
            make_directory(&run_directory).and_then(|()| write_record(&run_directory, config));
        made.map_err(|error| {
            let what = format!("cannot write {}: {error}", run_directory.display());
            let permission = error.kind() == ErrorKind::PermissionDenied;
            Fault::new("E-RUN-DIR", what)
                .fix("run as root, with a writable /run")
                .exit(if permission {
                    Exit::NoPermission
                } else {
                    Exit::Failed
                })
        })?;
        Ok(State {
            lock,
            run_directory,
        })
    }

    /// `/run/hepto/<cluster>.<node>`.
    pub fn run_directory(&self) -> &Path {
        &self.run_directory
    }

    /// The lock's descriptor.
    pub fn descriptor(&self) -> i32 {
        self.lock.as_raw_fd()
    }

    /// The lock, for a process that holds it together with this one.
    pub fn lock(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }

    /// Whether the next program that is executed in this process holds the lock, too.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn pass_on(&self, pass: bool) -> std::io::Result<()> {
        let flags = match pass {
            true => FdFlags::empty(),
            false => FdFlags::CLOEXEC,
        };
        Ok(fcntl_setfd(&*self.lock, flags)?)
    }

    /// Removes the run directory, and `/run/hepto` when it was the last one.
    ///
    /// # Errors
    /// A sentence for what could not be removed.
    pub fn release(self) -> Result<(), String> {
        remove_run_directory(&self.run_directory)
    }
}

/// Removes a run directory, and `/run/hepto` when it was the last one.
///
/// # Errors
/// A sentence for what could not be removed.
pub fn remove_run_directory(run_directory: &Path) -> Result<(), String> {
    match fs::remove_dir_all(run_directory) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(format!(
                "cannot remove {}: {error}",
                run_directory.display()
            ));
        }
        _ => {}
    }
    // Other nodes may be in there: then it stays, and that is no error.
    if let Some(parent) = run_directory.parent() {
        let _ = fs::remove_dir(parent);
    }
    Ok(())
}

fn make_directory(path: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Writes down beside the config file which identity its node has from now on.
pub fn replace_identity(config: &Config, fingerprint: &str) {
    let path = identity_note(&config.path);
    if let Err(error) = fs::write(&path, format!("{fingerprint}\n")) {
        tracing::warn!(code = "W-NODE-IDENTITY", fix = "remove that file if it names another, and make the folder writable", %error, path = %path.display(), "cannot remember the identity beside the config");
    }
}

/// Takes the lock of a node while its remains are removed; `None` where its storage is gone, without which nobody
/// runs it.
///
/// # Errors
/// `E-STOP-SILENT` while its supervisor lives.
pub fn lock_remains(record: &Record) -> Result<Option<Flock<File>>, Fault> {
    match lock::take(&record.directory) {
        Ok(lock) => Ok(Some(lock)),
        Err(fault) if fault.exit == Exit::AlreadyRunning => {
            let pid = record.pid;
            let what = format!("process {pid} runs this node, but does not answer");
            let fix = format!("kill {pid}; then run this command again");
            Err(Fault::new("E-STOP-SILENT", what).fix(fix))
        }
        Err(_) => Ok(None),
    }
}

/// Takes the lock of the node whose folder this is: nobody starts it as long as the result lives.
///
/// # Errors
/// `E-RUN-TWICE` while another process runs it, `E-STORAGE` when the lock cannot be opened.
pub fn hold(directory: &Path) -> Result<Flock<File>, Fault> {
    lock::take(directory)
}

/// The storage of a node belongs to one cluster: two clusters may both have a `mars`, but not in one folder.
fn claim(directory: &Path, config: &Config) -> Result<(), Fault> {
    let path = directory.join("cluster");
    let ours = config.cluster.name.to_string();
    match fs::read_to_string(&path) {
        Ok(theirs) if theirs.trim() == ours => Ok(()),
        Ok(theirs) => {
            let what = format!(
                "{} belongs to cluster {}, not to {ours}",
                directory.display(),
                theirs.trim()
            );
            Err(Fault::new("E-STORAGE-OTHER", what)
                .fix("give each cluster on this host its own node.storage")
                .exit(Exit::BadConfig))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => fs::write(&path, format!("{ours}\n"))
            .map_err(|error| {
                Fault::new(
                    "E-STORAGE",
                    format!("cannot write {}: {error}", path.display()),
                )
                .fix("check that the disk of node.storage is writable and not full")
            }),
        Err(error) => Err(Fault::new(
            "E-STORAGE",
            format!("cannot read {}: {error}", path.display()),
        )),
    }
}

/// The name of the file in the node's folder that says that the node is on another machine now.
const MOVED: &str = "moved";

/// Notes that the node is on another machine, so that no start on this one disturbs it again.
///
/// # Errors
/// When the disk refuses.
pub fn mark_moved(config: &Config) -> std::io::Result<()> {
    let text = format!("{}\n", Notice::Moved);
    fs::write(config.node_directory().join(MOVED), text)
}

/// Refuses a folder whose node is on another machine.
fn expect_here(directory: &Path) -> Result<(), Fault> {
    match directory.join(MOVED).exists() {
        false => Ok(()),
        true => Err(moved()),
    }
}

/// The fault of a node that is on another machine.
pub fn moved() -> Fault {
    let notice = Notice::Moved;
    Fault::new(notice.code(), notice.to_string())
        .fix(notice.fix().unwrap_or_default())
        .exit(Exit::BadConfig)
}

fn write_record(run_directory: &Path, config: &Config) -> std::io::Result<()> {
    let record = Record {
        cluster: config.cluster.name.to_string(),
        node: config.node.name.to_string(),
        pid: std::process::id() as i32,
        config: fs::canonicalize(&config.path).unwrap_or_else(|_| config.path.clone()),
        directory: config.node_directory(),
        namespace: config.namespace(),
        interface: config.network.interface.clone(),
        fixed: fixed(config),
    };
    fs::write(
        run_directory.join(RECORD),
        serde_json::to_vec_pretty(&record)?,
    )
}

/// Refuses to begin where a remembered identity's storage is missing, before a folder is made on the wrong disk.
fn expect_storage(config: &Config) -> Result<(), Fault> {
    let identity = config.node_directory().join("identity");
    match fs::read_to_string(identity_note(&config.path)) {
        Ok(known) if !identity.exists() => {
            Err(storage_absent(config, &known, "there is no identity"))
        }
        _ => Ok(()),
    }
}

/// Compares the identity's fingerprint with the one remembered beside the config file, or remembers it.
///
/// # Errors
/// `E-STORAGE-ABSENT` when they differ.
pub fn remember_identity(config: &Config, fingerprint: &str) -> Result<(), Fault> {
    let path = identity_note(&config.path);
    match fs::read_to_string(&path) {
        Ok(known) if known.trim() == fingerprint => Ok(()),
        Ok(known) => Err(storage_absent(config, &known, "there is another identity")),
        Err(_) => {
            if let Err(error) = fs::write(&path, format!("{fingerprint}\n")) {
                tracing::warn!(code = "W-NODE-IDENTITY", fix = "make the folder writable", %error, path = %path.display(), "cannot remember the identity beside the config, so a lost disk will not be noticed");
            }
            Ok(())
        }
    }
}

fn storage_absent(config: &Config, known: &str, found: &str) -> Fault {
    let (directory, note) = (config.node_directory(), identity_note(&config.path));
    let what = format!(
        "{found} in {}, but {} remembers {}",
        directory.display(),
        note.display(),
        known.trim()
    );
    Fault::new("E-STORAGE-ABSENT", what)
        .fix(format!("mount the disk of node.storage; if its data is lost for good, remove {} and start as a new node", note.display()))
        .exit(Exit::BadConfig)
}

/// `<config>.identity`.
pub fn identity_note(config: &Path) -> PathBuf {
    let mut name = config.as_os_str().to_owned();
    name.push(".identity");
    PathBuf::from(name)
}
