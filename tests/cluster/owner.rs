//! What the host's owner does without the cluster's administrator: drain, uncordon, pause, resume.

use std::fs;
use std::time::{Duration, Instant};

use hepto_tests::{Echo, Node};
use serde_json::{Value, json};

use crate::PATIENCE;
use crate::cluster::{Cluster, ask, json as get, next_k3s, reaches, soon};
use crate::life::{answers, same};
use crate::pods::{self, DATA, Life};
use crate::report::Report;

/// A Deployment, whose pods are spread over the nodes that take any.
const CREW: &str = "crew";

/// Checks all of it.
pub fn check(cluster: &Cluster, report: &mut Report) {
    drained(cluster, report);
    paused(cluster, report);
}

fn drained(cluster: &Cluster, report: &mut Report) {
    let node = &cluster.nodes[1];
    let name = node.name();
    let what = format!(
        "{name} is drained by its host's owner: its pod of a Deployment goes elsewhere, 0 pod restarts"
    );
    report.check(&what, || drain(cluster, node));
    report.check(
        "with its kubelet's own rights, which are none over another node or its pods",
        || rights(cluster, node),
    );
    report.check("uncordoned, it takes pods again", || {
        uncordon(cluster, node)
    });
}

/// As many pods as nodes are one on each: none may have two more than another.
fn crew() -> Value {
    let mut pod = pods::pod("", None);
    let spec = pod["spec"].as_object_mut().expect("an object of ours");
    spec.remove("nodeName");
    spec.insert(
        "topologySpreadConstraints".into(),
        json!([{
            "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule",
            "nodeTaintsPolicy": "Honor", "labelSelector": { "matchLabels": { "app": CREW } },
        }]),
    );
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": CREW },
        "spec": {
            "replicas": 3, "selector": { "matchLabels": { "app": CREW } },
            "template": { "metadata": { "labels": { "app": CREW } }, "spec": spec },
        },
    })
}

/// The Deployment's pods, once there are so many, all running, and so many of them on the node.
fn awaits(master: &Node, all: usize, node: &Node, there: usize) -> Result<Vec<Life>, String> {
    let pods = soon(PATIENCE, || {
        let pods = pods::of(master, CREW)?;
        let on_node = pods.iter().filter(|pod| pod.node == node.name()).count();
        let run = pods.iter().all(|pod| pod.addresses.len() == 2);
        (pods.len() == all && run && on_node == there)
            .then_some(pods.clone())
            .ok_or_else(|| format!("not {all}, {there} of them on {}: {pods:?}", node.name()))
    });
    pods.map(|(pods, _)| pods)
}

fn is_cordoned(master: &Node, name: &str) -> Result<bool, String> {
    let node = get(master, &["get", "node", name])?;
    Ok(node["spec"]["unschedulable"] == true)
}

fn drain(cluster: &Cluster, node: &Node) -> Result<String, String> {
    let master = cluster.master();
    let lives = pods::lives(master)?;
    pods::apply(master, &[crew()])?;
    let before = awaits(master, 3, node, 1)?;
    let start = Instant::now();
    let said = ask(node, &["drain", "--timeout", "2m"])?;
    let took = start.elapsed().as_secs_f64();
    if !said.contains("is drained, 1 pods are gone") {
        return Err(said);
    }
    let after = awaits(master, 3, node, 0)?;
    for other in &cluster.nodes {
        if is_cordoned(master, other.name())? != (other.name() == node.name()) {
            return Err(format!("{} is cordoned, or is not", other.name()));
        }
    }
    let stayed = before.iter().filter(|pod| pod.node != node.name());
    if let Some(lost) = stayed.into_iter().find(|pod| !after.contains(pod)) {
        return Err(format!("{lost:?} was, and is not in {after:?}"));
    }
    same(cluster, &lives)?;
    let new = after.iter().find(|pod| !before.contains(pod));
    let to = new.map_or("nowhere", |pod| pod.node.as_str());
    Ok(format!("to {to}; drained after {took:.1} s"))
}

