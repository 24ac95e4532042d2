//! An upgrade on the disk: how far it is, and the datastore from before it. Both lie in `<storage>/<node>/upgrade`.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::{Plan, Trial};
use crate::k3s::acquire::{Digest, Known};
use crate::k3s::datastore;

const FOLDER: &str = "upgrade";
const STATE: &str = "state.json";
/// The datastore as it was when the earlier k3s had ended.
const DATASTORE: &str = "state.db";

/// The trial that is under way, or failed; none where nothing can be read.
pub fn read(directory: &Path) -> Option<Trial> {
    let path = directory.join(FOLDER).join(STATE);
    let text = fs::read(&path).ok()?;
    let read = serde_json::from_slice(&text);
    read.inspect_err(|error| {
        tracing::warn!(
            code = "W-K3S-NOTE", fix = "look at the disk's health: dmesg, smartctl", %error, path = %path.display(),
            "how far an upgrade of k3s was cannot be read; the one that the config names is started"
        );
    })
    .ok()
}

/// Writes it, whole or not at all; removes all of it where there is none.
pub fn write(directory: &Path, trial: Option<&Trial>) -> io::Result<()> {
    let folder = directory.join(FOLDER);
    let Some(trial) = trial else {
        return match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    };
    make(&folder)?;
    let fresh = folder.join("state.json.new");
    let file = fs::File::create(&fresh)?;
    serde_json::to_writer_pretty(&file, trial)?;
    file.sync_all()?;
    fs::rename(&fresh, folder.join(STATE))
}

fn make(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
}

/// Does what a plan asks of the disk, while k3s does not run. Blocks for as long as the disk takes.
///
/// # Errors
/// Why it cannot be done, in words.
pub fn prepare(directory: &Path, plan: &Plan) -> Result<(), String> {
    let (datastore, copy) = (datastore::path(directory), copy(directory));
    match plan {
        Plan::Try(Trial {
            from: Some(from), ..
        }) => {
            whole(from)?;
            keep(&datastore, &copy)
        }
        Plan::Return(from) => {
            whole(from)?;
            match copy.exists() {
                true => datastore::put_back(&copy, &datastore).map_err(|error| error.to_string()),
                false => Ok(()),
            }
        }
        Plan::Try(_) | Plan::Start(_) => Ok(()),
    }
}

/// Copies the datastore, where there is one: agents have none, nor has a server before its first start.
fn keep(datastore: &Path, copy: &Path) -> Result<(), String> {
    if let Some(folder) = copy.parent() {
        make(folder).map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
    }
    match datastore::copy(datastore, copy) {
        Ok(_) => Ok(()),
        Err(datastore::Error::Absent(_)) => match fs::remove_file(copy) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(format!("cannot remove {}: {error}", copy.display()))
            }
            _ => Ok(()),
        },
        Err(error) => Err(error.to_string()),
    }
}

fn copy(directory: &Path) -> PathBuf {
    directory.join(FOLDER).join(DATASTORE)
}

/// Whether a k3s to which the node may have to return is still what it was.
fn whole(known: &Known) -> Result<(), String> {
    let path = known.path.display();
    let found = fs::File::open(&known.path).and_then(Digest::of);
    match found {
        Ok(found) if found == known.sha256 => Ok(()),
        Ok(_) => Err(format!(
            "the k3s from before, {path}, is another program now"
        )),
        Err(error) => Err(format!(
            "the k3s from before, {path}, cannot be read: {error}"
        )),
    }
}
