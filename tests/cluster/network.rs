//! The pod network: pods, Services and published ports across homes, in both families.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::Duration;

use hepto_tests::{Node, Space};
use ipnet::IpNet;
use serde_json::Value;

use crate::cluster::{Cluster, json, soon};
use crate::pods::{self, HOST_PORT, NODE_PORT, PORT, SERVICE};
use crate::report::Report;

/// How long rules may take to follow an object of the API.
const SOON: Duration = Duration::from_secs(60);
/// How long a connection may take.
const CONNECTION: Duration = Duration::from_secs(3);

/// Checks all of it.
pub fn check(cluster: &Cluster, report: &mut Report) {
    across(cluster, report);
    sizes(cluster, report);
    services(cluster, report);
    published(cluster, report);
    outside(cluster, report);
    routes(cluster, report);
    governed(cluster, report);
}

/// The pods ask one another in a ring, so that each home both asks and answers.
fn across(cluster: &Cluster, report: &mut Report) {
    let master = cluster.master();
    for (family, what) in [(0, "IPv4"), (1, "IPv6")] {
        report.check(&format!("pods of two nodes ping over {what}"), || {
            ring(cluster, |from, to| {
                let address = pods::addresses(master, to)?[family];
                let ping = || pods::run(master, from, &["echo", &address.to_string()]);
                soon(SOON, ping).map(|(said, _)| said)
            })
        });
        report.check(
            &format!("and connect over {what}, from the pod's own address"),
            || {
                ring(cluster, |from, to| {
                    let address = pods::addresses(master, to)?[family];
                    let own = pods::addresses(master, from)?[family];
                    let said = pods::run(master, from, &["ask", &socket(address, PORT)])?;
                    expect(said, &format!("{} {own}", pods::name(to)))
                })
            },
        );
    }
}

/// Every node asks the next; gives the last answer.
fn ring(
    cluster: &Cluster,
    ask: impl Fn(&str, &str) -> Result<String, String>,
) -> Result<String, String> {
    let names: Vec<&str> = cluster.nodes.iter().map(Node::name).collect();
    let mut last = String::new();
    for (number, from) in names.iter().enumerate() {
        let to = names[(number + 1) % names.len()];
        last = ask(from, to).map_err(|error| format!("from {from} to {to}: {error}"))?;
    }
    Ok(last)
}

/// A pod's packet is as large as the tunnel's, and no larger.
fn sizes(cluster: &Cluster, report: &mut Report) {
    let master = cluster.master();
    report.check(
        "a full-size packet goes from pod to pod, and no larger one leaves",
        || {
            let tunnel = master.status()?["mesh"]["mtu"].as_u64().ok_or("no MTU")?;
            for address in pods::addresses(master, "venus")? {
                let echo = |size: u64| {
                    let size = size.to_string();
                    pods::run(master, "mars", &["echo", &address.to_string(), &size])
                };
                echo(tunnel)?;
                match echo(tunnel + 1) {
                    Err(error) if error.contains("message too long") => {}
                    other => return Err(format!("{} bytes to {address}: {other:?}", tunnel + 1)),
                }
            }
            Ok(format!(
                "{tunnel} bytes, the tunnel's MTU, in both families"
            ))
        },
    );
}

fn services(cluster: &Cluster, report: &mut Report) {
    let master = cluster.master();
    report.check(
        "a Service answers at both of its ClusterIPs, on every node",
        || {
            let service = json(master, &["get", "service", SERVICE])?;
            let addresses = cluster_ips(&service);
            if addresses.len() != 2 {
                return Err(format!("its addresses: {addresses:?}"));
            }
            for node in &cluster.nodes {
                for address in &addresses {
                    let ask = || {
                        let said = pods::run(master, node.name(), &["ask", &socket(*address, 80)])?;
                        said.starts_with("on-").then_some(()).ok_or(said)
                    };
                    soon(SOON, ask)
                        .map_err(|error| format!("{address} on {}: {error}", node.name()))?;
                }
            }
            Ok(format!("{} and {}", addresses[0], addresses[1]))
        },
    );
}

/// The Service's addresses.
pub fn cluster_ips(service: &Value) -> Vec<IpAddr> {
    let addresses = service["spec"]["clusterIPs"]
        .as_array()
        .into_iter()
        .flatten();
    addresses
        .filter_map(|address| address.as_str()?.parse().ok())
        .collect()
}