/// The agent has nobody's credentials but its own, and with those the API refuses what is another's.
fn rights(cluster: &Cluster, node: &Node) -> Result<String, String> {
    let mut found = Vec::new();
    administrators(&node.recipe.storage.join(node.name()), &mut found);
    if !found.is_empty() {
        return Err(format!("an administrator's: {found:?}"));
    }
    let program = next_k3s().display().to_string();
    let kubeconfig = format!("--kubeconfig={DATA}/agent/kubelet.kubeconfig");
    let kubectl = |words: &[&str]| {
        node.exec(&[&[program.as_str(), "kubectl", kubeconfig.as_str()], words].concat())
    };
    // That it is somebody at all is what makes a refusal worth something.
    kubectl(&["get", "node", node.name()])?;
    let patch = r#"--patch={"spec":{"unschedulable":true}}"#;
    for other in cluster
        .nodes
        .iter()
        .filter(|other| other.name() != node.name())
    {
        let pod = pods::name(other.name());
        let eviction = json!({
            "apiVersion": "policy/v1", "kind": "Eviction",
            "metadata": { "name": pod, "namespace": "default" },
        });
        let file = pods::hand(node, "eviction.json", &eviction.to_string())?;
        let path = format!("/api/v1/namespaces/default/pods/{pod}/eviction");
        let forbidden = [
            kubectl(&["patch", "node", other.name(), patch]),
            kubectl(&["create", "--raw", &path, "-f", &file]),
            kubectl(&["delete", "pod", &pod]),
        ];
        for refusal in forbidden {
            match refusal {
                Err(why) if why.to_lowercase().contains("forbidden") => {}
                other => return Err(format!("not refused: {other:?}")),
            }
        }
    }
    Ok("to cordon, evict and delete elsewhere is forbidden".into())
}

/// Files of an administrator below a folder, by k3s's names for them.
fn administrators(folder: &std::path::Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            administrators(&path, found);
        } else if name.starts_with("client-admin")
            || name == "admin.kubeconfig"
            || name == "k3s.yaml"
        {
            found.push(path.display().to_string());
        }
    }
}

fn uncordon(cluster: &Cluster, node: &Node) -> Result<String, String> {
    let master = cluster.master();
    ask(node, &["uncordon"])?;
    if is_cordoned(master, node.name())? {
        return Err(format!("{} is cordoned", node.name()));
    }
    let start = Instant::now();
    master.kubectl(&["scale", "deployment", CREW, "--replicas=6"])?;
    awaits(master, 6, node, 2)?;
    let took = start.elapsed().as_secs_f64();
    master.kubectl(&["delete", "deployment", CREW, "--cascade=foreground"])?;
    Ok(format!("2 of 6 run there after {took:.1} s"))
}

fn paused(cluster: &Cluster, report: &mut Report) {
    let node = &cluster.nodes[2];
    let others = |life: &Life| life.node != node.name();
    let lives: Vec<Life> = match pods::lives(cluster.master()) {
        Ok(lives) => lives.into_iter().filter(others).collect(),
        Err(error) => return report.check("the pods are known", || Err(error)),
    };
    let what = format!(
        "{} is paused by its host's owner: its pod ends, the mesh stays, 0 pod restarts elsewhere",
        node.name()
    );
    report.check(&what, || pause(cluster, node, &lives));
    let what = format!("{} resumes: its pod comes back", node.name());
    report.check(&what, || {
        let start = Instant::now();
        ask(node, &["resume"])?;
        reaches(node, "ready");
        answers(cluster, node)?;
        let took = start.elapsed().as_secs_f64();
        same(cluster, &lives)?;
        Ok(format!("after {took:.1} s"))
    });
}

fn pause(cluster: &Cluster, node: &Node, lives: &[Life]) -> Result<String, String> {
    let addresses = node.overlay_now()?;
    let before = servers();
    let start = Instant::now();
    ask(node, &["pause"])?;
    let took = start.elapsed().as_secs_f64();
    let state = node.status()?["k3s"]["state"].clone();
    if state != "paused" || servers() + 1 != before {
        return Err(format!("{state}, with {} pods of {before}", servers()));
    }
    for address in addresses {
        let request = Echo {
            patience: Duration::from_secs(3),
            ..Echo::new(address)
        };
        cluster.master().echo(request)?;
    }
    let now = pods::lives(cluster.master())?;
    if let Some(lost) = lives.iter().find(|life| !now.contains(life)) {
        return Err(format!("{lost:?} was, and is not in {now:?}"));
    }
    Ok(format!("after {took:.1} s"))
}

/// How many pods of the test run on all nodes, by their processes.
fn servers() -> usize {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let lines = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines
        .filter(|line| line.split(|byte| *byte == 0).nth(1) == Some(b"serve"))
        .count()
}
