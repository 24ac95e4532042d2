//! Which k3s a node has had: in `<storage>/<node>/k3s.toml`, so that the next supervisor, an upgrade that fails and the
//! store's tidying know it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::store::write_whole;
use super::{Acquired, Digest, Error};

/// The file's name in the node's folder.
const NAME: &str = "k3s.toml";

/// One k3s that a node has had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// The digest of the program.
    pub sha256: Digest,
    /// Where it lay: below the store for one that was downloaded or embedded, and as long as the history names it it
    /// stays there; the owner's own path for `k3s.binary`, where another may lie by now.
    pub path: PathBuf,
    /// What the operator calls it.
    pub name: String,
    /// The digest of the image archive that came with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<Digest>,
}

impl From<&Acquired> for Known {
    fn from(acquired: &Acquired) -> Known {
        Known {
            sha256: acquired.digest,
            path: acquired.path.clone(),
            name: acquired.name.clone(),
            images: acquired.images.as_ref().map(|images| images.digest),
        }
    }
}

/// Which k3s a node has had; every digest in it is kept in the store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    /// The one that was acquired last: it is, or will be, started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acquired: Option<Known>,
    /// The one that was started last, or taken over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ran: Option<Known>,
    /// The one with which the node was last ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub good: Option<Known>,
}

impl History {
    /// What the file in the node's folder says; nothing where there is none, or none that can be read: it is a memory,
    /// not a setting.
    pub fn read(node_directory: &Path) -> History {
        History::try_read(node_directory).unwrap_or_default()
    }

    /// The same, and why it cannot be read: who removes by it has to know.
    pub(super) fn try_read(node_directory: &Path) -> io::Result<History> {
        match fs::read_to_string(node_directory.join(NAME)) {
            Ok(text) => toml::from_str(&text).map_err(io::Error::other),
            // A storage holds other things than nodes, files among them.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                Ok(History::default())
            }
            Err(error) => Err(error),
        }
    }

    /// Changes the file, whole or not at all; the disk is left alone where nothing changes.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn update(node_directory: &Path, change: impl FnOnce(&mut History)) -> Result<(), Error> {
        // One change at a time: k3s is acquired, kept and started on threads of their own.
        static CHANGING: Mutex<()> = Mutex::new(());
        let _changing = CHANGING.lock().unwrap_or_else(PoisonError::into_inner);
        let before = History::read(node_directory);
        let mut after = before.clone();
        change(&mut after);
        if after == before {
            return Ok(());
        }
        let text = toml::to_string(&after).expect("a history is tables of text");
        let header = "# Which k3s this node has had. Written by hepto-node.\n\n";
        write_whole(&node_directory.join(NAME), &format!("{header}{text}"))
    }

    /// Every digest that it names.
    pub fn digests(&self) -> impl Iterator<Item = Digest> {
        let known = [&self.acquired, &self.ran, &self.good];
        known
            .into_iter()
            .flatten()
            .flat_map(|known| [Some(known.sha256), known.images])
            .flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(byte: u8) -> Known {
        Known {
            sha256: Digest::of(&[byte][..]).unwrap(),
            path: format!("/srv/.hepto/k3s/{byte}").into(),
            name: format!("v1.33.{byte}+k3s1"),
            images: (byte == 2).then(|| Digest::of(&b"images"[..]).unwrap()),
        }
    }

    #[test]
    fn what_is_remembered_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(History::read(folder.path()), History::default());
        History::update(folder.path(), |history| history.good = Some(known(1))).unwrap();
        History::update(folder.path(), |history| history.ran = Some(known(2))).unwrap();
        let expected = History {
            acquired: None,
            ran: Some(known(2)),
            good: Some(known(1)),
        };
        assert_eq!(History::read(folder.path()), expected);
        assert_eq!(expected.digests().count(), 3);
    }

    #[test]
    fn a_damaged_memory_is_no_memory_and_is_told_to_who_removes() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(NAME), "good = 5").unwrap();
        assert_eq!(History::read(folder.path()), History::default());
        assert!(History::try_read(folder.path()).is_err());
    }
}
