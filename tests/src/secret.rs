//! Where a secret may not be seen.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Where one of the secrets is seen: in the arguments or the environment of any process of the test, or in a file below
/// the folders that others than root may read.
#[must_use]
pub fn exposed(secrets: &[String], folders: &[&Path]) -> Vec<String> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ours =
        processes.flat_map(|entry| ["cmdline", "environ"].map(|file| entry.path().join(file)));
    let files = folders.iter().flat_map(|folder| readable(folder));
    ours.chain(files)
        .filter(|path| {
            // A process may have ended meanwhile.
            let content = fs::read(path).unwrap_or_default();
            let content = String::from_utf8_lossy(&content);
            secrets
                .iter()
                .any(|secret| content.contains(secret.as_str()))
        })
        .map(|path| path.display().to_string())
        .collect()
}

/// The files below a folder that others than root may read.
#[must_use]
pub fn readable(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        if metadata.is_dir() {
            found.extend(readable(&entry.path()));
        } else if metadata.is_file() && metadata.permissions().mode() & 0o044 != 0 {
            found.push(entry.path());
        }
    }
    found
}
