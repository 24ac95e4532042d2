//! What a running node keeps: settings that its storage, its namespace, its pods or the cluster were made from. A reload
//! takes up every other change, and refuses one of these by its name.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::Path;

use crate::config::Config;
use crate::sandbox;

/// Settings by their names in the config file, with their values in words. None of them is a secret.
pub type Fixed = BTreeMap<String, String>;

/// A setting of a running node that the config file gives another value now.
#[derive(Debug, PartialEq, Eq)]
pub struct Change {
    /// Its name, such as `cluster.pod_cidrs`.
    pub setting: String,
    /// With what the node runs.
    pub runs_with: String,
    /// What the file says.
    pub now: String,
}

impl Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Change {
            setting,
            runs_with,
            now,
        } = self;
        write!(
            f,
            "{setting} is {now} now, and the node runs with {runs_with}"
        )
    }
}

/// What a node with this configuration keeps while it runs.
pub fn fixed(config: &Config) -> Fixed {
    let cluster = &config.cluster;
    let mut fixed: Vec<(&str, String)> = vec![
        ("cluster.name", cluster.name.to_string()),
        ("cluster.master", cluster.master.to_string()),
        ("cluster.ula", cluster.prefixes.overlay_net_v6().to_string()),
        ("cluster.pod_cidrs", list(&cluster.pod_cidrs)),
        ("cluster.service_cidrs", list(&cluster.service_cidrs)),
        ("mesh.ipv4", cluster.prefixes.overlay_net_v4().to_string()),
        (
            "mesh.addressing",
            cluster.prefixes.addressing().name().to_owned(),
        ),
        ("node.name", config.node.name.to_string()),
        ("node.storage", path(&config.node.storage)),
        ("k3s.enabled", config.k3s.is_some().to_string()),
    ];
    if config.k3s.is_some() {
        // The sandbox was made with these mounts, and hides these folders.
        let data = config.node.data.iter().map(|folder| path(folder));
        fixed.push((
            "node.data",
            format!("[{}]", data.collect::<Vec<_>>().join(", ")),
        ));
        let keys = &cluster.key_files;
        for (name, file) in [
            ("cluster.overlay_key_file", Some(&keys.overlay)),
            ("cluster.cluster_key_file", keys.cluster.as_ref()),
            ("cluster.agent_key_file", keys.agent.as_ref()),
        ] {
            if let Some(file) = file {
                fixed.push((name, path(&sandbox::mask(file))));
            }
        }
    }
    fixed
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// What of `runs_with` has another value `now`. A setting that only one side knows is no change: one of two versions
/// does not fix it, or no key file of that kind is named any more.
pub fn changes(runs_with: &Fixed, now: &Fixed) -> Vec<Change> {
    let changed = |(setting, before): (&String, &String)| {
        let now = now.get(setting).filter(|now| *now != before)?;
        Some(Change {
            setting: setting.clone(),
            runs_with: before.clone(),
            now: now.clone(),
        })
    };
    runs_with.iter().filter_map(changed).collect()
}

fn list<T: Display>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    format!("[{}]", items.join(", "))
}

/// As the kernel resolves it, so that another way to write it is no change.
fn path(path: &Path) -> String {
    let resolved = path.canonicalize();
    resolved.as_deref().unwrap_or(path).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Fixed {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn a_changed_setting_is_named_with_both_values() {
        let before = settings(&[
            ("cluster.pod_cidrs", "[10.42.0.0/16]"),
            ("node.name", "mars"),
        ]);
        let now = settings(&[
            ("cluster.pod_cidrs", "[10.50.0.0/16]"),
            ("node.name", "mars"),
        ]);
        let found = changes(&before, &now);
        assert_eq!(found.len(), 1);
        assert_eq!(
            found[0].to_string(),
            "cluster.pod_cidrs is [10.50.0.0/16] now, and the node runs with [10.42.0.0/16]"
        );
    }

    #[test]
    fn what_one_version_alone_knows_is_no_change() {
        let before = settings(&[("node.name", "mars"), ("node.gone", "1")]);
        let now = settings(&[("node.name", "mars"), ("node.fresh", "2")]);
        assert_eq!(changes(&before, &now), []);
    }
}
