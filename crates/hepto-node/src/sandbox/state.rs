//! What cleaning up needs to know after every process of the node has died: a file in the run directory,
//! written before anything is made.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::cgroup::Hierarchy;
use super::{Error, Settings};

const NAME: &str = "sandbox.json";

/// What there may be of a sandbox outside its namespaces.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct State {
    /// What it was made from, without the texts.
    pub settings: Option<Settings>,
    /// Its cgroups.
    pub hierarchies: Vec<Hierarchy>,
    /// Where its mounts stand on the host's file systems, and whether on a folder.
    pub places: Vec<(PathBuf, bool)>,
}

impl State {
    /// The state in a run directory, if there is one.
    pub fn read(run_directory: &Path) -> Option<State> {
        let text = fs::read(run_directory.join(NAME)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Writes it, whole or not at all.
    pub fn write(&self, run_directory: &Path) -> Result<(), Error> {
        let (path, fresh) = (
            run_directory.join(NAME),
            run_directory.join("sandbox.json.new"),
        );
        let text = serde_json::to_vec(self).map_err(|error| Error::file("write", &path, error))?;
        fs::write(&fresh, text)
            .and_then(|()| fs::rename(&fresh, &path))
            .map_err(|error| Error::file("write", &path, error))
    }

    /// Removes it: nothing is left of the sandbox.
    pub fn remove(run_directory: &Path) {
        // A state that stays is read again by the next cleanup, which then finds nothing.
        let _ = fs::remove_file(run_directory.join(NAME));
    }
}
