//! A paused node: k3s and its pods are ended in order, the mesh stays, until the host's owner says otherwise.
//!
//! Nothing is frozen: a frozen pod wakes up in a cluster that has given its work to another, and goes on writing (see
//! `docs/decisions/008-pause.md`). That the node is paused stands in its storage, so that neither a restart of the
//! supervisor nor one of the machine ends it.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::life::Life;
use crate::control::{Answer, Pending};
use crate::fault::Fault;

/// The mark in the node's own folder: seconds since 1970, of when it was paused.
const MARK: &str = "paused";

fn mark(directory: &Path) -> PathBuf {
    directory.join(MARK)
}

/// Since when the node of a folder is paused; `None` when it is not.
pub(super) fn since(directory: &Path) -> Option<SystemTime> {
    let text = match fs::read_to_string(mark(directory)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        // What cannot be read is a mark all the same: rather not run than against the owner's word.
        read => read.unwrap_or_default(),
    };
    let seconds = text.trim().parse().map_or(0, |seconds: u64| seconds);
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

/// Notes that the node is paused from now on, on the disk itself.
///
/// # Errors
/// `E-PAUSE-MARK` when it cannot be written.
pub(super) fn set(directory: &Path) -> Result<SystemTime, Fault> {
    let now = SystemTime::now();
    let seconds = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let write = || {
        let fresh = directory.join(format!("{MARK}.new"));
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&fresh)?;
        writeln!(file, "{seconds}")?;
        file.sync_all()?;
        fs::rename(&fresh, mark(directory))?;
        File::open(directory)?.sync_all()
    };
    write().map_err(|error| unmarked(directory, &error))?;
    Ok(now)
}

/// Notes that the node is not paused any more.
///
/// # Errors
/// `E-PAUSE-MARK` when the mark cannot be removed.
pub(super) fn lift(directory: &Path) -> Result<(), Fault> {
    match fs::remove_file(mark(directory)) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(unmarked(directory, &error)),
        _ => Ok(()),
    }
}

fn unmarked(directory: &Path, error: &std::io::Error) -> Fault {
    let what = format!("cannot write {}: {error}", mark(directory).display());
    Fault::new("E-PAUSE-MARK", what)
        .fix("check that the disk of node.storage is writable and not full")
}

/// A moment as people and programs read it: RFC 3339, in UTC.
pub(super) fn moment(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

impl Life<'_> {
    /// Pauses the node; who asked is answered when all has ended.
    pub(super) fn on_pause(&mut self, pending: Pending) {
        match self.workload.pause(self.config) {
            Ok(true) => {
                tracing::info!("paused: k3s and its pods are ended, the mesh stays");
                self.pausing.push(pending.answer);
            }
            Ok(false) => drop(pending.answer.send(Answer::Paused)),
            Err(fault) => drop(pending.answer.send(Answer::Refused(fault.to_string()))),
        }
    }

    /// What ended the node's workload is done.
    pub(super) fn on_paused(&mut self, failures: &[String]) {
        for failure in failures {
            tracing::error!(
                code = "E-STOP-LEFTOVERS",
                fix = "hepto-node stop tries again",
                "not removed: {failure}"
            );
        }
        for asked in self.pausing.drain(..) {
            let answer = match failures.first() {
                None => Answer::Paused,
                Some(first) => {
                    let what = format!("the node is paused, but not all of it has ended: {first}");
                    let fault = Fault::new("E-PAUSE-LEFTOVERS", what);
                    Answer::Refused(
                        fault
                            .fix("run hepto-node stop, then start it: it stays paused")
                            .to_string(),
                    )
                }
            };
            // Who asked may have gone away; here and above.
            let _ = asked.send(answer);
        }
    }

    /// Lets k3s start again.
    pub(super) fn on_resume(&mut self, pending: Pending) {
        let answer = match self.workload.resume(self.config) {
            Ok(()) => {
                tracing::info!("resumed: k3s starts as soon as it may");
                Answer::Resumed
            }
            Err(fault) => Answer::Refused(fault.to_string()),
        };
        let _ = pending.answer.send(answer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_lasts_until_it_is_lifted() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(since(home.path()), None);
        let now = set(home.path()).unwrap();
        let found = since(home.path()).unwrap();
        let difference = now.duration_since(found).unwrap();
        assert!(difference < Duration::from_secs(1), "{difference:?}");
        lift(home.path()).unwrap();
        lift(home.path()).unwrap();
        assert_eq!(since(home.path()), None);
    }

    #[test]
    fn a_mark_that_says_nothing_is_a_mark() {
        let home = tempfile::tempdir().unwrap();
        fs::write(mark(home.path()), "\0\0").unwrap();
        assert_eq!(moment(since(home.path()).unwrap()), "1970-01-01T00:00:00Z");
    }

    #[test]
    fn a_folder_that_is_gone_is_told() {
        let fault = set(Path::new("/nowhere")).unwrap_err();
        assert_eq!(fault.code, "E-PAUSE-MARK");
    }
}
