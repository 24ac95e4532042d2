//! The snapshots that lie on this node's disk: its own on the master, the master's on an agent.
//!
//! `<storage>/<node>/snapshots/<master>-<time>.age`, mode 0600, each written beside its place, synced and renamed. What
//! was begun and not finished has a name that begins with a dot. The rotation bounds number and bytes; it runs after
//! a new one lies there, so a full disk leaves the older ones as they are.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use hepto_mesh::name::NodeName;
use sha2::{Digest, Sha256};

use super::stamp::Stamp;

/// Bounds of what is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// At most so many.
    pub keep: usize,
    /// At most so many bytes in all.
    pub space: u64,
}

/// One snapshot that is kept.
#[derive(
    Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
pub struct Kept {
    /// The file's name.
    pub name: String,
    /// When it was made, by the master's clock.
    pub made: Stamp,
    /// Its length, bytes.
    pub size: u64,
}

/// The folder.
#[derive(Debug, Clone)]
pub struct Shelf {
    folder: PathBuf,
}

impl Shelf {
    /// Where a node in `<storage>/<node>` keeps its snapshots.
    pub fn of(directory: &Path) -> Shelf {
        Shelf {
            folder: directory.join("snapshots"),
        }
    }

    /// Makes the folder (mode 0700) where it is missing.
    ///
    /// # Errors
    /// The kernel's.
    pub fn make(&self) -> io::Result<()> {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&self.folder)
    }

    /// A file in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// What is kept, oldest first; nothing where there is no folder.
    pub fn list(&self) -> Vec<Kept> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let mut kept: Vec<Kept> = entries
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let (_, made) = named(&name)?;
                let found = entry.metadata().ok().filter(fs::Metadata::is_file)?;
                Some(Kept {
                    name,
                    made,
                    size: found.len(),
                })
            })
            .collect();
        kept.sort_by(|one, other| (one.made, &one.name).cmp(&(other.made, &other.name)));
        kept
    }

    /// Begins or goes on with a file of this name, for writing at its end.
    ///
    /// # Errors
    /// The kernel's.
    pub fn draft(&self, name: &str, fresh: bool) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(fresh);
        options.mode(0o600).open(self.path(name))
    }

    /// Syncs a finished draft and gives it its name. Then the oldest go, as the bounds say; never the new one.
    ///
    /// # Errors
    /// The kernel's; the older snapshots are as they were.
    pub fn place(&self, draft: &str, name: &str, bounds: Bounds) -> io::Result<()> {
        File::open(self.path(draft))?.sync_all()?;
        fs::rename(self.path(draft), self.path(name))?;
        File::open(&self.folder)?.sync_all()?;
        self.rotate(name, bounds)
    }

    fn rotate(&self, new: &str, bounds: Bounds) -> io::Result<()> {
        let mut kept = self.list();
        kept.retain(|kept| kept.name != new);
        let mut count = kept.len() + 1;
        let newest = fs::metadata(self.path(new))?.len();
        let mut bytes: u64 = newest + kept.iter().map(|kept| kept.size).sum::<u64>();
        for old in kept {
            if count <= bounds.keep && bytes <= bounds.space {
                break;
            }
            fs::remove_file(self.path(&old.name))?;
            count -= 1;
            bytes -= old.size;
        }
        Ok(())
    }

    /// Removes what was begun and not finished, but for one.
    pub fn sweep(&self, but: Option<&str>) {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        for entry in entries {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with('.') && Some(name.as_str()) != but {
                // It is tried again at the next turn.
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// The file's name of a node's snapshot.
pub fn name(master: &NodeName, made: Stamp) -> String {
    format!("{master}-{made}.age")
}

/// Whose snapshot a file's name says it is, and of when; `None` for other files.
pub fn named(file: &str) -> Option<(NodeName, Stamp)> {
    let (master, made) = file.strip_suffix(".age")?.rsplit_once('-')?;
    Some((master.parse().ok()?, made.parse().ok()?))
}

/// SHA-256 of all that a reader gives, as hexadecimal.
///
/// # Errors
/// The reader's.
pub fn digest(reader: &mut impl Read) -> io::Result<String> {
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(hex(&digest.finalize())),
            Ok(count) => digest.update(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
