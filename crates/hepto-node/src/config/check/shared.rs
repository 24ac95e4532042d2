//! What a config has in common with its cluster.

use std::collections::BTreeMap;
use std::path::Path;

use hepto_mesh::key::{AgentKey, ClusterKey, KeyError, OverlayKey};
use hepto_mesh::name::ClusterName;
use ipnet::IpNet;

use super::{Checking, Report, cluster, examine, k3s, mesh, network, node};
use crate::config::file::{ClusterSection, File, Text};
use crate::config::shared::Shared;
use crate::secret;

/// Takes it out of a config's text. Of this machine the key files alone are looked at, as far as they are there.
///
/// # Errors
/// Everything that is wrong in the file's form.
pub fn shared(path: &Path, text: &str) -> Result<Shared, Report> {
    let (_, report) = examine(path, text, None);
    let (file, checking) = Checking::of(text, None);
    match common(&file, checking) {
        Some(shared) if report.errors() == 0 => Ok(shared),
        _ => Err(report),
    }
}

fn common(file: &File, mut checking: Checking<'_>) -> Option<Shared> {
    let node = node::node(&file.node, &mut checking)?;
    let network = network::network(&file.network, &mut checking)?;
    let identity = cluster::identity(&file.cluster, &mut checking)?;
    let plan = mesh::plan(&file.cluster, &file.mesh, Some(&identity), &mut checking)?;
    let texts = |nets: &[IpNet]| {
        let texts: Vec<String> = nets.iter().map(ToString::to_string).collect();
        texts.join(", ")
    };
    let prefixes = &plan.prefixes;
    let settings = [
        ("cluster.name", identity.name.to_string()),
        ("cluster.master", identity.master.to_string()),
        ("cluster.ula", prefixes.ula().to_string()),
        ("cluster.pod_cidrs", texts(&plan.pods)),
        ("cluster.service_cidrs", texts(&plan.services)),
        ("mesh.ipv4", prefixes.overlay_net_v4().to_string()),
        ("mesh.addressing", prefixes.addressing().name().to_owned()),
        ("network.mtu", network.mtu.to_string()),
    ];
    let mut shared = Shared {
        node: node.name.to_string(),
        settings: settings
            .map(|(name, value)| (name.to_owned(), value))
            .into(),
        missing: BTreeMap::new(),
    };
    shared.note(
        "key.overlay",
        file.cluster.overlay_key_file.as_ref().map(overlay),
    );
    if k3s::is_enabled(&file.k3s) {
        shared.note("key.agent", agent(&file.cluster, &identity.name));
        let unknown = || Err("k3s.binary names a program, and not its version".to_owned());
        let version = file.k3s.version.as_ref();
        shared.note(
            "k3s.version",
            Some(version.map_or_else(unknown, |text| Ok(text.get_ref().clone()))),
        );
    }
    Some(shared)
}

fn overlay(file: &Text) -> Result<String, String> {
    let key: OverlayKey = read(file)?;
    Ok(key.check_value())
}

/// Of the agents' key, which the master has by the cluster key.
fn agent(file: &ClusterSection, cluster: &ClusterName) -> Option<Result<String, String>> {
    let derived = file.cluster_key_file.as_ref().map(|file| {
        let key: ClusterKey = read(file)?;
        Ok(key.agent(cluster).check_value())
    });
    derived.or_else(|| {
        let file = file.agent_key_file.as_ref()?;
        Some(read(file).map(|key: AgentKey| key.check_value()))
    })
}

fn read<T: std::str::FromStr<Err = KeyError>>(file: &Text) -> Result<T, String> {
    let key = secret::read(Path::new(file.get_ref())).map_err(|error| error.to_string())?;
    key.parse().map_err(|error: KeyError| error.to_string())
}
