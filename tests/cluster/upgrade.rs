//! Another k3s in the place of the one that runs, by a reload; and the way back from one that is never ready.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use hepto_tests::{Node, replace_file};
use serde_json::json;

use crate::PATIENCE;
use crate::cluster::{
    Cluster, end_of_log, folder, json, k3s, next_k3s, parent, reaches, reload, set, soon,
};
use crate::life::same;
use crate::pods::{self, Life};
use crate::report::Report;

/// How long a k3s is tried that is never ready: long enough for its API server to serve meanwhile.
const TRIAL: &str = "60s";
/// How long what a node was told may take.
const SOON: Duration = Duration::from_secs(90);
/// So many objects are made during the trial, and lost with it.
const LOST: usize = 300;

/// Checks all of it; afterwards every node runs the other k3s.
pub fn check(cluster: &Cluster, report: &mut Report) {
    let lives = match pods::lives(cluster.master()) {
        Ok(lives) => lives,
        Err(error) => return report.check("the pods are known", || Err(error)),
    };
    let next = next_k3s();
    // The server first, as Kubernetes wants it.
    for node in &cluster.nodes {
        let what = format!(
            "{} is given another k3s by a reload: k3s alone is started anew, 0 pod restarts",
            node.name()
        );
        report.check(&what, || takes(cluster, node, &next, &lives));
    }
    let master = cluster.master();
    let what = format!(
        "a k3s for {} that serves and is never ready: the earlier one is back, 0 pod restarts",
        master.name()
    );
    report.check(&what, || never_ready(cluster, &next, &lives));
    report.check(
        "with the datastore from before: what was there is there, what came meanwhile is gone",
        || as_before(master),
    );
    report.check(
        "on every node: a pod that came meanwhile ends, and new pods start",
        || as_before_on_agents(cluster),
    );
    let node = &cluster.nodes[2];
    let what = format!(
        "a k3s for {} that ends at once: the earlier one is back, 0 pod restarts",
        node.name()
    );
    report.check(&what, || ends_at_once(cluster, node, &next, &lives));
}

/// The versions that the cluster sees, by node.
fn versions(master: &Node) -> Result<BTreeMap<String, String>, String> {
    let nodes = json(master, &["get", "nodes"])?;
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let items = nodes["items"].as_array().into_iter().flatten();
    let version = |node: &serde_json::Value| {
        (
            text(&node["metadata"]["name"]),
            text(&node["status"]["nodeInfo"]["kubeletVersion"]),
        )
    };
    Ok(items.map(version).collect())
}

/// What a program says of itself: `k3s version v1.33.4+k3s1 (…)`.
fn version(program: &Path) -> Result<String, String> {
    let output = Command::new(program).arg("--version").output();
    let output = output.map_err(|error| format!("{}: {error}", program.display()))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let word = said.split_whitespace().nth(2).map(str::to_owned);
    word.ok_or_else(|| format!("{} says {said:?} of itself", program.display()))
}

fn takes(cluster: &Cluster, node: &Node, next: &Path, lives: &[Life]) -> Result<String, String> {
    let (wanted, before) = (version(next)?, versions(cluster.master())?);
    let (was, supervisor) = (k3s(node)?, node.pid());
    let init = parent(was)?;
    set(node, "k3s", "binary", &format!("{next:?}"))?;
    let start = Instant::now();
    reload(node)?;
    let took = start.elapsed().as_secs_f64();
    let is = k3s(node)?;
    if is == was {
        return Err(format!("k3s is {was} as before"));
    }
    if (init, supervisor) != (parent(is)?, node.pid()) {
        return Err("more than k3s was started anew".into());
    }
    let mut expected = before.clone();
    expected.insert(node.name().to_owned(), wanted.clone());
    soon(PATIENCE, || {
        let now = versions(cluster.master())?;
        (now == expected)
            .then_some(())
            .ok_or_else(|| format!("the versions are {now:?}, not {expected:?}"))
    })?;
    same(cluster, lives)?;
    let was = &before[node.name()];
    Ok(format!("{was}, then {wanted}, ready after {took:.1} s"))
}

/// A program that starts a k3s, and behaves by these words of a shell.
fn script(next: &Path, name: &str, words: &str) -> PathBuf {
    let path = next.with_file_name(name);
    replace_file(&path, format!("#!/bin/sh\n{words}\n").as_bytes());
    path
}

