//! Which node a command means: a run directory, found by name or by config file.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::cli::Target;
use crate::fault::{Exit, Fault};
use crate::state::Record;

/// Where the run directories of all nodes of this host lie.
const RUNS: &str = "/run/hepto";

/// The run directory of a node, and the names that it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunDirectory {
    /// `/run/hepto/<cluster>.<node>`.
    pub path: PathBuf,
    /// The cluster's name.
    pub cluster: String,
    /// The node's name.
    pub node: String,
}

impl RunDirectory {
    /// The directory of a node, running or not.
    pub fn new(cluster: &str, node: &str) -> Self {
        Self::under(Path::new(RUNS), cluster, node)
    }

    fn under(runs: &Path, cluster: &str, node: &str) -> Self {
        RunDirectory {
            path: runs.join(format!("{cluster}.{node}")),
            cluster: cluster.into(),
            node: node.into(),
        }
    }

    /// Where the node's network namespace is pinned.
    pub fn namespace(&self) -> PathBuf {
        Path::new("/run/netns").join(format!("hepto-{}.{}", self.cluster, self.node))
    }

    /// `CLUSTER.NODE`.
    pub fn name(&self) -> String {
        format!("{}.{}", self.cluster, self.node)
    }
}

/// Finds the node that a command means, which need not run when its config file is given.
///
/// # Errors
/// When there is none, or when there are several.
pub fn resolve(target: &Target) -> Result<RunDirectory, Fault> {
    match &target.config {
        Some(config) => named_in(config),
        None => among(Path::new(RUNS), target.node.as_deref()),
    }
}

/// The same for a command that takes a running node: the one that was started with the config file, also when that gives
/// it another name by now, or none.
///
/// # Errors
/// As [`resolve`].
pub fn running(target: &Target) -> Result<RunDirectory, Fault> {
    let Some(config) = &target.config else {
        return resolve(target);
    };
    let config = fs::canonicalize(config).unwrap_or_else(|_| config.clone());
    let runs_from =
        |run: &RunDirectory| Record::read(&run.path).is_some_and(|record| record.config == config);
    match all(Path::new(RUNS)).into_iter().find(runs_from) {
        Some(found) => Ok(found),
        None => resolve(target),
    }
}

/// Reads the two names of a config file and nothing else: a mistake elsewhere in it must not keep one from
/// stopping the node.
fn named_in(config: &Path) -> Result<RunDirectory, Fault> {
    let wrong = |what: String| Fault::new("E-TARGET-CONFIG", what).exit(Exit::BadConfig);
    let text = fs::read_to_string(config)
        .map_err(|error| wrong(format!("cannot read {}: {error}", config.display())))?;
    let table: toml::Table = text
        .parse()
        .map_err(|error| wrong(format!("cannot read {}: {error}", config.display())))?;
    let name = |section: &str| {
        let name = table
            .get(section)
            .and_then(|section| section.get("name"))
            .and_then(toml::Value::as_str);
        name.ok_or_else(|| wrong(format!("{} has no [{section}] name", config.display())))
    };
    Ok(RunDirectory::new(name("cluster")?, name("node")?))
}

fn among(runs: &Path, wanted: Option<&str>) -> Result<RunDirectory, Fault> {
    if fs::read_dir(runs).is_err_and(|error| error.kind() == ErrorKind::PermissionDenied) {
        let what = format!(
            "the nodes of this host are in {}, which only root may read",
            runs.display()
        );
        return Err(Fault::new("E-TARGET-PERMISSION", what)
            .fix("run it as root")
            .exit(Exit::NoPermission));
    }
    let mut found: Vec<_> = all(runs)
        .into_iter()
        .filter(|run| wanted.is_none_or(|name| run.node == name || run.name() == name))
        .collect();
    found.sort_by(|one, other| one.path.cmp(&other.path));
    let names = |runs: &[RunDirectory]| {
        runs.iter()
            .map(RunDirectory::name)
            .collect::<Vec<_>>()
            .join(", ")
    };
    match (found.len(), wanted) {
        (1, _) => Ok(found.remove(0)),
        (0, None) => Err(Fault::new("E-TARGET-NONE", "no node runs on this host")
            .fix("start one: hepto-node run --config FILE")
            .exit(Exit::NotReady)),
        (0, Some(name)) => {
            let what = format!("no node {name} runs on this host");
            let fault = Fault::new("E-TARGET-NONE", what).exit(Exit::NotReady);
            let others = all(runs);
            Err(if others.is_empty() {
                fault
            } else {
                fault.fix(format!("name one of those that do: {}", names(&others)))
            })
        }
        (_, _) => Err(Fault::new(
            "E-TARGET-AMBIGUOUS",
            format!("several nodes run on this host: {}", names(&found)),
        )
        .fix("name one: --node CLUSTER.NODE")
        .exit(Exit::Usage)),
    }
}

/// All nodes of this host that run.
pub fn every() -> Vec<RunDirectory> {
    all(Path::new(RUNS))
}

/// The nodes of this host. A name holds no dot, so the first one parts cluster and node.
fn all(runs: &Path) -> Vec<RunDirectory> {
    let entries = fs::read_dir(runs).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names
        .filter_map(|name| {
            name.split_once('.')
                .map(|(cluster, node)| RunDirectory::under(runs, cluster, node))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(nodes: &[&str]) -> tempfile::TempDir {
        let runs = tempfile::tempdir().unwrap();
        nodes
            .iter()
            .for_each(|node| fs::create_dir(runs.path().join(node)).unwrap());
        runs
    }

    #[test]
    fn the_only_node_needs_no_name() {
        let runs = host(&["acides.grumpy"]);
        let found = among(runs.path(), None).unwrap();
        assert_eq!(
            (found.cluster.as_str(), found.node.as_str()),
            ("acides", "grumpy")
        );
        assert_eq!(
            found.namespace(),
            Path::new("/run/netns/hepto-acides.grumpy")
        );
        let none = among(host(&[]).path(), None).unwrap_err();
        assert_eq!((none.code, none.exit), ("E-TARGET-NONE", Exit::NotReady));
    }

    #[test]
    fn one_name_in_two_clusters_needs_both_names() {
        let runs = host(&["acides.mars", "bases.mars", "bases.venus"]);
        let fault = among(runs.path(), Some("mars")).unwrap_err();
        assert_eq!(
            (fault.code, fault.exit),
            ("E-TARGET-AMBIGUOUS", Exit::Usage)
        );
        assert!(fault.what.contains("acides.mars, bases.mars") && !fault.what.contains("venus"));
        assert_eq!(
            among(runs.path(), Some("bases.mars")).unwrap().cluster,
            "bases"
        );
        assert_eq!(among(runs.path(), Some("venus")).unwrap().cluster, "bases");
        assert!(
            among(runs.path(), Some("pluto"))
                .unwrap_err()
                .fix
                .unwrap()
                .contains("bases.venus")
        );
    }

    #[test]
    fn a_config_file_gives_its_names_whatever_else_it_says() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.toml");
        fs::write(
            &path,
            "[node]\nname = \"grumpy\"\nnonsense = 1\n[cluster]\nname = \"acides\"\n",
        )
        .unwrap();
        assert_eq!(
            named_in(&path).unwrap(),
            RunDirectory::new("acides", "grumpy")
        );
        fs::write(&path, "[node]\nname = \"grumpy\"\n").unwrap();
        assert_eq!(named_in(&path).unwrap_err().exit, Exit::BadConfig);
    }
}
