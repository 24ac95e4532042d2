//! One pod a node, and a Service over all of them.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;

use hepto_tests::Node;
use serde_json::{Value, json};

use crate::cluster::{Cluster, eventually, folder};
use crate::report::Report;

/// The port that every pod serves on.
pub const PORT: u16 = 8080;
/// The Service's port of every node.
pub const NODE_PORT: u16 = 30_080;
/// The port of its node that the second node's pod has.
pub const HOST_PORT: u16 = 8081;
/// The Service.
pub const SERVICE: &str = "town";

/// k3s's data folder, as the node's own programs see it.
pub const DATA: &str = "/var/lib/rancher/k3s";

/// What must not change over restarts of anything but the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Life {
    /// The pod.
    pub name: String,
    /// Its node.
    pub node: String,
    /// How often the kubelet started its container again.
    pub restarts: u64,
    /// The container.
    pub container: String,
    /// Its addresses, IPv4 first.
    pub addresses: Vec<IpAddr>,
}

/// Starts a pod on every node and the Service, and waits until all run.
///
/// # Panics
/// When they do not: nothing else could be checked.
pub fn start(cluster: &Cluster, report: &mut Report) {
    let mut items: Vec<Value> = cluster
        .nodes
        .iter()
        .enumerate()
        .map(|(number, node)| pod(node.name(), (number == 1).then_some(HOST_PORT)))
        .collect();
    items.push(service());
    create(cluster.master(), &items);
    let count = cluster.nodes.len();
    let (_, took) = eventually("the pods run", || {
        let lives = lives(cluster.master())?;
        let running = lives.iter().filter(|life| life.addresses.len() == 2);
        if running.count() == count {
            return Ok(());
        }
        let why = cluster.master().kubectl(&["get", "events"]);
        Err(format!("{lives:?}\n{}\n{}", why?, cluster.logs()))
    });
    report.saw(
        "a pod runs on every node, with an address of each family",
        &format!("{:.1} s after it was asked for", took.as_secs_f64()),
    );
}

/// Gives objects to the API, as soon as it takes them: the default service account comes a moment after it.
///
/// # Panics
/// When it does not take them.
pub fn create(master: &Node, items: &[Value]) {
    eventually("the API takes pods", || apply(master, items));
}

/// Gives objects to the API.
pub fn apply(master: &Node, items: &[Value]) -> Result<String, String> {
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
    let file = hand(master, "test.json", &list.to_string())?;
    master.kubectl(&["apply", "-f", &file])
}

/// Puts a file where a node's own programs see it, for root alone; its path there.
pub fn hand(node: &Node, name: &str, content: &str) -> Result<String, String> {
    let path = folder(node).join(name);
    let written = fs::write(&path, content)
        .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o600)));
    written.map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(format!("{DATA}/{name}"))
}

/// The pod of a node.
pub fn pod(node: &str, host_port: Option<u16>) -> Value {
    let mut port = json!({ "containerPort": PORT });
    if let Some(host_port) = host_port {
        port["hostPort"] = host_port.into();
    }
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name(node), "labels": { "app": SERVICE } },
        "spec": {
            "nodeName": node,
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": 5,
            "containers": [{
                "name": "pod", "image": "hepto.test/pod:1", "imagePullPolicy": "Never",
                "args": ["serve", PORT.to_string()], "ports": [port],
            }],
        },
    })
}

fn service() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": SERVICE },
        "spec": {
            "type": "NodePort", "ipFamilyPolicy": "RequireDualStack", "selector": { "app": SERVICE },
            "ports": [{ "port": 80, "targetPort": PORT, "nodePort": NODE_PORT }],
        },
    })
}

/// What a node's pod is called.
pub fn name(node: &str) -> String {
    format!("on-{node}")
}

/// All pods of the test, as the API knows them.
pub fn lives(master: &Node) -> Result<Vec<Life>, String> {
    of(master, SERVICE)
}

/// The pods of an application.
pub fn of(master: &Node, app: &str) -> Result<Vec<Life>, String> {
    let selector = format!("app={app}");
    let pods = crate::cluster::json(master, &["get", "pods", "--selector", &selector])?;
    let items = pods["items"].as_array().ok_or("no list of pods")?;
    Ok(items.iter().map(life).collect())
}

fn life(pod: &Value) -> Life {
    let container = &pod["status"]["containerStatuses"][0];
    let running = container["state"]["running"].is_object();
    let addresses = pod["status"]["podIPs"].as_array().into_iter().flatten();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut addresses: Vec<IpAddr> = addresses
        .filter(|_| running)
        .filter_map(|address| address["ip"].as_str()?.parse().ok())
        .collect();
    addresses.sort();
    Life {
        name: text(&pod["metadata"]["name"]),
        node: text(&pod["spec"]["nodeName"]),
        restarts: container["restartCount"].as_u64().unwrap_or_default(),
        container: text(&container["containerID"]),
        addresses,
    }
}

/// The addresses of a node's pod, IPv4 first.
pub fn addresses(master: &Node, node: &str) -> Result<Vec<IpAddr>, String> {
    let lives = lives(master)?;
    let life = lives.into_iter().find(|life| life.name == name(node));
    Ok(life.ok_or("there is no such pod")?.addresses)
}

/// Runs the pod's own program with these words in a node's pod (`kubectl exec`).
pub fn run(master: &Node, node: &str, words: &[&str]) -> Result<String, String> {
    let pod = name(node);
    let said = master.kubectl(&[&["exec", &pod, "--", "/pod"], words].concat())?;
    Ok(said.trim().to_owned())
}

/// How many pods of the test a node has, by its own processes.
pub fn serving(node: &Node) -> Result<usize, String> {
    let words = "cat /proc/[0-9]*/cmdline | tr '\\0' '\\n' | grep -c '^serve$'";
    let seen = node.exec(&["sh", "-c", words])?;
    seen.trim().parse().map_err(|_| format!("it sees {seen:?}"))
}
