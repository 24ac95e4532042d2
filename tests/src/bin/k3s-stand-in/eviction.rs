//! Pods as the API knows them, for those that drain a node: a file of lines `NODE NAME OWNER`, with `blocked` after it for
//! one whose disruption budget forbids that it goes. It is `stand-in.pods` in the server's data folder; `-` is no owner.

use std::path::PathBuf;
use std::sync::Mutex;

use serde_json::{Value, json};

/// All pods have the same namespace.
const NAMESPACE: &str = "default";

/// The pods.
#[derive(Debug)]
pub struct Pods(Mutex<PathBuf>);

/// What became of an eviction.
#[derive(Debug, PartialEq, Eq)]
pub enum Evicted {
    Gone,
    Blocked,
    Foreign,
    Absent,
}

impl Pods {
    pub fn new(file: PathBuf) -> Pods {
        Pods(Mutex::new(file))
    }

    /// A `PodList` of a node.
    pub fn list(&self, node: &str) -> Value {
        let file = self
            .0
            .lock()
            .expect("no thread panics while it holds the pods");
        let text = std::fs::read_to_string(&*file).unwrap_or_default();
        let items: Vec<Value> = text
            .lines()
            .filter_map(|line| {
                let mut words = line.split_whitespace();
                let (on, name, owner) = (words.next()?, words.next()?, words.next()?);
                (on == node).then(|| pod(name, owner))
            })
            .collect();
        json!({ "kind": "PodList", "apiVersion": "v1", "items": items })
    }

    /// Takes a pod away, as its node asks, or an administrator (`None`).
    pub fn evict(&self, path: &str, node: Option<&str>) -> Evicted {
        let prefix = format!("/api/v1/namespaces/{NAMESPACE}/pods/");
        let name = path
            .strip_prefix(&prefix)
            .and_then(|rest| rest.strip_suffix("/eviction"));
        let file = self
            .0
            .lock()
            .expect("no thread panics while it holds the pods");
        let text = std::fs::read_to_string(&*file).unwrap_or_default();
        let named = |line: &&str| line.split_whitespace().nth(1) == name;
        let Some(line) = text.lines().find(named) else {
            return Evicted::Absent;
        };
        if node.is_some_and(|node| line.split_whitespace().next() != Some(node)) {
            return Evicted::Foreign;
        }
        if line.ends_with(" blocked") {
            return Evicted::Blocked;
        }
        let rest: String = text
            .lines()
            .filter(|other| *other != line)
            .flat_map(|other| [other, "\n"])
            .collect();
        match std::fs::write(&*file, rest) {
            Ok(()) => Evicted::Gone,
            Err(_) => Evicted::Absent,
        }
    }
}

fn pod(name: &str, owner: &str) -> Value {
    let owners: Vec<Value> = (owner != "-")
        .then(|| json!({ "kind": owner, "name": "owner", "uid": "1", "controller": true }))
        .into_iter()
        .collect();
    json!({
        "metadata": { "name": name, "namespace": NAMESPACE, "ownerReferences": owners },
        "spec": {},
        "status": { "phase": "Running" },
    })
}
