//! What neither a neighbour nor a pod can reach.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::Command;
use std::thread;
use std::time::Duration;

use hepto_tests::{Node, Space};
use ipnet::IpNet;

use crate::cluster::{Cluster, json};
use crate::network::cluster_ips;
use crate::pods::{self, PORT, SERVICE};
use crate::report::Report;

/// The API server's, the kubelet's, gossip's.
const CONTROL: [u16; 3] = [6443, 10_250, GOSSIP];
const GOSSIP: u16 = 7947;
/// How long a connection may take that nobody should take.
const CONNECTION: Duration = Duration::from_secs(3);

/// Checks all of it.
pub fn check(cluster: &Cluster, report: &mut Report) {
    report.check(
        "a neighbour reaches no control port at a node's public addresses",
        || {
            let neighbour = cluster.lab.home(7);
            let addresses = cluster.nodes.iter().flat_map(|node| node.recipe.uplink);
            let ports: Vec<SocketAddr> = addresses
                .flat_map(|address| CONTROL.map(|port| SocketAddr::new(address, port)))
                .collect();
            refused(neighbour.space(), &ports)?;
            Ok("6443, 10250 and 7947 of three nodes, both families".to_owned())
        },
    );
    report.check(
        "nor, when it routes through a node, any address of the cluster",
        || neighbour_routes(cluster),
    );
    report.check(
        "a pod reaches the API server by the overlay, but gossip nowhere",
        || {
            for node in &cluster.nodes {
                from_pod(cluster, node)?;
            }
            Ok("TCP and UDP 7947 of three nodes, both families".to_owned())
        },
    );
}

/// Who listens is asked first, so that silence is the firewall's doing.
fn neighbour_routes(cluster: &Cluster) -> Result<String, String> {
    let neighbour = cluster.lab.home(6);
    let master = cluster.master();
    let mut targets = Vec::new();
    for node in &cluster.nodes {
        for address in node.overlay_now()? {
            targets.extend([6443, 10_250, GOSSIP].map(|port| SocketAddr::new(address, port)));
        }
        for address in pods::addresses(master, node.name())? {
            targets.push(SocketAddr::new(address, PORT));
        }
    }
    for address in cluster_ips(&json(master, &["get", "service", SERVICE])?) {
        targets.push(SocketAddr::new(address, 80));
    }
    let hosts: BTreeSet<IpAddr> = targets.iter().map(SocketAddr::ip).collect();
    let space = neighbour.space();
    for gateway in &cluster.nodes {
        for host in &hosts {
            let via = gateway.recipe.uplink[usize::from(host.is_ipv6())];
            route(space, *host, via)?;
        }
        refused(space, &targets).map_err(|error| format!("through {}: {error}", gateway.name()))?;
    }
    Ok(format!(
        "{} addresses and ports, through each of three nodes",
        targets.len()
    ))
}

/// Leads packets for a host of the cluster through a node.
fn route(space: &Space, to: IpAddr, via: IpAddr) -> Result<(), String> {
    let mut command = Command::new("ip");
    let to = IpNet::from(to).to_string();
    command.args(["route", "replace", &to, "via", &via.to_string()]);
    let status = space
        .spawn(&mut command)
        .map_err(|error| error.to_string())?
        .wait()
        .map_err(|error| error.to_string())?;
    status
        .success()
        .then_some(())
        .ok_or_else(|| format!("ip route replace {to} via {via}: {status}"))
}

/// Nobody may take a connection; all are tried at once.
fn refused(from: &Space, servers: &[SocketAddr]) -> Result<(), String> {
    let taken: Vec<&SocketAddr> = thread::scope(|scope| {
        let tried: Vec<_> = servers
            .iter()
            .map(|server| {
                let connect = || TcpStream::connect_timeout(server, CONNECTION).is_ok();
                (server, scope.spawn(move || from.run(connect)))
            })
            .collect();
        let took = tried.into_iter().filter_map(|(server, thread)| {
            // What could not be tried does not hold either.
            let silent = matches!(thread.join(), Ok(Ok(false)));
            (!silent).then_some(server)
        });
        took.collect()
    });
    match taken.as_slice() {
        [] => Ok(()),
        taken => Err(format!("connections are taken: {taken:?}")),
    }
}

/// Gossip of the pod's own node and of the others.
fn from_pod(cluster: &Cluster, node: &Node) -> Result<(), String> {
    let master = cluster.master();
    let mut gossip = Vec::new();
    for other in &cluster.nodes {
        let addresses = other.overlay_now()?;
        gossip.extend(addresses.map(|address| SocketAddr::new(address, GOSSIP).to_string()));
    }
    for network in ["tcp", "udp"] {
        let mut words = vec!["silent", network];
        words.extend(gossip.iter().map(String::as_str));
        pods::run(master, node.name(), &words)?;
    }
    // That the pod reaches the overlay at all is what makes the silence worth something.
    let api = SocketAddr::new(master.overlay_now()?[0], 6443).to_string();
    match pods::run(master, node.name(), &["silent", "tcp", &api]) {
        Err(error) if error.contains("answers by tcp") => {}
        other => return Err(format!("the API server at {api}: {other:?}")),
    }
    // And that somebody listens there, at one of the two addresses.
    let inside = node.inside()?;
    let listens = node.overlay_now()?.into_iter().any(|address| {
        let gossip = SocketAddr::new(address, GOSSIP);
        let connect = || TcpStream::connect_timeout(&gossip, CONNECTION).is_ok();
        inside.run(connect).unwrap_or(false)
    });
    listens
        .then_some(())
        .ok_or_else(|| format!("no gossip listens on {}", node.name()))
}
