//! The node's cgroups: where they are, made, entered, emptied and removed.
//!
//! A kubelet believes that it owns the root of every hierarchy; with a shared root two of them fight over
//! `/kubepods`. So the node has a cgroup in each, and a cgroup namespace that makes those the roots.
//!
//! On version 2 alone no process may be in a cgroup that hands out controllers, so that the node's own, the
//! namespace's root, keeps its processes in `init`, `k3s` and `exec`. Who has unshared can never leave it again
//! where the host delegates at namespaces (`nsdelegate`, systemd's way), only go down.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Error;

/// The controllers that kubelet needs or uses, where the kernel has them (version 2).
const CONTROLLERS: [&str; 6] = ["cpuset", "cpu", "io", "memory", "hugetlb", "pids"];
/// As the node sees it.
const ROOT: &str = "/sys/fs/cgroup";

/// Each turn is lost to another node that ends at that very moment.
const TURNS: u32 = 100;

/// One hierarchy of the host, and the node's cgroup in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hierarchy {
    /// Its folder under /sys/fs/cgroup inside: `cpu,cpuacct`, `systemd`, `unified`; empty where it is the only one.
    pub name: String,
    /// The mount options of a version 1 hierarchy.
    pub version1: Option<String>,
    /// The cgroup on the host below which ours begins.
    pub base: PathBuf,
    /// The node's cgroup, on the host: `<base>/hepto/<cluster>.<node>`.
    pub directory: PathBuf,
}

impl Hierarchy {
    /// From the base to the node's cgroup, both included.
    fn path(&self) -> Vec<&Path> {
        let mut path: Vec<_> = self
            .directory
            .ancestors()
            .take_while(|path| path.starts_with(&self.base))
            .collect();
        path.reverse();
        path
    }
}

/// Whether version 2 stands alone, so that the cgroup is split.
pub fn unified(hierarchies: &[Hierarchy]) -> bool {
    hierarchies
        .iter()
        .all(|hierarchy| hierarchy.version1.is_none())
}

/// The hierarchies of this host that are mounted, with the cgroup of the node (`<cluster>.<node>`) in each.
///
/// It lies below the caller's own, but on version 2 alone at the top, since the caller's own has a process and cannot
/// hand out controllers; unless that is a `scope`, which the caller leaves.
///
/// # Errors
/// When /proc cannot be read, or nothing is mounted.
pub fn observe(node: &str, scope: bool) -> Result<Vec<Hierarchy>, Error> {
    let read = |path: &str| {
        fs::read_to_string(path).map_err(|error| Error::file("read", Path::new(path), error))
    };
    let found = locate(
        &read("/proc/self/cgroup")?,
        &read("/proc/self/mountinfo")?,
        node,
        scope,
    );
    if found.is_empty() {
        return Err(Error::cgroup(
            "find",
            Path::new(ROOT),
            "no hierarchy is mounted; mount cgroup2 there",
        ));
    }
    Ok(found)
}

/// [`observe`] on the text of /proc/self/cgroup (cgroups(7)) and /proc/self/mountinfo (proc_pid_mountinfo(5)).
fn locate(own: &str, mountinfo: &str, node: &str, scope: bool) -> Vec<Hierarchy> {
    let mounts: Vec<Mount<'_>> = mountinfo.lines().filter_map(Mount::parse).collect();
    let alone = !mounts.iter().any(|mount| mount.kind == "cgroup");
    let mut found = Vec::new();
    for line in own.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let Some(mount) = mounts.iter().find(|mount| mount.holds(controllers)) else {
            continue;
        };
        let version1 = (!controllers.is_empty()).then(|| match controllers.strip_prefix("name=") {
            Some(_) => format!("none,{controllers}"),
            None => controllers.to_owned(),
        });
        let name = match (&version1, alone) {
            (Some(_), _) => controllers.strip_prefix("name=").unwrap_or(controllers),
            (None, false) => "unified",
            (None, true) => "",
        };
        // A mount may show a part of the hierarchy alone, as in a container without a cgroup namespace.
        let within = Path::new(path)
            .strip_prefix(mount.root)
            .unwrap_or(Path::new(""));
        let base = if alone && !scope {
            mount.point.clone()
        } else {
            mount.point.join(within)
        };
        found.push(Hierarchy {
            name: name.into(),
            version1,
            directory: base.join("hepto").join(node),
            base,
        });
    }
    found
}