/// The k3s of `program` is kept as the way back.
fn is_kept(node: &Node, program: &Path) -> Result<(), String> {
    let output = Command::new("sha256sum").arg(program).output();
    let output = output.map_err(|error| format!("sha256sum: {error}"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let digest = said.split_whitespace().next().unwrap_or("no digest");
    soon(PATIENCE, || {
        let history = fs::read_to_string(folder(node).with_file_name("k3s.toml"));
        let history = history.map_err(|error| error.to_string())?;
        let good = history.split("[good]").nth(1).unwrap_or_default();
        (good.contains(digest) && good.contains("/.hepto/k3s/"))
            .then_some(())
            .ok_or_else(|| format!("{digest} is not kept in {history}"))
    })?;
    Ok(())
}

/// The server gets one that does all that k3s does, writes the datastore too, and never says that it is ready.
fn never_ready(cluster: &Cluster, next: &Path, lives: &[Life]) -> Result<String, String> {
    let node = cluster.master();
    is_kept(node, next)?;
    pods::apply(node, &[mark("before".into())])?;
    let before = k3s(node)?;
    let words = format!("unset NOTIFY_SOCKET\nexec {} \"$@\"", next.display());
    let mute = script(next, "k3s-mute", &words);
    set(node, "k3s", "upgrade_timeout", &format!("{TRIAL:?}"))?;
    set(node, "k3s", "binary", &format!("{mute:?}"))?;
    let start = Instant::now();
    let (written, said) = thread::scope(|scope| {
        let reloaded = scope.spawn(|| reload(node));
        let written = meanwhile(cluster, before);
        (written, reloaded.join())
    });
    let said = refused(
        said.map_err(|_| "the reload panicked")?,
        "not ready within 60 s",
    )?;
    written?;
    reaches(node, "ready");
    let took = start.elapsed().as_secs_f64();
    same(cluster, lives)?;
    let (is, wanted) = (versions(node)?, version(next)?);
    if is[node.name()] != wanted {
        return Err(format!("{wanted} was to come back: {is:?}"));
    }
    Ok(format!("{said}; ready after {took:.0} s in all"))
}

/// What a reload that failed says of it.
fn refused(said: Result<String, String>, why: &str) -> Result<String, String> {
    match said {
        Err(said) if said.contains("[E-K3S-UPGRADE]") && said.contains(why) => {
            Ok(format!("`E-K3S-UPGRADE`, {why}"))
        }
        other => Err(format!("the reload said {other:?}")),
    }
}

fn mark(name: String) -> serde_json::Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name } })
}

/// Writes to the API of the k3s that is tried: objects, and then a pod for another node, which has to run there.
fn meanwhile(cluster: &Cluster, before: i32) -> Result<(), String> {
    let node = cluster.master();
    soon(PATIENCE, || match k3s(node)? {
        pid if pid == before => Err("the old k3s is still there".to_owned()),
        _ => Ok(()),
    })?;
    let lost: Vec<_> = (0..LOST)
        .map(|number| mark(format!("lost-{number}")))
        .collect();
    soon(PATIENCE, || pods::apply(node, &lost))?;
    let venus = cluster.nodes[1].name();
    let mut pod = pods::pod(venus, None);
    pod["metadata"]["name"] = "lost".into();
    pod["metadata"]["labels"]["app"] = "lost".into();
    pods::apply(node, &[pod])?;
    runs(node, "lost")
}

/// The one pod of this application runs.
fn runs(master: &Node, app: &str) -> Result<(), String> {
    soon(SOON, || {
        let pods = pods::of(master, app)?;
        (pods.len() == 1 && pods[0].addresses.len() == 2)
            .then_some(())
            .ok_or_else(|| format!("{pods:?}\n{}", end_of_log(master)))
    })?;
    Ok(())
}

fn as_before(master: &Node) -> Result<String, String> {
    master.kubectl(&["get", "configmap", "before"])?;
    let there = json(master, &["get", "configmaps"])?;
    let there = there["items"].as_array().map_or(0, |items| {
        let name = |item: &serde_json::Value| item["metadata"]["name"].as_str().map(str::to_owned);
        let names = items.iter().filter_map(name);
        names.filter(|name| name.starts_with("lost-")).count()
    });
    if there > 0 || !pods::of(master, "lost")?.is_empty() {
        return Err(format!("{there} objects of the trial are there"));
    }
    Ok(format!("{LOST} objects and a pod of the trial"))
}

/// Agents had heard of later things than the API knows now.
fn as_before_on_agents(cluster: &Cluster) -> Result<String, String> {
    let (master, node) = (cluster.master(), &cluster.nodes[1]);
    let start = Instant::now();
    soon(SOON, || match pods::serving(node)? {
        1 => Ok(()),
        pods => Err(format!("{pods} pods run on {}", node.name())),
    })?;
    let ended = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let new = cluster.nodes.iter().map(|node| {
        let mut pod = pods::pod(node.name(), None);
        let name = format!("new-{}", node.name());
        pod["metadata"]["name"] = name.clone().into();
        pod["metadata"]["labels"]["app"] = name.into();
        pod
    });
    let new: Vec<_> = new.collect();
    pods::apply(master, &new)?;
    for pod in &new {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        runs(master, name)?;
    }
    let started = start.elapsed().as_secs_f64();
    for pod in &new {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        master.kubectl(&["delete", "pod", name])?;
    }
    Ok(format!(
        "ended within {ended:.1} s, started within {started:.1} s"
    ))
}

fn ends_at_once(
    cluster: &Cluster,
    node: &Node,
    next: &Path,
    lives: &[Life],
) -> Result<String, String> {
    is_kept(node, next)?;
    let broken = script(next, "k3s-broken", "exit 3");
    set(node, "k3s", "binary", &format!("{broken:?}"))?;
    let start = Instant::now();
    let said = refused(reload(node), "ended 5 times")?;
    reaches(node, "ready");
    let took = start.elapsed().as_secs_f64();
    same(cluster, lives)?;
    // What failed is no word of the day any more once the config names what runs.
    for node in [node, cluster.master()] {
        set(node, "k3s", "binary", &format!("{next:?}"))?;
        reload(node)?;
        let problems = node.status()?["problems"].to_string();
        if problems.contains("E-K3S-UPGRADE") {
            return Err(format!("{} still says {problems}", node.name()));
        }
    }
    same(cluster, lives)?;
    Ok(format!("{said}; ready after {took:.0} s in all"))
}
