//! `[node]`: name, storage, data.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::Access;
use rustix::io::Errno;

use super::cluster::Keys;
use super::{Checking, Diagnostic};
use crate::config::Node;
use crate::config::file::{NodeSection, Text};
use crate::secret::quote;

/// The guide advises names of at most so many characters.
const HANDY_NAME: usize = 10;

/// Where the guide keeps storage.
const DEFAULT_STORAGE: &str = "/srv";

/// Directories that the system needs itself: the sandbox covers `storage` as a whole.
const SYSTEM: &[&str] = &[
    "/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/opt", "/proc", "/root",
    "/run", "/sbin", "/sys", "/tmp", "/usr", "/var", "/var/lib", "/var/log",
];

/// Directories of which the sandbox makes the node's own: data there would hide them or be hidden.
const SANDBOX: &[&str] = &[
    "/dev",
    "/etc/cni",
    "/etc/rancher",
    "/opt/cni",
    "/proc",
    "/run",
    "/sys",
    "/usr",
    "/var/lib/cni",
    "/var/lib/kubelet",
    "/var/lib/rancher",
    "/var/log",
];

pub(super) fn node(file: &NodeSection, checking: &mut Checking<'_>) -> Option<Node> {
    let name = checking.required("node", "name", file.name.as_ref());
    let name = name.and_then(|text| {
        let name: hepto_mesh::name::NodeName =
            checking.parse(text, hepto_mesh::name::NameError::code)?;
        if name.as_str().len() > HANDY_NAME {
            let what = format!("the name {name} has more than {HANDY_NAME} characters");
            let found = Diagnostic::warning("W-NAME-LONG", what).at(text.span());
            checking.report(
                found.fix("it works, and a short one is easier to type and to read in tables"),
            );
        }
        Some(name)
    });
    let storage = storage(file.storage.as_ref(), checking);
    let texts = file.data.iter().flatten();
    let data: Vec<PathBuf> = texts
        .filter_map(|text| data_directory(text, checking))
        .collect();
    Some(Node {
        name: name?,
        storage: storage?,
        data,
    })
}

fn storage(text: Option<&Text>, checking: &mut Checking<'_>) -> Option<PathBuf> {
    if text.is_none() && checking.was_wrong("node", "storage") {
        return None;
    }
    let span = text.map_or_else(|| checking.section("node"), |text| text.span());
    let path = match text {
        Some(text) => checking.path(text, "storage")?,
        None => PathBuf::from(DEFAULT_STORAGE),
    };
    match refuse_system(&path).or_else(|| checking.machine.and_then(|_| refuse_storage(&path))) {
        None => Some(path),
        Some(found) => {
            checking.report(found.at(span));
            None
        }
    }
}

fn refuse_system(path: &Path) -> Option<Diagnostic> {
    let what = format!(
        "the storage directory {} is the system's own",
        path.display()
    );
    is_one_of(&real(path), SYSTEM).then(|| {
        Diagnostic::error("E-STORAGE-SYSTEM", what).fix("use a directory of its own, such as /srv")
    })
}

fn refuse_storage(path: &Path) -> Option<Diagnostic> {
    let shown = path.display();
    let mount = format!(
        "mount its disk, or for a new node: mkdir -p {}",
        quote(path)
    );
    if let Some(found) = refuse_directory(path, "the storage directory", "E-STORAGE-ABSENT", &mount)
    {
        return Some(found);
    }
    match rustix::fs::access(path, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) => None,
        Err(Errno::ROFS) => {
            let what =
                format!("the storage directory {shown} is on a disk that is mounted read-only");
            Some(Diagnostic::error("E-STORAGE-READONLY", what).fix(format!(
                "mount -o remount,rw \"$(findmnt -n -o TARGET -T {})\"; `dmesg` tells whether the disk failed",
                quote(path)
            )))
        }
        Err(error) => {
            let what = format!("cannot write to the storage directory {shown}: {error}");
            Some(Diagnostic::error("E-STORAGE-ACCESS", what).fix("run hepto-node as root"))
        }
    }
}

fn refuse_directory(
    path: &Path,
    noun: &str,
    absent: &'static str,
    make: &str,
) -> Option<Diagnostic> {
    let shown = path.display();
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => None,
        Ok(_) => {
            let what = format!("{noun} {shown} is not a directory");
            Some(Diagnostic::error("E-PATH-KIND", what).fix("name a directory"))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Some(Diagnostic::error(absent, format!("{noun} {shown} does not exist")).fix(make))
        }
        Err(error) => {
            let what = format!("cannot look at {noun} {shown}: {error}");
            Some(
                Diagnostic::error("E-PATH-ACCESS", what)
                    .fix("correct the path, or run hepto-node as root"),
            )
        }
    }
}

fn data_directory(text: &Text, checking: &mut Checking<'_>) -> Option<PathBuf> {
    let path = checking.path(text, "data")?;
    let make = format!("mount its disk, or: mkdir -p {}", quote(&path));
    let absent = checking
        .machine
        .and_then(|_| refuse_directory(&path, "the data directory", "E-DATA-ABSENT", &make));
    let refused = absent.or_else(|| {
        let real = real(&path);
        let taken = SANDBOX.iter().find(|own| overlap(&real, Path::new(own)))?;
        let shown = path.display();
        let what = format!(
            "the data directory {shown} and the node's own {taken} would cover one another"
        );
        Some(
            Diagnostic::error("E-DATA-SYSTEM", what)
                .fix("use a directory of its own, such as /srv/data"),
        )
    });
    match refused {
        None => Some(path),
        Some(found) => {
            checking.report(found.at(text.span()));
            None
        }
    }
}

/// Refuses data directories through which workloads would reach keys or the node's own storage.
pub(super) fn secret_data(
    file: &NodeSection,
    node: Option<&Node>,
    keys: Option<&Keys>,
    checking: &mut Checking<'_>,
) {
    let mut secret: Vec<(PathBuf, &str)> = Vec::new();
    if let Some(node) = node {
        secret.push((
            real(&node.storage.join(node.name.as_str())),
            "the node's own storage",
        ));
    }
    for key in keys.iter().flat_map(|keys| keys.files.paths()) {
        let folder = key.parent().unwrap_or(Path::new("/"));
        secret.push((real(folder), "the folder of a key"));
    }
    for text in file.data.iter().flatten() {
        let data = real(Path::new(text.get_ref()));
        let Some((path, noun)) = secret.iter().find(|(path, _)| overlap(&data, path)) else {
            continue;
        };
        let verb = if path.starts_with(&data) {
            "contains"
        } else {
            "lies in"
        };
        let what = format!(
            "the data directory {} {verb} {noun}, {}",
            text.get_ref(),
            path.display()
        );
        let fix = match *noun {
            "the folder of a key" => {
                "keep keys in a folder of their own, such as /etc/hepto, apart from data"
            }
            _ => "offer workloads a directory beside it, such as /srv/data",
        };
        checking.report(
            Diagnostic::error("E-DATA-SECRET", what)
                .at(text.span())
                .fix(fix),
        );
    }
}

/// The path without symbolic links, as far as it exists.
fn real(path: &Path) -> PathBuf {
    match (fs::canonicalize(path), path.parent(), path.file_name()) {
        (Ok(path), ..) => path,
        (Err(_), Some(parent), Some(name)) => real(parent).join(name),
        (Err(_), ..) => path.to_owned(),
    }
}

fn overlap(one: &Path, other: &Path) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

fn is_one_of(path: &Path, paths: &[&str]) -> bool {
    paths.iter().any(|other| Path::new(other) == path)
}