/// NodePort and hostPort, from a machine of another home.
fn published(cluster: &Cluster, report: &mut Report) {
    let neighbour = cluster.lab.home(9);
    report.check(
        "a NodePort answers at every node's public addresses, asked from another home",
        || {
            for node in &cluster.nodes {
                for address in node.recipe.uplink {
                    answers(neighbour.space(), address, NODE_PORT, "on-")?;
                }
            }
            Ok(format!("port {NODE_PORT}, both families"))
        },
    );
    report.check("a hostPort answers at its node's public addresses", || {
        let node = &cluster.nodes[1];
        for address in node.recipe.uplink {
            answers(
                neighbour.space(),
                address,
                HOST_PORT,
                &pods::name(node.name()),
            )?;
        }
        Ok(format!(
            "port {HOST_PORT} of {}, both families",
            node.name()
        ))
    });
}

/// Asks a port until its answer begins with these words.
pub fn answers(from: &Space, address: IpAddr, port: u16, words: &str) -> Result<String, String> {
    let ask = || {
        let said = from
            .run(|| ask(SocketAddr::new(address, port)))
            .map_err(|error| error.to_string())??;
        said.starts_with(words).then_some(said.clone()).ok_or(said)
    };
    soon(SOON, ask)
        .map(|(said, _)| said)
        .map_err(|error| format!("{address} port {port}: {error}"))
}

/// What a server says to who connects.
pub fn ask(server: SocketAddr) -> Result<String, String> {
    let mut connection =
        TcpStream::connect_timeout(&server, CONNECTION).map_err(|error| error.to_string())?;
    let mut said = String::new();
    connection
        .set_read_timeout(Some(CONNECTION))
        .and_then(|()| connection.read_to_string(&mut said))
        .map_err(|error| error.to_string())?;
    Ok(said)
}

/// What the world sees of a pod that calls it.
fn outside(cluster: &Cluster, report: &mut Report) {
    let world = cluster.lab.home(8);
    for (family, what, address) in [(0, "IPv4", "192.168.77.8"), (1, "IPv6", "2001:db8:77::8")] {
        let what = format!("a pod reaches the world over {what} as its node's public address");
        report.check(&what, || {
            let server = SocketAddr::new(address.parse().expect("an address"), 9000);
            mirror(world.space(), server)?;
            for node in &cluster.nodes {
                let said = pods::run(cluster.master(), node.name(), &["ask", &server.to_string()])?;
                expect(said, &node.recipe.uplink[family].to_string())?;
            }
            Ok("on every node".to_owned())
        });
    }
}

/// Tells every caller its address, until the test's end.
fn mirror(space: &Space, at: SocketAddr) -> Result<(), String> {
    let listener = space
        .run(|| TcpListener::bind(at))
        .map_err(|error| error.to_string())?
        .map_err(|error| format!("{at}: {error}"))?;
    thread::spawn(move || {
        for mut caller in listener.incoming().flatten() {
            if let Ok(from) = caller.peer_addr() {
                // The caller may have gone.
                let _ = write!(caller, "{}", from.ip());
            }
        }
    });
    Ok(())
}

/// flannel's routes make allowed-IPs; others do not.
fn routes(cluster: &Cluster, report: &mut Report) {
    report.check(
        "every node has routes to the other nodes' pods, by their overlay addresses",
        || {
            let nodes = json(cluster.master(), &["get", "nodes"])?;
            let mut seen = 0;
            for node in &cluster.nodes {
                let routes = ip(node, &["route", "show", "dev", "hepto0"])?
                    + &ip(node, &["-6", "route", "show", "dev", "hepto0"])?;
                for other in cluster
                    .nodes
                    .iter()
                    .filter(|other| other.name() != node.name())
                {
                    for prefix in pod_prefixes(&nodes, other.name()) {
                        let via = other
                            .overlay_now()?
                            .map(|address| format!("{prefix} via {address}"));
                        let written = via.iter().any(|via| routes.contains(via.as_str()));
                        if !written {
                            return Err(format!("{} has none to {prefix}:\n{routes}", node.name()));
                        }
                        seen += 1;
                    }
                }
            }
            Ok(format!("{seen} routes, both families"))
        },
    );
    report.check(
        "allowed-IPs are each peer's own addresses and the pod prefixes of its routes",
        || soon(SOON, || allowed(cluster)).map(|(seen, _)| seen),
    );
    report.check(
        "the tunnel carries what a route inside the pod networks names, while it is there",
        || carried(cluster, "10.42.250.0/24", "10.42.250.1", true),
    );
    report.check("and never what a route outside of them names", || {
        carried(cluster, "198.51.100.0/24", "198.51.100.1", false)
    });
}

