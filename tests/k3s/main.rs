//! What a node promises of the k3s in it, one test a promise, with the stand-in in k3s's place.
//!
//! The stand-in ends at once, with every broken line in its log, when it is not started exactly as the real k3s has to
//! be; so each test that sees a node ready has also seen its whole contract kept. Every test runs in a process of its
//! own and needs root; where that is missing it fails, with one sentence.

mod adoption;
mod cluster;
mod contract;
mod crash;
mod download;
mod drain;
mod health;
mod limits;
mod pause;
mod reload;
mod secret;
mod snapshot;
mod stop;
mod upgrade;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use hepto_tests::{Lab, Node, Recipe, stand_in, until, within};
use serde_json::Value;

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_hepto-node");

/// Patience for what has no promised time.
const SOON: Duration = Duration::from_secs(30);

/// A node's settings with the stand-in for k3s.
fn with_k3s(recipe: Recipe) -> Recipe {
    let binary = format!("binary = {:?}", stand_in(PROGRAM));
    recipe.without("k3s").with("k3s", &binary)
}

/// A street with a server alone in home 1, not started.
fn server() -> (Lab, Node) {
    let lab = Lab::new(PROGRAM);
    let recipe = with_k3s(lab.recipe(1, "mars"));
    let home = lab.home(1);
    let node = lab.node(&home, recipe);
    (lab, node)
}

/// A folder of the node, as the host sees it.
fn folder(node: &Node, name: &str) -> PathBuf {
    node.recipe.storage.join(node.name()).join(name)
}

/// A file of the stand-in, in k3s's data folder.
fn file(node: &Node, name: &str) -> PathBuf {
    folder(node, "rancher").join(format!("stand-in.{name}"))
}

/// Tells the stand-in how to misbehave, one word a line; nothing ends it.
fn control(node: &Node, words: &str) {
    let path = file(node, "control");
    fs::create_dir_all(path.parent().expect("a file in a folder")).expect("k3s's data folder");
    fs::write(path, words).expect("the control file");
}

/// How often the stand-in was started in this storage.
fn starts(node: &Node) -> u64 {
    let text = fs::read_to_string(file(node, "starts")).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// k3s's log.
fn k3s_log(node: &Node) -> String {
    fs::read_to_string(folder(node, "log").join("k3s.log")).unwrap_or_default()
}

/// What `status --json` says of k3s.
fn k3s(node: &Node) -> Result<Value, String> {
    Ok(node.status()?["k3s"].clone())
}

/// Waits until k3s is in a state; gives what `status` then says of it.
fn reaches(node: &Node, state: &str) -> Value {
    let what = format!("k3s of {} is {state}", node.name());
    let ask = || {
        let k3s = k3s(node)?;
        if k3s["state"] == state {
            return Ok(k3s);
        }
        Err(format!("{k3s}; its log:\n{}", k3s_log(node)))
    };
    within::<_, String>(SOON, &what, ask).0
}

/// The first line of one of the stand-in's files: the pid that wrote it, as the node numbers it.
fn pid_in(node: &Node, name: &str) -> u32 {
    let path = file(node, name);
    let read = || {
        let text = fs::read_to_string(&path).map_err(|error| error.to_string())?;
        let line = text.lines().next().ok_or("empty")?;
        line.parse::<u32>().map_err(|error| error.to_string())
    };
    within::<_, String>(SOON, &format!("{} holds a pid", path.display()), read).0
}

/// Whether the pod or shim got SIGTERM.
fn was_told(node: &Node, name: &str) -> bool {
    fs::read_to_string(file(node, name))
        .unwrap_or_default()
        .lines()
        .any(|line| line == "terminated")
}

/// The processes of k3s, of its shims and pods, in whatever namespace: ids as this test numbers them.
fn stand_ins() -> Vec<i32> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let is_ours = |entry: &fs::DirEntry| {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        // What only starts a pod is as good as gone.
        let lasting: [&[u8]; 4] = [b"server", b"agent", b"stand-in-shim", b"stand-in-pod"];
        let ours = words[0].ends_with(b"k3s-stand-in") || words[0].starts_with(b"containerd-shim");
        ours && words.get(1).is_some_and(|word| lasting.contains(word))
    };
    entries
        .filter(|entry| is_ours(entry))
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// Waits until nothing of the stand-in runs.
fn all_gone(patience: Duration) {
    until(patience, "nothing of k3s runs", || stand_ins().is_empty());
}

/// Stops a node at a test's end, so that no cgroup outlives it.
fn end(mut node: Node) {
    assert!(node.stop(SOON).success(), "{}", node.log());
}
