//! Where wg(8) and its exporters look for a tunnel's socket.
//!
//! That place is the host's, and the host may have tunnels of its own: so the node keeps its socket in a folder of its
//! run directory, and the folder is bound over the place where only the node's programs see it. A folder and not the
//! socket, since each run of the supervisor makes the socket anew.

use std::fs;
use std::path::{Path, PathBuf};

use super::Error;
use super::mountpoint::{self, Claim};

/// The folder in the run directory.
pub const FOLDER: &str = "wireguard";

/// Where the folder appears inside. wg(8) looks below /var/run, which is /run almost everywhere; not where it is a folder
/// of its own.
pub(super) fn place(var_run_is_a_folder: bool) -> PathBuf {
    let run = if var_run_is_a_folder {
        "/var/run"
    } else {
        "/run"
    };
    Path::new(run).join("wireguard")
}

/// The same on this host, for programs that see its files.
pub(super) fn place_here() -> PathBuf {
    place(fs::symlink_metadata("/var/run").is_ok_and(|entry| entry.is_dir()))
}

/// The host's place, kept for `exec --net` as long as this lives.
pub struct Hold {
    _claim: Claim,
}

/// Makes the host's place where it is missing.
///
/// # Errors
/// When it cannot be made.
pub fn hold() -> Result<Hold, Error> {
    let claim = mountpoint::claim(&[(place_here(), true)])?;
    Ok(Hold { _claim: claim })
}

/// Removes the host's place, if nodes made it and this was the last one. Gives every failure.
pub fn release(hold: Option<Hold>) -> Vec<Error> {
    drop(hold);
    mountpoint::release(&[(place_here(), true)])
}
