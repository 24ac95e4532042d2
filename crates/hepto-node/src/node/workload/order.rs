//! From the configuration to what the workload's parts are told.

use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::config::{ClusterSecret, Config, FirewallMode, K3s};
use crate::k3s::acquire::{Known, Order, Patience};
use crate::k3s::{self, Arguments, Role, Secret};
use crate::node::limits;
use crate::node::settings::{self, OVERLAY_LINK};
use crate::sandbox;

/// What is to be acquired for a config; nothing for a mesh only.
pub fn order(config: &Config) -> Option<Order> {
    let k3s = config.k3s.as_ref()?;
    Some(Order {
        source: k3s.source.clone(),
        images: k3s.images.clone(),
        patience: Patience::default(),
        storage: config.node.storage.clone(),
        node_directory: config.node_directory(),
    })
}

/// What the sandbox is made from. `visible`: where k3s lies.
pub(super) fn sandbox_settings(
    config: &Config,
    visible: Vec<PathBuf>,
    run_directory: &Path,
    hosts: &str,
    resolv_conf: &str,
) -> sandbox::Settings {
    sandbox::Settings {
        cluster: config.cluster.name.to_string(),
        node: config.node.name.to_string(),
        directory: config.node_directory(),
        storage: config.node.storage.clone(),
        data: config.node.data.clone(),
        netns: hepto_net::namespace::path(&config.namespace()),
        run_directory: run_directory.to_owned(),
        hosts: hosts.to_owned(),
        resolv_conf: resolv_conf.to_owned(),
        hidden: config
            .cluster
            .key_files
            .paths()
            .map(sandbox::mask)
            .collect(),
        visible,
        limits: limits::of_sandbox(&config.limits),
        executable: PathBuf::from("/proc/self/exe"),
    }
}

/// What k3s is told, and which one.
pub(super) fn k3s_settings(
    config: &Config,
    k3s: &K3s,
    programs: [Option<Known>; 3],
    attempt: u8,
    resolv_conf: String,
) -> k3s::Settings {
    let cluster = &config.cluster;
    let secret = match &k3s.secret {
        ClusterSecret::Master(key) => Secret::Server {
            token: Zeroizing::new(key.expose().to_owned()),
            agent_token: Zeroizing::new(key.agent(&cluster.name).expose().to_owned()),
        },
        ClusterSecret::Agent(key) => Secret::Agent {
            token: Zeroizing::new(key.expose().to_owned()),
        },
    };
    let arguments = Arguments {
        role: if config.is_master() {
            Role::Server
        } else {
            Role::Agent
        },
        node: config.node.name.to_string(),
        master: cluster.master.to_string(),
        addresses: settings::overlay_addresses(config, attempt).to_vec(),
        pods: cluster.pod_cidrs.clone(),
        services: cluster.service_cidrs.clone(),
        link: OVERLAY_LINK.into(),
        uplink: config
            .network
            .addresses
            .iter()
            .map(|net| net.addr())
            .collect(),
        bind_overlay: config.network.firewall == FirewallMode::None,
        founded: false,
        reserved: limits::reserved(&config.limits),
        extra: k3s.args.clone(),
    };
    let arguments = if hepto_net::has_ipv6() {
        arguments
    } else {
        arguments.without_ipv6()
    };
    k3s::Settings {
        arguments,
        secret,
        programs,
        upgrade_timeout: k3s.upgrade_timeout,
        directory: config.node_directory(),
        resolv_conf,
        unproxied: settings::own_networks(config)
            .iter()
            .map(ToString::to_string)
            .chain([cluster.master.to_string()])
            .collect(),
        drain: k3s.drain,
    }
}
