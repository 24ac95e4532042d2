//! A setting of the host's own interface that its owner allows to be changed: `rx-udp-gro-forwarding`. Without it the
//! parent of a macvlan or ipvlan joins no UDP datagrams for a socket in another namespace, and a tunnel takes each alone.
//!
//! Nodes may share a parent, and a node may die. So who turns the setting on leaves a note on the host first, and every
//! node that lives with it holds a shared lock on the note, which the kernel drops when the node's process ends. The last
//! one turns the setting off again and removes the note. Where there is no note and the setting is on, its owner wants it
//! so, and nothing is undone.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use crate::error::Error;
use crate::ethtool::{Ethtool, Feature, UDP_GRO_FORWARDING};
use crate::state::Tuning;

/// Where the notes lie, each by the name of its interface.
const NOTES: &str = "/run/hepto.tune";

/// Each turn is lost to another node that starts or stops at that very moment.
const TURNS: u32 = 100;

/// What this node has to do with its parent's setting.
#[derive(Debug, Default)]
pub(crate) struct Tuner {
    wanted: bool,
    note: Option<Flock<File>>,
    /// Why the kernel did not do it; it is not asked again.
    refused: Option<String>,
}

impl Tuner {
    pub fn new(wanted: bool) -> Tuner {
        Tuner {
            wanted,
            ..Tuner::default()
        }
    }

    /// How the parent stands; None when nobody asked for it.
    pub fn observe(&self, parent: &str) -> Option<Tuning> {
        if !self.wanted {
            return None;
        }
        if let Some(why) = &self.refused {
            return Some(Tuning::Refused(why.clone()));
        }
        let feature = Ethtool::here().and_then(|tool| tool.feature(parent, UDP_GRO_FORWARDING));
        Some(match feature {
            Ok(Feature::Absent) => Tuning::Absent,
            Ok(Feature::Off) => Tuning::Off,
            Ok(Feature::On) if self.note.is_some() => Tuning::On,
            Ok(Feature::On) if path(parent).exists() => Tuning::Unheld,
            Ok(Feature::On) => Tuning::Owner,
            // It is waited for.
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return None,
            Err(error) => Tuning::Refused(error.to_string()),
        })
    }

    /// Turns it on. Never fails the node: what the kernel refuses is said once, and kept for
    /// [`observe`](Tuner::observe).
    pub fn tune(&mut self, parent: &str) {
        let tuned = self.hold(parent).and_then(|()| {
            let tool = Ethtool::here()?;
            match tool.feature(parent, UDP_GRO_FORWARDING)? {
                Feature::On => Ok(()),
                _ => tool.set(parent, UDP_GRO_FORWARDING, true),
            }
        });
        if let Err(error) = tuned {
            tracing::warn!(
                code = "W-NET-TUNE", fix = "set network.tune_host = false", interface = parent, %error,
                "cannot turn {UDP_GRO_FORWARDING} on: the tunnel is slower, nothing else"
            );
            self.refused = Some(error.to_string());
        }
    }

    fn hold(&mut self, parent: &str) -> io::Result<()> {
        if self.note.is_none() {
            let note = locked(&path(parent), FlockArg::LockShared, true);
            let named = |error: io::Error| match Path::new(NOTES).is_file() {
                true => io::Error::other(format!("{NOTES} is no folder: remove that file")),
                false => error,
            };
            self.note = Some(note.map_err(named)?);
        }
        Ok(())
    }

    /// Lets go of the parent, and undoes what nodes did there if no other node lives with it.
    pub fn release(&mut self, parent: &str) -> Result<(), Error> {
        drop(self.note.take());
        release(parent)
    }
}

/// Undoes what nodes did to `parent`, if none of them lives.
pub(crate) fn release(parent: &str) -> Result<(), Error> {
    let failed = |error: io::Error| {
        Error::netlink(
            format!("turning {UDP_GRO_FORWARDING} of {parent} off again"),
            error,
        )
    };
    let path = path(parent);
    let note = match locked(&path, FlockArg::LockExclusiveNonblock, false) {
        Ok(note) => note,
        // Nobody turned it on; or others live with it.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::WouldBlock) => {
            return Ok(());
        }
        // No node can have left a note there.
        Err(error) if error.kind() == ErrorKind::NotADirectory => {
            tracing::warn!(
                code = "W-NET-TUNE-NOTE",
                fix = "remove that file",
                "{NOTES} is no folder, so no node has turned {UDP_GRO_FORWARDING} of {parent} on"
            );
            return Ok(());
        }
        Err(error) => return Err(failed(error)),
    };
    let undone = Ethtool::here().and_then(|tool| tool.set(parent, UDP_GRO_FORWARDING, false));
    match undone {
        // The interface is gone, and the setting with it.
        Err(error) if error.raw_os_error() != Some(libc::ENODEV) => return Err(failed(error)),
        _ => {}
    }
    fs::remove_file(&path).map_err(failed)?;
    drop(note);
    // Other parents may have notes there.
    let _ = fs::remove_dir(NOTES);
    Ok(())
}

fn path(parent: &str) -> PathBuf {
    Path::new(NOTES).join(parent)
}

/// The note, locked, and still at its place.
fn locked(path: &Path, how: FlockArg, make: bool) -> io::Result<Flock<File>> {
    for _ in 0..TURNS {
        if make {
            fs::create_dir_all(NOTES)?;
        }
        let opened = File::options()
            .read(true)
            .write(make)
            .create(make)
            .truncate(false)
            .open(path);
        let file = match opened {
            // The last of the others has just removed the folder.
            Err(error) if make && error.kind() == ErrorKind::NotFound => continue,
            other => other?,
        };
        let note = Flock::lock(file, how).map_err(|(_, errno)| io::Error::from(errno))?;
        // It may have been removed between the two calls.
        let inode = note.metadata()?.ino();
        match fs::metadata(path) {
            Ok(there) if there.ino() == inode => return Ok(note),
            _ => {}
        }
    }
    Err(io::Error::other(
        "other nodes make and remove the note again and again",
    ))
}
