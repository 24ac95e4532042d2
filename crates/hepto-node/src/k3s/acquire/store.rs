//! `<storage>/.hepto/k3s`: every k3s that was downloaded or unpacked, each below its digest, shared by the nodes of one
//! storage.
//!
//! ```text
//! .lock                   held by who downloads or unpacks here, perhaps for long
//! .quiet                  held for a moment by who notes what it uses, or removes what nobody does
//! lock.toml               the digests that releases published (`record`)
//! <sha256>/k3s            a program, never changed once it is there
//! partial/<sha256>        one that is not whole yet
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::{Cancel, Digest, Error, History};

/// Between two looks whether another node's work on the store is done: flock(2) cannot be waited for with an end.
const LOOK: Duration = Duration::from_millis(200);

/// A storage's programs. Making it touches nothing.
#[derive(Debug, Clone)]
pub struct Store {
    storage: PathBuf,
}

impl Store {
    /// The store of a storage (`node.storage`).
    pub fn of(storage: &Path) -> Store {
        Store {
            storage: storage.to_owned(),
        }
    }

    /// The store's folder: to be seen inside of a node, read-only, as a whole, so that a k3s that comes later is seen
    /// as well.
    pub fn folder(&self) -> PathBuf {
        self.storage.join(".hepto/k3s")
    }

    /// Makes the folder.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn make(&self) -> Result<(), Error> {
        make(&self.folder())
    }

    /// Where a file of this digest lies, or would.
    pub fn path(&self, digest: &Digest, name: &str) -> PathBuf {
        self.folder().join(digest.to_string()).join(name)
    }

    /// The file of this digest, read whole and found to be it; `None` where there is none, or one that is damaged,
    /// which is said.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn verified(&self, digest: &Digest, name: &str) -> Result<Option<PathBuf>, Error> {
        let path = self.path(digest, name);
        let found = match File::open(&path).and_then(Digest::of) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            found => found.map_err(|source| Error::disk("read", &path, source))?,
        };
        if found == *digest {
            return Ok(Some(path));
        }
        tracing::warn!(
            code = "W-K3S-DAMAGED",
            fix = "look at the disk's health: dmesg, smartctl",
            path = %path.display(),
            %found,
            "this file is damaged: it is made anew"
        );
        Ok(None)
    }

    /// Takes the store for writing; waits while another node has it.
    ///
    /// # Errors
    /// When the disk refuses, or on [`Cancel`].
    pub fn lock(&self, cancel: &Cancel, waiting: impl FnOnce()) -> Result<Locked, Error> {
        Ok(Locked {
            store: self.clone(),
            _lock: self.flock(".lock", cancel, waiting)?,
        })
    }

    /// Keeps everybody from removing anything, for a moment.
    ///
    /// # Errors
    /// As with [`Store::lock`].
    pub(super) fn quiet(&self, cancel: &Cancel) -> Result<Flock<File>, Error> {
        self.flock(".quiet", cancel, || ())
    }

    fn flock(
        &self,
        name: &str,
        cancel: &Cancel,
        waiting: impl FnOnce(),
    ) -> Result<Flock<File>, Error> {
        self.make()?;
        let path = self.folder().join(name);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let mut file = options
            .open(&path)
            .map_err(|source| Error::disk("open", &path, source))?;
        let mut waiting = Some(waiting);
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(lock),
                Err((same, Errno::EWOULDBLOCK | Errno::EINTR)) => file = same,
                Err((_, errno)) => return Err(Error::disk("lock", &path, errno.into())),
            }
            if let Some(waiting) = waiting.take() {
                waiting();
            }
            if cancel.sleep(LOOK) {
                return Err(Error::Cancelled);
            }
        }
    }
}

/// The store, held for writing until this is dropped.
#[derive(Debug)]
pub struct Locked {
    store: Store,
    _lock: Flock<File>,
}

impl Locked {
    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Where a file lies that is not whole yet: never under a name by which it would be used.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn partial(&self, digest: &Digest) -> Result<PathBuf, Error> {
        let folder = self.store.folder().join("partial");
        make(&folder)?;
        Ok(folder.join(digest.to_string()))
    }

