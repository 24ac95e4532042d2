//! `lock.toml` of the store: the digests that releases published when they were first used, and which they are held to
//! ever after.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::store::write_whole;
use super::{Digest, Error, Version};

/// The file's name in the store.
const NAME: &str = "lock.toml";
/// What a reader is told.
const HEADER: &str = "\
# The SHA-256 digests of what was downloaded, as its release published them at the first use. Written by hepto-node, which
# refuses whatever has another digest later. Remove an entry only when you know why the release changed.

";

/// All entries.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    #[serde(default)]
    file: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    version: Version,
    name: String,
    sha256: Digest,
    /// Where the digest was read, for a person.
    from: String,
}

impl Record {
    /// What is recorded in the store's folder.
    ///
    /// # Errors
    /// When it cannot be read: a record that is damaged holds nobody to anything, and must not look like none.
    pub fn read(folder: &Path) -> Result<Record, Error> {
        let path = folder.join(NAME);
        match fs::read_to_string(&path) {
            Ok(text) => toml::from_str(&text).map_err(|error| Error::Record {
                path,
                why: error.to_string(),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Record::default()),
            Err(error) => Err(Error::disk("read", &path, error)),
        }
    }

    /// The digest that a file of a release is held to.
    pub fn digest(&self, version: &Version, name: &str) -> Option<Digest> {
        let is_it = |entry: &&Entry| entry.version == *version && entry.name == name;
        self.file.iter().find(is_it).map(|entry| entry.sha256)
    }

    /// Holds a file of a release to a digest, from now on.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn hold(
        mut self,
        folder: &Path,
        version: &Version,
        name: &str,
        sha256: Digest,
        from: &str,
    ) -> Result<(), Error> {
        if self.digest(version, name).is_some() {
            return Ok(());
        }
        self.file.push(Entry {
            version: version.clone(),
            name: name.to_owned(),
            sha256,
            from: from.to_owned(),
        });
        let text = toml::to_string(&self).expect("a record is tables of text");
        write_whole(&folder.join(NAME), &format!("{HEADER}{text}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_recorded_once_stays() {
        let folder = tempfile::tempdir().unwrap();
        let version: Version = "v1.33.4+k3s1".parse().unwrap();
        let [first, second] = [&b"1"[..], b"2"].map(|content| Digest::of(content).unwrap());
        for digest in [first, second] {
            let record = Record::read(folder.path()).unwrap();
            record
                .hold(folder.path(), &version, "k3s", digest, "https://x")
                .unwrap();
        }
        let record = Record::read(folder.path()).unwrap();
        assert_eq!(record.digest(&version, "k3s"), Some(first));
        assert_eq!(record.digest(&version, "k3s-arm64"), None);
        assert_eq!(record.digest(&"v1.33.5+k3s1".parse().unwrap(), "k3s"), None);
    }

    #[test]
    fn a_damaged_record_is_an_error_and_not_an_empty_one() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(NAME), "[[file]]\nversion = 5\n").unwrap();
        let error = Record::read(folder.path()).unwrap_err();
        assert_eq!(error.code(), "E-K3S-LOCK");
    }
}
