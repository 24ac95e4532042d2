//! Nodes with the program in k3s's place, their start and their end.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use hepto_tests::{Home, Inventory, Lab, Node, Recipe, program_at, until};
use serde_json::Value;

use crate::report::Report;
use crate::{PATIENCE, PROGRAM};

/// Names the program in k3s's place.
const K3S: &str = "HEPTO_K3S";
/// Names another build of it, to which nodes are upgraded.
const NEXT: &str = "HEPTO_K3S_NEXT";
/// Names the archive of the test's own images (`hepto.test/pod:1`, and a pause by k3s's name).
const IMAGES: &str = "HEPTO_TEST_IMAGES";
/// Names a folder of more archives, for a real k3s: its release's own images.
const MORE_IMAGES: &str = "HEPTO_K3S_IMAGES";
/// What of the start is ours: until every node has started its k3s.
const OURS: Duration = Duration::from_secs(2);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(300);

/// A street, and nodes in its homes.
pub struct Cluster {
    /// The street.
    pub lab: Lab,
    /// The master, then its agents.
    pub nodes: Vec<Node>,
    /// Homes of nodes, and what each had before any node was started.
    homes: Vec<(Arc<Home>, Inventory)>,
}

impl Cluster {
    /// Nodes of these names in homes 1, 2, …, none of them started; the first is the master.
    pub fn new(names: &[&str]) -> Cluster {
        let mut cluster = Cluster {
            lab: Lab::new(PROGRAM),
            nodes: Vec::new(),
            homes: Vec::new(),
        };
        for (number, name) in (1..).zip(names) {
            let home = cluster.home(number);
            let recipe = Recipe {
                master: names[0].to_owned(),
                ..cluster.lab.recipe(number, name)
            };
            let node = cluster.lab.node(&home, with_k3s(recipe));
            give_images(&node);
            cluster.nodes.push(node);
        }
        cluster
    }

    /// Another home for nodes, in which nothing may be left at the end either; to be built before any node is started.
    pub fn home(&mut self, number: u8) -> Arc<Home> {
        let home = self.lab.home(number);
        let before = Inventory::of(&home);
        self.homes.push((home.clone(), before));
        home
    }

    /// The master.
    pub fn master(&self) -> &Node {
        &self.nodes[0]
    }

    /// Starts all nodes at once and waits until the cluster calls them Ready.
    ///
    /// # Panics
    /// When they do not become so: nothing else could be checked.
    pub fn start(&mut self, report: &mut Report) {
        let start = Instant::now();
        self.nodes.iter_mut().for_each(Node::start);
        for node in &self.nodes {
            node.says("k3s is joining", PATIENCE);
        }
        let ours = start.elapsed();
        let count = self.nodes.len();
        eventually(&format!("{count} nodes are Ready"), || {
            let ready = ready(self.master())?;
            (ready.len() == count)
                .then_some(())
                .ok_or_else(|| format!("Ready are {ready:?}\n{}", self.logs()))
        });
        let all = start.elapsed();
        report.saw(
            &format!("from start to {count} Ready nodes"),
            &format!("{:.1} s", all.as_secs_f64()),
        );
        report.check(
            "of these ours: until the mesh is up and every node has started its k3s, at most 2 s",
            || within_limit(ours, OURS),
        );
    }

    /// Stops all nodes; nothing may be left.
    pub fn stop(&mut self, report: &mut Report) {
        let start = Instant::now();
        // The master last: what its agents still have to say has to be heard.
        for node in self.nodes.iter_mut().rev() {
            report.check(&format!("{} stops", node.name()), || {
                let status = node.stop(PATIENCE);
                status
                    .success()
                    .then(|| "exit code 0".to_owned())
                    .ok_or_else(|| format!("{status}\n{}", node.log()))
            });
        }
        let took = start.elapsed();
        report.check("after the stop nothing is left in any home", || {
            let homes = self.homes.iter();
            let left: Vec<String> = homes
                .flat_map(|(home, before)| Inventory::of(home).more_than(before))
                .collect();
            left.is_empty()
                .then(|| format!("stopped one after another in {:.1} s", took.as_secs_f64()))
                .ok_or_else(|| left.join("\n"))
        });
    }

    /// The ends of all logs of k3s, for a failure.
    pub fn logs(&self) -> String {
        self.nodes.iter().map(end_of_log).collect()
    }
}

/// The end of the log of a node's k3s.
pub fn end_of_log(node: &Node) -> String {
    let log = fs::read_to_string(folder(node).with_file_name("log").join("k3s.log"));
    let log = log.unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    let end = lines[lines.len().saturating_sub(30)..].join("\n");
    format!("---- k3s of {}:\n{end}\n", node.name())
}

/// k3s's data folder, as the host sees it.
pub fn folder(node: &Node) -> PathBuf {
    node.recipe.storage.join(node.name()).join("rancher")
}

/// A node's settings with the program of the environment as its k3s.
///
/// # Panics
/// Where none is named.
pub fn with_k3s(recipe: Recipe) -> Recipe {
    let binary = format!("binary = {:?}", program(K3S, "k3s"));
    recipe.without("k3s").with("k3s", &binary)
}

/// The other k3s of the environment, where nodes see it.
///
/// # Panics
/// Where none is named.
pub fn next_k3s() -> PathBuf {
    program(NEXT, "k3s-next")
}

