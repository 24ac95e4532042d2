//! An archive of container images that k3s imports before its first pod starts, so that nothing is pulled: it lies in
//! k3s's own `agent/images`, as k3s's air-gap installation wants it.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::{Cancel, Digest, Error, Images};
use crate::k3s::{argument, file};

/// The name of our archive in k3s's folder, without its form.
const NAME: &str = "hepto-airgap-images";

/// The forms of archives that k3s imports, by the end of the name.
pub const FORMS: [&str; 6] = [
    ".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.lz4",
];

/// Where images come from: `k3s.airgap_images`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Archive {
    /// An archive of the owner's.
    File(PathBuf),
    /// The one that is published with the release, under the same rules.
    Release,
}

/// An archive of the owner's.
pub(super) fn own(path: &Path) -> Result<Images, Error> {
    let digest = File::open(path).and_then(Digest::of);
    Ok(Images {
        path: path.to_owned(),
        digest: digest.map_err(|error| Error::disk("read", path, error))?,
    })
}

fn form(path: &Path) -> Option<&'static str> {
    let name = path.file_name()?.to_str()?;
    FORMS
        .into_iter()
        .filter(|form| name.ends_with(form))
        .max_by_key(|form| form.len())
}

/// Puts the archive into the node's own folder of k3s, and removes an earlier one of ours. A copy, not a link: what the
/// node's root changes in it is his own. File systems that can share the blocks do.
pub(super) fn place(
    node_directory: &Path,
    images: Option<&Images>,
    cancel: &Cancel,
) -> Result<(), Error> {
    let agent = file::outside(node_directory, &format!("{}/agent", argument::DATA));
    let folder = agent.join("images");
    let wanted = images.map(|images| {
        let form = form(&images.path).unwrap_or(".tar");
        (images, folder.join(format!("{NAME}{form}")))
    });
    for earlier in FORMS.map(|form| folder.join(format!("{NAME}{form}"))) {
        if wanted.as_ref().is_none_or(|(_, path)| *path != earlier) {
            match fs::remove_file(&earlier) {
                Err(error)
                    if error.kind() != io::ErrorKind::NotFound
                        && error.kind() != io::ErrorKind::NotADirectory =>
                {
                    return Err(Error::disk("remove", &earlier, error));
                }
                _ => {}
            }
        }
    }
    let Some((images, path)) = wanted else {
        return Ok(());
    };
    if File::open(&path)
        .and_then(Digest::of)
        .is_ok_and(|found| found == images.digest)
    {
        return Ok(());
    }
    // Beside the folder: k3s imports whatever it finds in it.
    let partial = agent.join(format!(".{NAME}.new"));
    let copied = fs::create_dir_all(&folder).and_then(|()| copy(&images.path, &partial, cancel));
    let placed = copied.and_then(|()| fs::rename(&partial, &path));
    placed.map_err(|error| {
        // The next try makes it anew; a full disk is helped.
        let _ = fs::remove_file(&partial);
        match cancel.is_cancelled() {
            true => Error::Cancelled,
            false => Error::disk("write", &path, error),
        }
    })
}

fn copy(from: &Path, to: &Path, cancel: &Cancel) -> io::Result<()> {
    let (mut source, mut target) = (File::open(from)?, File::create(to)?);
    if rustix::fs::ioctl_ficlone(&target, &source).is_err() {
        let mut chunk = vec![0; 1 << 20];
        loop {
            match source.read(&mut chunk)? {
                0 => break,
                length => target.write_all(&chunk[..length])?,
            }
            if cancel.is_cancelled() {
                return Err(io::ErrorKind::Interrupted.into());
            }
        }
    }
    target.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_placed_replaced_and_removed() {
        let node = tempfile::tempdir().unwrap();
        let folder = file::outside(node.path(), &format!("{}/agent/images", argument::DATA));
        let there = || -> Vec<(String, String)> {
            let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
            let read = |path: PathBuf| fs::read_to_string(path).unwrap();
            entries
                .map(|entry| (entry.file_name().into_string().unwrap(), read(entry.path())))
                .collect()
        };
        let cancel = Cancel::default();
        place(node.path(), None, &cancel).unwrap();
        for (name, content) in [
            ("a.tar.zst", "one"),
            ("b.tar.zst", "two"),
            ("c.tar", "three"),
        ] {
            let path = node.path().join(name);
            fs::write(&path, content).unwrap();
            let images = own(&path).unwrap();
            place(node.path(), Some(&images), &cancel).unwrap();
            let expected = name.replacen(['a', 'b', 'c'], NAME, 1);
            assert_eq!(there(), [(expected, content.to_owned())]);
        }
        // The owner's and k3s's own files there are not ours.
        fs::write(folder.join("other.tar"), "x").unwrap();
        place(node.path(), None, &cancel).unwrap();
        assert_eq!(there(), [("other.tar".to_owned(), "x".to_owned())]);
    }
}