    /// Whether a file has its digest, read back from the disk.
    ///
    /// # Errors
    /// [`Error::Digest`] naming `from` as where it came from, or when the disk refuses.
    pub fn check(&self, partial: &Path, digest: &Digest, from: &str) -> Result<(), Error> {
        let failed = |source| Error::disk("read", partial, source);
        let file = File::open(partial).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        let found = Digest::of(&file).map_err(failed)?;
        match found == *digest {
            true => Ok(()),
            false => Err(Error::Digest {
                from: from.to_owned(),
                found,
                wanted: *digest,
            }),
        }
    }

    /// Puts a whole file in its place, if it has its digest: synced, made executable, renamed. One of another digest is
    /// removed.
    ///
    /// # Errors
    /// As with [`Locked::check`].
    pub fn put(
        &self,
        partial: &Path,
        digest: &Digest,
        name: &str,
        from: &str,
    ) -> Result<PathBuf, Error> {
        let path = self.store.path(digest, name);
        let failed = |source| Error::disk("write", &path, source);
        if let Err(error) = self.check(partial, digest, from) {
            fs::remove_file(partial).map_err(failed)?;
            return Err(error);
        }
        let file = File::open(partial).map_err(failed)?;
        file.set_permissions(Permissions::from_mode(0o755))
            .and_then(|()| file.sync_all())
            .map_err(failed)?;
        let folder = self.store.folder();
        let own = folder.join(digest.to_string());
        make(&own)?;
        fs::rename(partial, &path)
            .and_then(|()| sync_folder(&own))
            .and_then(|()| sync_folder(&folder))
            .map_err(failed)?;
        Ok(path)
    }

    /// Removes what no node of this storage has in its history, and partial files of other digests than `wanted`. What
    /// cannot be read keeps everything; what cannot be removed is only said.
    ///
    /// # Errors
    /// On [`Cancel`], or when the store cannot be locked.
    pub fn tidy(&self, wanted: &[Digest], cancel: &Cancel) -> Result<(), Error> {
        let _quiet = self.store.quiet(cancel)?;
        match self.removable(wanted) {
            Ok(paths) => {
                for path in paths {
                    let removed = match path.is_dir() {
                        true => fs::remove_dir_all(&path),
                        false => fs::remove_file(&path),
                    };
                    match removed {
                        Ok(()) => {
                            tracing::debug!(path = %path.display(), "removed: no node uses it")
                        }
                        Err(error) => {
                            tracing::warn!(code = "W-K3S-KEPT", fix = "remove it by hand if its space is wanted", path = %path.display(), %error, "what no node uses cannot be removed");
                        }
                    }
                }
            }
            Err(error) => {
                tracing::warn!(code = "W-K3S-KEPT", fix = "make node.storage readable for the node", %error, "old versions of k3s are kept: what the nodes use cannot be read");
            }
        }
        Ok(())
    }

    fn removable(&self, wanted: &[Digest]) -> io::Result<Vec<PathBuf>> {
        let mut kept: Vec<Digest> = wanted.to_vec();
        for entry in fs::read_dir(&self.store.storage)? {
            kept.extend(History::try_read(&entry?.path())?.digests());
        }
        let mut found = Vec::new();
        let folder = self.store.folder();
        for (folder, kept) in [(folder.join("partial"), wanted), (folder, &kept)] {
            let entries = match fs::read_dir(&folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries?,
            };
            for entry in entries {
                let path = entry?.path();
                // A partial file's notes have the digest as their stem.
                let digest = path
                    .file_stem()
                    .and_then(|stem| stem.to_str()?.parse().ok());
                if digest.is_some_and(|digest: Digest| !kept.contains(&digest)) {
                    found.push(path);
                }
            }
        }
        Ok(found)
    }
}

/// Makes a folder that everyone may look into.
fn make(path: &Path) -> Result<(), Error> {
    let mut builder = DirBuilder::new();
    let made = builder.recursive(true).mode(0o755).create(path);
    made.map_err(|source| Error::disk("make", path, source))
}

/// So that a rename in it outlives a power cut.
fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Writes a file whole or not at all, mode 0644, and so that it outlives a power cut.
///
/// # Errors
/// When the disk refuses.
pub(super) fn write_whole(path: &Path, text: &str) -> Result<(), Error> {
    let beside = path.with_extension("new");
    let write = || {
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(true).mode(0o644);
        let mut file = options.open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        path.parent().map_or(Ok(()), sync_folder)
    };
    write().map_err(|source| Error::disk("write", path, source))
}

#[cfg(test)]
mod tests;