fn program(variable: &str, name: &str) -> PathBuf {
    let program = std::env::var_os(variable).unwrap_or_else(|| {
        panic!("{variable} names no program: run `make test-cluster`, or `{K3S}=/usr/local/bin/k3s make test-k3s`")
    });
    program_at(Path::new(&program), name)
}

/// Puts the archives of images where k3s looks for them, as one does in a home without Internet.
pub fn give_images(node: &Node) {
    let images = folder(node).join("agent/images");
    fs::create_dir_all(&images).expect("the airgap folder");
    let own = std::env::var_os(IMAGES)
        .unwrap_or_else(|| panic!("{IMAGES} names no archive: run `make test-cluster`"));
    let mut archives = vec![PathBuf::from(own)];
    if let Some(more) = std::env::var_os(MORE_IMAGES) {
        let entries = fs::read_dir(&more).expect("the folder of more images");
        archives.extend(entries.flatten().map(|entry| entry.path()));
    }
    for archive in archives {
        let name = archive.file_name().expect("an archive has a name");
        fs::copy(&archive, images.join(name))
            .unwrap_or_else(|error| panic!("{}: {error}", archive.display()));
    }
}

/// The nodes that the cluster calls Ready.
pub fn ready(master: &Node) -> Result<Vec<String>, String> {
    let nodes = json(master, &["get", "nodes"])?;
    let is_ready = |node: &&Value| {
        let conditions = node["status"]["conditions"].as_array();
        let mut ready = conditions.into_iter().flatten();
        ready.any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    };
    let items = nodes["items"].as_array().into_iter().flatten();
    let names = items
        .filter(is_ready)
        .filter_map(|node| node["metadata"]["name"].as_str());
    Ok(names.map(str::to_owned).collect())
}

/// `kubectl … -o json`.
pub fn json(master: &Node, arguments: &[&str]) -> Result<Value, String> {
    let text = master.kubectl(&[arguments, &["-o", "json"]].concat())?;
    serde_json::from_str(&text).map_err(|error| format!("{error} in {text}"))
}

/// Asks until the answer is `Ok`; gives it, and the time that it took.
///
/// # Panics
/// When patience is over, with the last refusal.
pub fn eventually<T>(what: &str, ask: impl FnMut() -> Result<T, String>) -> (T, Duration) {
    soon(PATIENCE, ask).unwrap_or_else(|refusal| panic!("{what}: {refusal}"))
}

/// The same for a check, which fails and does not panic.
pub fn soon<T>(
    patience: Duration,
    mut ask: impl FnMut() -> Result<T, String>,
) -> Result<(T, Duration), String> {
    let start = Instant::now();
    loop {
        match ask() {
            Ok(answer) => return Ok((answer, start.elapsed())),
            Err(error) if start.elapsed() > patience => {
                return Err(format!("not within {} s: {error}", patience.as_secs()));
            }
            // Each look starts programs: not more of them than a person would.
            Err(_) => thread::sleep(PAUSE),
        }
    }
}

/// k3s's process, by the node's own word.
pub fn k3s(node: &Node) -> Result<i32, String> {
    let status = node.status()?;
    let pid = status["k3s"]["pid"].as_i64().ok_or("k3s does not run")?;
    i32::try_from(pid).map_err(|error| error.to_string())
}

/// The parent of a process.
pub fn parent(pid: i32) -> Result<i32, String> {
    let status =
        fs::read_to_string(format!("/proc/{pid}/status")).map_err(|error| error.to_string())?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    line.and_then(|parent| parent.trim().parse().ok())
        .ok_or_else(|| format!("process {pid} has no parent"))
}

/// Writes `key = value` below a section of a node's config file, in the place of the key's line if it has one.
pub fn set(node: &Node, section: &str, key: &str, value: &str) -> Result<(), String> {
    let text = fs::read_to_string(&node.config).map_err(|error| error.to_string())?;
    let header = format!("[{section}]\n");
    let (before, rest) = text
        .split_once(&header)
        .ok_or_else(|| format!("there is no [{section}] in {text}"))?;
    let (own, after) = rest.split_at(rest.find("\n[").map_or(rest.len(), |end| end + 1));
    let others = own
        .lines()
        .filter(|line| !line.starts_with(&format!("{key} = ")));
    let others: String = others.map(|line| format!("{line}\n")).collect();
    let text = format!("{before}{header}{key} = {value}\n{others}{after}");
    fs::write(&node.config, text).map_err(|error| error.to_string())
}

/// A command of `hepto-node`; what it said, which is an error when it failed.
pub fn ask(node: &Node, words: &[&str]) -> Result<String, String> {
    let output = node.ask(words);
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() {
        return Ok(said);
    }
    Err(said)
}

/// `reload --wait`; its last word.
pub fn reload(node: &Node) -> Result<String, String> {
    let said = ask(node, &["reload", "--wait"])?;
    Ok(said.lines().last().unwrap_or_default().to_owned())
}

/// Waits until k3s is in a state by the node's own word.
pub fn reaches(node: &Node, state: &str) {
    let is = || {
        node.status()
            .is_ok_and(|status| status["k3s"]["state"] == state)
    };
    until(PATIENCE, &format!("k3s of {} is {state}", node.name()), is);
}

/// A figure and its limit.
pub fn within_limit(took: Duration, limit: Duration) -> Result<String, String> {
    let seconds = format!("{:.2} s", took.as_secs_f64());
    if took <= limit {
        return Ok(seconds);
    }
    Err(format!("{seconds}, at most {} s", limit.as_secs_f64()))
}