/// One line of mountinfo.
struct Mount<'a> {
    root: &'a str,
    point: PathBuf,
    kind: &'a str,
    options: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (head, tail) = line.split_once(" - ")?;
        let mut head = head.split(' ').skip(3);
        let (root, point) = (head.next()?, head.next()?);
        let mut tail = tail.split(' ');
        let (kind, options) = (tail.next()?, tail.nth(1)?);
        kind.starts_with("cgroup").then(|| Mount {
            root,
            point: point.into(),
            kind,
            options,
        })
    }

    /// Whether this is the hierarchy of the controllers in /proc/self/cgroup; none means version 2.
    fn holds(&self, controllers: &str) -> bool {
        match controllers {
            "" => self.kind == "cgroup2",
            _ => {
                self.kind == "cgroup"
                    && controllers
                        .split(',')
                        .all(|name| self.options.split(',').any(|option| option == name))
            }
        }
    }
}

/// Makes the node's cgroup in every hierarchy.
pub fn create(hierarchies: &[Hierarchy]) -> Result<(), Error> {
    for hierarchy in hierarchies {
        let mut turns = 1;
        // The last other node may take the empty `hepto` away between two steps.
        while let Err((path, error)) = create_one(hierarchy) {
            if error.kind() != ErrorKind::NotFound || turns == TURNS {
                return Err(Error::cgroup("create", &path, error));
            }
            turns += 1;
        }
    }
    Ok(())
}

fn create_one(hierarchy: &Hierarchy) -> Result<(), (PathBuf, io::Error)> {
    let cpuset = hierarchy.name.split(',').any(|name| name == "cpuset");
    let path = hierarchy.path();
    for (parent, directory) in path.iter().zip(&path[1..]) {
        let made = make(directory).and_then(|()| {
            if cpuset {
                fill(parent, directory)
            } else {
                Ok(())
            }
        });
        made.map_err(|error| (directory.to_path_buf(), error))?;
    }
    Ok(())
}

fn make(directory: &Path) -> io::Result<()> {
    match fs::create_dir(directory) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// A new cpuset is empty, and no process can enter it.
fn fill(parent: &Path, directory: &Path) -> io::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if fs::read_to_string(directory.join(file))?.trim().is_empty() {
            fs::write(directory.join(file), fs::read(parent.join(file))?)?;
        }
    }
    Ok(())
}

/// Lets the children of a version 2 cgroup have every controller that it has itself.
pub fn hand_out(directory: &Path) -> Result<(), Error> {
    let read = |file: &str| fs::read_to_string(directory.join(file)).unwrap_or_default();
    let (has, gives) = (read("cgroup.controllers"), read("cgroup.subtree_control"));
    for name in CONTROLLERS {
        let listed = |text: &str| text.split_whitespace().any(|word| word == name);
        if listed(&has) && !listed(&gives) {
            fs::write(directory.join("cgroup.subtree_control"), format!("+{name}")).map_err(
                |error| {
                    Error::cgroup(
                        "hand out controllers of",
                        directory,
                        format!("{name}: {error}"),
                    )
                },
            )?;
        }
    }
    Ok(())
}

/// Moves the calling process in, before it unshares the cgroup namespace.
pub fn enter(hierarchies: &[Hierarchy]) -> Result<(), Error> {
    for hierarchy in hierarchies {
        join(&hierarchy.directory)?;
        if unified(hierarchies) {
            // Only now: a scope has no process of its own any more.
            let path = hierarchy.path();
            let above = path.iter().filter(|path| **path != hierarchy.directory);
            above.copied().try_for_each(hand_out)?;
        }
    }
    Ok(())
}

/// Moves the calling process, which has unshared, out of the namespace's root, where it would forbid controllers.
pub fn descend(hierarchies: &[Hierarchy]) -> Result<(), Error> {
    if unified(hierarchies) {
        hierarchies
            .iter()
            .try_for_each(|hierarchy| join(&hierarchy.directory.join("init")))?;
    }
    Ok(())
}

/// Where a process that enters a running node goes, on the host.
pub fn doors(hierarchies: &[Hierarchy]) -> Vec<PathBuf> {
    let folder = if unified(hierarchies) { "exec" } else { "" };
    hierarchies
        .iter()
        .map(|hierarchy| hierarchy.directory.join(folder))
        .collect()
}

/// Moves the calling process into a cgroup, which is made when it is missing.
pub fn join(directory: &Path) -> Result<(), Error> {
    make(directory)
        .and_then(|()| fs::write(directory.join("cgroup.procs"), "0"))
        .map_err(|error| Error::cgroup("enter", directory, error))
}

/// Inside, on version 2 alone, by init, which was born in `init`: the root hands out all that it has.
pub fn arrange() -> Result<(), Error> {
    let k3s = Path::new(ROOT).join("k3s");
    make(&k3s).map_err(|error| Error::cgroup("create", &k3s, error))?;
    hand_out(Path::new(ROOT))
}

/// Inside, on version 2 alone: where init stands decides where its next child is born.
pub fn stand_in(name: &str) -> Result<(), Error> {
    join(&Path::new(ROOT).join(name))
}

