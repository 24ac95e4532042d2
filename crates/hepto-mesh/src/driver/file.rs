//! The one file of the mesh, `book`: who is known and pinned, how often we started, which addresses we have.
//!
//! It is small, written whole, and synced before it replaces the older one. Its content has its own head and check.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// More than the book can be: 256 records and as many statements are below 300 kB.
const LONGEST: u64 = 4 * 1024 * 1024;

/// Why the book could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The folder cannot be made.
    #[error("cannot make the folder {path}: {source}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The file cannot be written; the older one is as it was.
    #[error("cannot write {path}: {source}; the older file is kept")]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

impl FileError {
    /// The stable code of the error, as printed and documented.
    pub fn code(&self) -> &'static str {
        let (FileError::Folder { source, .. }
        | FileError::Read { source, .. }
        | FileError::Write { source, .. }) = self;
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "E-MESH-FILE-FULL",
            io::ErrorKind::ReadOnlyFilesystem => "E-MESH-FILE-READONLY",
            io::ErrorKind::PermissionDenied => "E-MESH-FILE-PERMISSION",
            _ => "E-MESH-FILE",
        }
    }

    /// What to do about it.
    pub fn fix(&self) -> &'static str {
        match self.code() {
            "E-MESH-FILE-FULL" => "free some space on the disk of node.storage",
            "E-MESH-FILE-READONLY" => {
                "remount the disk of node.storage read-write; one that turns read-only by itself is often failing"
            }
            "E-MESH-FILE-PERMISSION" => {
                "give the folder back to the user that runs hepto-node, which is root"
            }
            _ => "check that node.storage is mounted and that its disk is sound (dmesg tells)",
        }
    }
}

/// The book's place on the disk.
#[derive(Debug)]
pub(super) struct BookFile {
    folder: PathBuf,
    /// What the disk holds, if we know: nothing is written twice.
    content: Option<Vec<u8>>,
}

impl BookFile {
    /// Opens the folder, making it (mode 0700) where it is missing.
    pub(super) fn open(folder: &Path) -> Result<Self, FileError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        let folder = folder.to_owned();
        match made {
            Ok(()) => Ok(BookFile {
                folder,
                content: None,
            }),
            Err(source) => Err(FileError::Folder {
                path: folder,
                source,
            }),
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.join("book")
    }

    /// Reads the book; `None` where there is none. What a crash left half-written is not looked at.
    pub(super) fn read(&mut self) -> Result<Option<Vec<u8>>, FileError> {
        let path = self.path();
        let mut bytes = Vec::new();
        let read = File::open(&path).and_then(|file| file.take(LONGEST).read_to_end(&mut bytes));
        match read {
            Ok(_) => {
                self.content = Some(bytes.clone());
                Ok(Some(bytes))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(FileError::Read { path, source }),
        }
    }

    /// Puts a damaged book out of the way for a person to look at, and says where it is now.
    pub(super) fn set_aside(&mut self) -> Result<PathBuf, FileError> {
        let (path, aside) = (self.path(), self.folder.join("book.damaged"));
        self.content = None;
        match fs::rename(&path, &aside) {
            Ok(()) => Ok(aside),
            Err(source) => Err(FileError::Write { path, source }),
        }
    }

    /// Replaces the book. When this returns the new one is on the disk; if it fails the older one is untouched.
    pub(super) fn write(&mut self, bytes: Vec<u8>) -> Result<(), FileError> {
        if self.content.as_ref() == Some(&bytes) {
            return Ok(());
        }
        let (path, draft) = (self.path(), self.folder.join("book.new"));
        if let Err(source) = self.replace(&path, &draft, &bytes) {
            // The draft takes space that a full disk lacks; that it may be gone already is no news.
            let _ = fs::remove_file(&draft);
            return Err(FileError::Write { path, source });
        }
        self.content = Some(bytes);
        Ok(())
    }

    fn replace(&self, path: &Path, draft: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(draft)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(draft, path)?;
        // The rename itself lasts only once the folder is synced.
        File::open(&self.folder)?.sync_all()
    }
}

#[cfg(test)]
mod tests;