/// Every peer of every node is allowed its overlay addresses and the pod prefixes that the API gave it, and no more.
fn allowed(cluster: &Cluster) -> Result<String, String> {
    let nodes = json(cluster.master(), &["get", "nodes"])?;
    for node in &cluster.nodes {
        let shown = node.exec_net(&["wg", "show", "hepto0", "allowed-ips"])?;
        for peer in node.peers()? {
            let (name, key) = (peer["name"].as_str(), peer["public_key"].as_str());
            let (name, key) = (name.ok_or("no name")?, key.ok_or("no key")?);
            let line = shown.lines().find_map(|line| line.strip_prefix(key));
            let mut have: Vec<IpNet> = line
                .ok_or_else(|| format!("{name} is no peer:\n{shown}"))?
                .split_whitespace()
                .filter_map(|prefix| prefix.parse().ok())
                .collect();
            let addresses: Vec<IpAddr> =
                serde_json::from_value(peer["addresses"].clone()).map_err(|e| e.to_string())?;
            let pods = pod_prefixes(&nodes, name);
            let mut wanted: Vec<IpNet> = pods.iter().filter_map(|pod| pod.parse().ok()).collect();
            wanted.extend(addresses.into_iter().map(IpNet::from));
            have.sort();
            wanted.sort();
            if have != wanted || wanted.len() != 4 {
                return Err(format!(
                    "{} allows {name} {have:?}, not {wanted:?}",
                    node.name()
                ));
            }
        }
    }
    Ok("2 addresses and 2 pod prefixes a peer, in `wg show hepto0 allowed-ips`".to_owned())
}

/// The pod prefixes that the API gave to a node.
fn pod_prefixes(nodes: &Value, name: &str) -> Vec<String> {
    let items = nodes["items"].as_array().into_iter().flatten();
    let mut of_name = items.filter(|node| node["metadata"]["name"] == name);
    let prefixes = of_name.next().map(|node| node["spec"]["podCIDRs"].clone());
    serde_json::from_value(prefixes.unwrap_or_default()).unwrap_or_default()
}

/// Whether packets to `address`, which the second node then has, follow a hand-made route by its overlay address.
fn carried(
    cluster: &Cluster,
    prefix: &str,
    address: &str,
    expected: bool,
) -> Result<String, String> {
    let (from, to) = (&cluster.nodes[0], &cluster.nodes[1]);
    let gateway = to.overlay_now()?[0].to_string();
    let echo = || from.echo(hepto_tests::Echo::new(address.parse().expect("an address")));
    ip(
        to,
        &["address", "add", &format!("{address}/32"), "dev", "lo"],
    )?;
    ip(
        from,
        &["route", "add", prefix, "via", &gateway, "dev", "hepto0"],
    )?;
    let with_route = match expected {
        true => soon(SOON, echo).map(|_| ()),
        // As long as the tunnel took to hear of the other route, many times over.
        false => match soon(Duration::from_secs(5), echo) {
            Ok(_) => Err("it was carried".to_owned()),
            Err(_) => Ok(()),
        },
    };
    ip(from, &["route", "del", prefix])?;
    let after = match echo() {
        Ok(_) => Err("it is carried without the route".to_owned()),
        Err(_) => Ok(()),
    };
    ip(
        to,
        &["address", "del", &format!("{address}/32"), "dev", "lo"],
    )?;
    with_route.and(after)?;
    Ok(format!("{prefix} by way of {gateway}"))
}

/// iproute2 in the network of a node.
pub fn ip(node: &Node, words: &[&str]) -> Result<String, String> {
    let mut command = Command::new("ip");
    command
        .args(words)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let child = node
        .inside()?
        .spawn(&mut command)
        .map_err(|error| error.to_string())?;
    let output = child
        .wait_with_output()
        .map_err(|error| error.to_string())?;
    let errors = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("ip {}: {errors}", words.join(" ")));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// `kubectl exec` was in use all along: here from the master into another node's pod, by name, and the logs.
fn governed(cluster: &Cluster, report: &mut Report) {
    report.check(
        "kubectl exec and logs reach pods of every node from the master",
        || {
            for node in &cluster.nodes {
                let answer = pods::run(
                    cluster.master(),
                    node.name(),
                    &["ask", &socket(loopback(), PORT)],
                )?;
                expect(answer, &format!("{} 127.0.0.1", pods::name(node.name())))?;
                let log = cluster
                    .master()
                    .kubectl(&["logs", &pods::name(node.name())])?;
                if !log.contains("asked by 127.0.0.1") {
                    return Err(format!("the log of {}: {log}", pods::name(node.name())));
                }
            }
            Ok("across nodes, by each kubelet's overlay address".to_owned())
        },
    );
}

fn loopback() -> IpAddr {
    std::net::Ipv4Addr::LOCALHOST.into()
}

fn socket(address: IpAddr, port: u16) -> String {
    SocketAddr::new(address, port).to_string()
}

/// What was said has to be this.
fn expect(said: String, wanted: &str) -> Result<String, String> {
    if said == wanted {
        return Ok(said);
    }
    Err(format!("it said {said:?}, not {wanted:?}"))
}