/// The processes in a cgroup and all below it, with the host's pids.
pub fn processes(directory: &Path) -> Vec<i32> {
    let mut pids = Vec::new();
    walk(directory, &mut |folder| {
        let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        pids.extend(
            text.lines()
                .filter_map(|line| line.parse::<i32>().ok())
                .filter(|pid| *pid > 0),
        );
    });
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// The processes of pods: those under each folder `kubepods…` of the node's cgroups.
pub fn pod_processes(directories: &[PathBuf]) -> Vec<i32> {
    let mut roots = Vec::new();
    for directory in directories {
        walk(directory, &mut |folder| {
            if folder
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("kubepods"))
            {
                roots.push(folder.to_owned());
            }
        });
    }
    let mut pids: Vec<i32> = roots.iter().flat_map(|root| processes(root)).collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// Visits a cgroup and all below it, children first. One that vanishes meanwhile is no error.
fn walk(directory: &Path, visit: &mut dyn FnMut(&Path)) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), visit);
        }
    }
    visit(directory);
}

/// One round of killing everything in a cgroup and below; gives how many were there.
///
/// By `cgroup.kill` (Linux 5.14), else frozen meanwhile, so that nothing forks away; on version 1 the freezer
/// is a hierarchy of its own, and each of them gets its own round.
pub fn kill(directory: &Path) -> usize {
    let pids = processes(directory);
    if pids.is_empty() || fs::write(directory.join("cgroup.kill"), "1").is_ok() {
        return pids.len();
    }
    let freeze = |version1: &str, version2: &str| {
        let _ = fs::write(directory.join("freezer.state"), version1);
        let _ = fs::write(directory.join("cgroup.freeze"), version2);
    };
    freeze("FROZEN", "1");
    for pid in processes(directory)
        .into_iter()
        .filter_map(rustix::process::Pid::from_raw)
    {
        // Gone already is what we want.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    freeze("THAWED", "0");
    pids.len()
}

/// Removes a cgroup with all below it, and its parent `hepto` when that is empty.
pub fn remove(directory: &Path) -> io::Result<()> {
    let mut result = Ok(());
    walk(directory, &mut |folder| match fs::remove_dir(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => result = Err(error),
        _ => {}
    });
    if let Some(parent) = directory
        .parent()
        .filter(|parent| parent.ends_with("hepto"))
    {
        // Other nodes of this host may be in it.
        let _ = fs::remove_dir(parent);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
        32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:5 - cgroup cgroup rw,cpu,cpuacct\n\
        35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
        40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";

    #[test]
    fn a_hybrid_host_has_the_node_under_the_callers_own_path_in_each() {
        let own = "9:name=systemd:/\n4:memory:/jobs/one\n2:cpuacct,cpu:/\n3:cpuset:/\n0::/\n";
        let found = locate(own, HYBRID, "acides.grumpy", false);
        let summary: Vec<_> = found
            .iter()
            .map(|one| {
                (
                    one.name.as_str(),
                    one.version1.as_deref(),
                    one.directory.to_str().unwrap(),
                )
            })
            .collect();
        assert_eq!(
            summary,
            [
                (
                    "systemd",
                    Some("none,name=systemd"),
                    "/sys/fs/cgroup/systemd/hepto/acides.grumpy"
                ),
                (
                    "memory",
                    Some("memory"),
                    "/sys/fs/cgroup/memory/jobs/one/hepto/acides.grumpy"
                ),
                (
                    "cpuacct,cpu",
                    Some("cpuacct,cpu"),
                    "/sys/fs/cgroup/cpu,cpuacct/hepto/acides.grumpy"
                ),
                (
                    "unified",
                    None,
                    "/sys/fs/cgroup/unified/hepto/acides.grumpy"
                ),
            ]
        );
        assert!(!unified(&found));
    }

    #[test]
    fn version_2_alone_is_entered_from_the_top_or_from_the_scope() {
        let mountinfo =
            "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
        let own = "0::/hepto.slice/hepto-acides.grumpy-pods.scope\n";
        let top = locate(own, mountinfo, "acides.grumpy", false);
        assert_eq!(
            top[0].directory,
            Path::new("/sys/fs/cgroup/hepto/acides.grumpy")
        );
        let scope = locate(own, mountinfo, "acides.grumpy", true);
        assert_eq!(
            scope[0].directory,
            Path::new(
                "/sys/fs/cgroup/hepto.slice/hepto-acides.grumpy-pods.scope/hepto/acides.grumpy"
            )
        );
        assert!(unified(&scope));
    }

    #[test]
    fn a_mount_of_a_part_is_subtracted() {
        let mountinfo =
            "32 31 0:29 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let found = locate("4:memory:/docker/abc/inner\n", mountinfo, "a.b", false);
        assert_eq!(
            found[0].directory,
            Path::new("/sys/fs/cgroup/memory/inner/hepto/a.b")
        );
    }
}
