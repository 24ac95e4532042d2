//! What a home has: compared before and after a node, nothing may be left.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use hepto_net::lab::Home;

use crate::isolate;

/// Namespaces, links, mounts, nft tables, cgroups, processes, sockets and files of one home; of
/// cgroups those of this test's clusters, of files those under `/run`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inventory {
    items: BTreeSet<String>,
}

impl Inventory {
    /// What the home has now.
    ///
    /// # Panics
    /// When the lab itself fails.
    pub fn of(home: &Home) -> Inventory {
        let mut items = BTreeSet::new();
        home.space()
            .run(|| {
                links(&mut items);
                mounts(&mut items);
                sockets(&mut items);
                files(Path::new("/run"), &mut items);
            })
            .expect("the home can be entered");
        tables(home, &mut items);
        processes(&mut items);
        for cgroup in cgroups(&isolate::cluster()) {
            items.insert(format!("cgroup {}", cgroup.display()));
        }
        Inventory { items }
    }

    /// What is there now and was not before, one line each.
    #[must_use]
    pub fn more_than(&self, before: &Inventory) -> Vec<String> {
        self.items.difference(&before.items).cloned().collect()
    }
}

/// Reads a file of the calling thread's own namespaces, line by line.
fn lines(path: &str) -> Vec<String> {
    // A family that the kernel lacks has no file.
    fs::read_to_string(path)
        .unwrap_or_default()
        .lines()
        .map(str::to_owned)
        .collect()
}

fn links(items: &mut BTreeSet<String>) {
    for line in lines("/proc/thread-self/net/dev").iter().skip(2) {
        let name = line.split(':').next().unwrap_or_default().trim();
        items.insert(format!("link {name}"));
    }
}

fn mounts(items: &mut BTreeSet<String>) {
    for line in lines("/proc/thread-self/mountinfo") {
        let fields: Vec<&str> = line.split(' ').collect();
        items.insert(format!("mount {} at {}", fields[3], fields[4]));
    }
}

fn sockets(items: &mut BTreeSet<String>) {
    for line in lines("/proc/thread-self/net/unix").iter().skip(1) {
        if let Some(path) = line.split_whitespace().nth(7) {
            items.insert(format!("socket unix {path}"));
        }
    }
    for family in ["udp", "udp6", "tcp", "tcp6", "raw", "raw6"] {
        for line in lines(&format!("/proc/thread-self/net/{family}"))
            .iter()
            .skip(1)
        {
            let fields: Vec<&str> = line.split_whitespace().collect();
            // A closed connection's memory (TIME_WAIT, 06) is the kernel's own affair.
            if fields[3] != "06" {
                items.insert(format!("socket {family} {}", fields[1]));
            }
        }
    }
}

fn files(directory: &Path, items: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files(&path, items),
            _ => _ = items.insert(format!("file {}", path.display())),
        }
    }
}

fn tables(home: &Home, items: &mut BTreeSet<String>) {
    let mut command = Command::new("nft");
    let child = home
        .space()
        .spawn(command.args(["list", "tables"]).stdout(Stdio::piped()))
        .expect("nft starts");
    let output = child.wait_with_output().expect("nft ends");
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        items.insert(format!("nft {line}"));
    }
}

/// All processes of the test but itself, and the namespaces in which they are.
fn processes(items: &mut BTreeSet<String>) {
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(pid) = name.parse::<u32>() else {
            continue;
        };
        // One that ended meanwhile has no command line, a dead one an empty one.
        let command = fs::read_to_string(entry.path().join("cmdline"))
            .unwrap_or_default()
            .replace('\0', " ");
        if pid == std::process::id() || command.is_empty() {
            continue;
        }
        items.insert(format!("process {pid} {command}"));
        for kind in ["net", "mnt", "pid", "uts", "ipc", "cgroup"] {
            if let Ok(link) = fs::read_link(entry.path().join("ns").join(kind)) {
                items.insert(format!("namespace {}", link.display()));
            }
        }
    }
}

/// The cgroups, of every hierarchy, of clusters whose name begins with `cluster`.
fn cgroups(cluster: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let name = entry.file_name().to_string_lossy().into_owned();
                if name.starts_with(cluster) || name.starts_with(&format!("hepto-{cluster}")) {
                    found.push(entry.path());
                }
                open.push(entry.path());
            }
        }
    }
    found
}

/// Removes those cgroups, the innermost first, and gives what there was. Their processes ended with
/// the test's own.
pub(crate) fn remove_cgroups(cluster: &str) -> Vec<PathBuf> {
    let found = cgroups(cluster);
    for directory in &found {
        remove_tree(directory);
    }
    found
}

fn remove_tree(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    // What cannot be removed is reported by the caller, as what can.
    fs::remove_dir(directory).ok();
}
