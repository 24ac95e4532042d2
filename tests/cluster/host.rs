//! What is the host's and the operator's own: the kernel's settings, and the cluster's secrets.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use hepto_tests::{Node, exposed};

use crate::cluster::{Cluster, folder};

/// Counters and samples that change by themselves.
const ALIVE: [&str; 12] = [
    "fs/aio-nr",
    "fs/dentry-state",
    "fs/file-nr",
    "fs/inode-nr",
    "fs/inode-state",
    "fs/quota",
    "kernel/ns_last_pid",
    "kernel/pty/nr",
    "kernel/random",
    "kernel/tainted",
    "kernel/cad_pid",
    "net/netfilter/nf_conntrack_count",
];

/// All settings of `/proc/sys`.
pub struct Kernel(BTreeMap<String, String>);

impl Kernel {
    /// As they are now, in the test's own network.
    pub fn now() -> Kernel {
        let mut settings = BTreeMap::new();
        read(Path::new("/proc/sys"), &mut settings);
        Kernel(settings)
    }

    /// Whether they are the same still.
    pub fn unchanged(&self) -> Result<String, String> {
        let now = Kernel::now().0;
        let changed: Vec<String> = self
            .0
            .iter()
            .filter(|(name, value)| now.get(*name).is_some_and(|now| now != *value))
            .map(|(name, value)| format!("{name} was {value} and is {}", now[name]))
            .collect();
        if !changed.is_empty() {
            return Err(changed.join("; "));
        }
        let kubelets = [
            "vm/overcommit_memory",
            "kernel/panic",
            "kernel/panic_on_oops",
        ];
        if let Some(missing) = kubelets.iter().find(|name| !self.0.contains_key(**name)) {
            return Err(format!("{missing} could not be read"));
        }
        Ok(format!("{} settings", self.0.len()))
    }
}

fn read(folder: &Path, settings: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = path
            .strip_prefix("/proc/sys")
            .unwrap_or(&path)
            .display()
            .to_string();
        if ALIVE.iter().any(|alive| name.starts_with(alive)) {
            continue;
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            read(&path, settings);
        } else if let Ok(value) = fs::read_to_string(&path) {
            // Those that may only be written are no settings.
            settings.insert(name, value.trim().to_owned());
        }
    }
}

/// The tokens, as both k3s and we keep them, are in no argument, environment, log or file that others may read.
pub fn secrets(cluster: &Cluster) -> Result<String, String> {
    let mut secrets = Vec::new();
    for node in &cluster.nodes {
        let etc = folder(node).with_file_name("etc-rancher").join("k3s");
        for name in ["token", "agent-token"] {
            // An agent has but one.
            secrets.extend(fs::read_to_string(etc.join(name)).ok());
        }
        secrets.extend(fs::read_to_string(&node.recipe.overlay_key).ok());
    }
    if secrets.len() < 2 * cluster.nodes.len() + 1 || secrets.iter().any(|secret| secret.len() < 32)
    {
        return Err(format!("{} secrets were found", secrets.len()));
    }
    let storages: Vec<&Path> = cluster.nodes.iter().map(storage).collect();
    let mut seen = exposed(&secrets, &[&storages[..], &[Path::new("/run")]].concat());
    for node in &cluster.nodes {
        // Logs are root's alone, and go further than that all the same.
        let log = fs::read_to_string(folder(node).with_file_name("log").join("k3s.log"));
        let texts = [node.log(), log.unwrap_or_default()];
        if secrets
            .iter()
            .any(|secret| texts.iter().any(|text| text.contains(secret.as_str())))
        {
            seen.push(format!("a log of {}", node.name()));
        }
    }
    seen.is_empty()
        .then(|| format!("{} secrets looked for", secrets.len()))
        .ok_or_else(|| seen.join(", "))
}

fn storage(node: &Node) -> &Path {
    &node.recipe.storage
}
