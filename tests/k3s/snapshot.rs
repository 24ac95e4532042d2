//! The master's home is lost, and the master comes back elsewhere; or moves house in order.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use hepto_tests::{Lab, Node, Recipe, isolated, isolated_for, until};

use crate::{PROGRAM, SOON, end, folder, k3s_log, reaches, server, starts, with_k3s};

/// The operator's key on his own machine: its file, and the line for the master's config.
fn operator(lab: &Lab, name: &str) -> (PathBuf, String) {
    let path = lab.directory.join(name);
    let made = Command::new(PROGRAM)
        .args(["keys", "generate", "operator", "--out"])
        .arg(&path)
        .output();
    let made = made.expect("hepto-node starts");
    assert!(made.status.success(), "{made:?}");
    (
        path,
        String::from_utf8(made.stdout)
            .expect("text")
            .trim()
            .to_owned(),
    )
}

/// `hepto-node` in the node's home, with its config.
fn call(node: &Node, arguments: &[&str]) -> Output {
    let mut command = node.command(arguments);
    command
        .arg("--config")
        .arg(&node.config)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = node.home().space().spawn(&mut command);
    let child = child.expect("hepto-node starts");
    child.wait_with_output().expect("the process is ours")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Restores; its error, if it has one.
fn restore(node: &Node, from: &Path, key: &Path, more: &[&str]) -> Result<(), String> {
    let (from, key) = (from.display().to_string(), key.display().to_string());
    let arguments = [&["restore", "--from", &from, "--identity", &key], more].concat();
    let output = call(node, &arguments);
    if output.status.success() {
        Ok(())
    } else {
        Err(said(&output))
    }
}

/// The master as it is to come up on the machine of `host`, in an empty storage of its own: the config file, which lies
/// beside it.
struct Successor<'a> {
    host: &'a Node,
    storage: PathBuf,
    config: PathBuf,
    key: &'a Path,
}

impl<'a> Successor<'a> {
    fn of(master: &Node, host: &'a Node, lab: &Lab, key: &'a Path) -> Self {
        let (storage, config) = (lab.directory.join("next"), lab.directory.join("next.toml"));
        fs::create_dir(&storage).expect("a storage");
        let text = fs::read_to_string(&master.config).expect("the master's config");
        let quoted = |path: &Path| format!("{path:?}");
        let text = text.replace(&quoted(&master.recipe.storage), &quoted(&storage));
        fs::write(&config, text).expect("a config");
        let next = Successor {
            host,
            storage,
            config,
            key,
        };
        next.alter(
            &lab.directory.join("overlay.key").display().to_string(),
            &next.keys()[0],
        );
        next.alter(
            &lab.directory.join("cluster.key").display().to_string(),
            &next.keys()[1],
        );
        next
    }

    /// Its key files, which are not there yet.
    fn keys(&self) -> [String; 2] {
        ["overlay.key", "cluster.key"].map(|name| {
            self.storage
                .with_file_name(format!("next-{name}"))
                .display()
                .to_string()
        })
    }

    fn alter(&self, from: &str, to: &str) {
        let text = fs::read_to_string(&self.config).expect("the config");
        assert!(text.contains(from), "{from} in {text}");
        fs::write(&self.config, text.replace(from, to)).expect("the config");
    }

    /// What lies in its storage, and which key files there are.
    fn left(&self) -> (usize, usize) {
        let keys = self.keys();
        let there = keys.iter().filter(|path| Path::new(path).exists());
        (
            fs::read_dir(&self.storage).expect("the storage").count(),
            there.count(),
        )
    }

    /// Restores, from `--from` or `--from-agent`; what was said when it was refused.
    fn restore(&self, from: &[&str], more: &[&str]) -> Result<(), String> {
        let (config, key) = (
            self.config.display().to_string(),
            self.key.display().to_string(),
        );
        let words = [
            &["restore", "--config", &config, "--identity", &key],
            from,
            more,
        ]
        .concat();
        let mut command = self.host.command(&words);
        command.stderr(Stdio::piped());
        let child = self
            .host
            .home()
            .space()
            .spawn(&mut command)
            .expect("hepto-node starts");
        let output = child.wait_with_output().expect("the process is ours");
        if output.status.success() {
            Ok(())
        } else {
            Err(said(&output))
        }
    }

    fn refuses(&self, from: &[&str], more: &[&str], words: &[&str]) {
        let before = self.left();
        let said = self.restore(from, more).expect_err("refused");
        assert!(
            words.iter().all(|word| said.contains(word)),
            "{words:?}: {said}"
        );
        assert_eq!(self.left(), before, "{words:?} leaves nothing half done");
    }
}

/// The rows that the datastore had when the stand-in last opened it; it checks that they are of one moment.
fn rows(node: &Node) -> u64 {
    let log = k3s_log(node);
    let line = log.lines().rfind(|line| line.starts_with("datastore: "));
    let rows = line.and_then(|line| line.split(' ').nth(1)?.parse().ok());
    rows.unwrap_or_else(|| panic!("no datastore was opened:\n{log}"))
}

/// What is committed in the datastore at this moment, while k3s writes.
fn committed(node: &Node) -> u64 {
    let path = folder(node, "rancher").join("server/db/state.db");
    let store = rusqlite::Connection::open(path).expect("the datastore");
    store
        .busy_timeout(SOON)
        .expect("the datastore takes a time limit");
    let rows = store.query_row("SELECT count(*) FROM event", [], |row| row.get::<_, i64>(0));
    let rows = rows.expect("it has its table");
    rows.try_into().expect("a count")
}

fn ready(server: &Node) -> Vec<String> {
    let output = server.ask(&["kubectl", "get", "nodes"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let ready = text.lines().filter(|line| line.contains(" Ready "));
    ready
        .filter_map(|line| line.split(' ').next())
        .map(str::to_owned)
        .collect()
}

fn identity(node: &Node) -> Vec<u8> {
    fs::read(folder(node, "identity").join("node.key")).expect("an identity")
}

/// A master with these lines below `[snapshot]` and two agents, ready.
fn cluster(lab: &Lab, lines: &[&str]) -> Vec<Node> {
    let node = |(number, name): (u8, &&str)| {
        let recipe = Recipe {
            master: "mars".to_owned(),
            ..lab.recipe(number, name)
        };
        let recipe = lines.iter().fold(with_k3s(recipe), |recipe, line| {
            recipe.with("snapshot", line)
        });
        lab.node(&lab.home(number), recipe)
    };
    let mut nodes: Vec<Node> = (1..).zip(&["mars", "venus", "pluto"]).map(node).collect();
    nodes.iter_mut().for_each(Node::start);
    for node in &nodes {
        reaches(node, "ready");
    }
    nodes
}

#[test]
fn a_master_that_is_lost_comes_back_in_another_home_from_an_agents_copy() {
    isolated_for(6 * SOON, || {
        let lab = Lab::new(PROGRAM);
        let (key, recipient) = operator(&lab, "operator.key");
        let mut nodes = cluster(&lab, &[&recipient, "every = \"never\""]);
        let mars = nodes.remove(0);

        // While k3s writes a hundred times a second.
        let before = committed(&mars);
        let made = call(&mars, &["snapshot", "now"]);
        assert!(made.status.success(), "{}", said(&made));
        let path = String::from_utf8(made.stdout).expect("text");
        let path = Path::new(path.trim());
        let on = || mars.status().unwrap_or_default()["snapshot"]["on"].clone();
        until(SOON, "both agents keep it", || {
            on() == serde_json::json!(["pluto", "venus"])
        });
        let name = path.file_name().expect("a file");
        let copies = [0, 1].map(|agent: usize| folder(&nodes[agent], "snapshots").join(name));
        let bytes = fs::read(path).expect("the snapshot");
        assert!(
            copies
                .iter()
                .all(|copy| fs::read(copy).expect("a copy") == bytes)
        );
        for secret in ["PRIVATE KEY", "ClusterKeyClusterKey"] {
            let found = bytes
                .windows(secret.len())
                .any(|part| part == secret.as_bytes());
            assert!(!found, "no agent reads {secret}");
        }

        comes_up_beside_an_agent(&lab, &mars, &nodes[0], &key, path);
        let (overlay, known) = (mars.overlay(), identity(&mars));
        let pids: Vec<_> = nodes
            .iter()
            .map(|node| reaches(node, "ready")["pid"].clone())
            .collect();
        let storage = mars.recipe.storage.clone();
        end(mars);
        fs::remove_dir_all(&storage).expect("the disk is lost");

        let recipe = Recipe {
            uplink: lab.recipe(4, "mars").uplink,
            ..with_k3s(lab.recipe(4, "mars"))
        };
        let mut mars = lab.node(&lab.home(4), recipe.with("snapshot", &recipient));
        let _ = fs::remove_file(mars.config.with_extension("toml.identity"));
        let (other, _) = operator(&lab, "other.key");
        let short = lab.directory.join("short.age");
        fs::write(&short, &bytes[..bytes.len() / 2]).expect("half a snapshot");
        for (from, key, code) in [
            (&copies[0], &other, "E-RESTORE-KEY"),
            (&short, &key, "E-RESTORE-DAMAGED"),
            (&mars.config, &key, "E-RESTORE-FORM"),
        ] {
            let refusal = restore(&mars, from, key, &[]).expect_err("refused");
            assert!(refusal.contains(code), "{code}: {refusal}");
            let left: Vec<_> = fs::read_dir(&mars.recipe.storage)
                .expect("the storage")
                .collect();
            assert!(
                left.is_empty(),
                "{code} leaves nothing half written: {left:?}"
            );
        }
        restore(&mars, &copies[0], &key, &[]).expect("restored");
        let moment = fs::read_to_string(folder(&mars, "mesh").join("restored"));
        let moment: u64 = moment.expect("a note").trim().parse().expect("seconds");
        assert!(
            moment > 1_700_000_000,
            "so that the old machine gives way: {moment}"
        );
        let again = restore(&mars, &copies[0], &key, &[]).expect_err("refused");
        assert!(again.contains("E-RESTORE-OCCUPIED"), "{again}");

        mars.start();
        reaches(&mars, "ready");
        let restored = rows(&mars);
        assert!(
            restored >= before && before > 0,
            "{restored} rows after {before} were committed"
        );
        assert_eq!((mars.overlay(), identity(&mars)), (overlay, known));
        until(SOON, "the agents follow the name", || {
            ready(&mars) == ["mars", "pluto", "venus"]
        });
        for (node, pid) in nodes.iter().zip(pids) {
            let k3s = reaches(node, "ready");
            assert_eq!(
                (&k3s["pid"], starts(node)),
                (&pid, 1),
                "its k3s never noticed"
            );
            for refusal in ["E-MESH-IDENTITY", "E-MESH-TUNNEL-KEY", "E-MESH-NAME-TAKEN"] {
                assert!(!node.log().contains(refusal), "{}", node.log());
            }
            assert!(!k3s_log(node).contains("Node password rejected"));
        }
        end(mars);
        nodes.into_iter().for_each(end);
    });
}

/// A master that still runs is not brought up a second time by mistake, nor another node in its place; else the copy of an
/// agent on the same machine will do, also where the key files are lost.
fn comes_up_beside_an_agent(lab: &Lab, master: &Node, agent: &Node, key: &Path, made: &Path) {
    let next = Successor::of(master, agent, lab, key);
    let made = made.display().to_string();
    let (from, beside) = (["--from", &made], ["--from-agent", agent.name()]);
    next.refuses(&from, &[], &["E-KEY"]);
    let cluster = format!("name = {:?}", master.recipe.cluster);
    next.alter(&cluster, "name = \"elsewhere\"");
    // The keys that came out of it are gone again.
    next.refuses(&from, &["--unproved"], &["E-RESTORE-OTHER", "elsewhere"]);
    next.alter("name = \"elsewhere\"", &cluster);
    next.refuses(&from, &["--unproved"], &["E-RESTORE-ALIVE", agent.name()]);
    next.restore(&from, &["--unproved", "--old-is-gone"])
        .expect("restored");
    let text = |path: &str| fs::read_to_string(path).expect("a key").trim().to_owned();
    let keys = ["overlay.key", "cluster.key"]
        .map(|name| text(&lab.directory.join(name).display().to_string()));
    assert_eq!(next.keys().map(|path| text(&path)), keys);
    let came = || fs::read(next.storage.join("mars/identity/node.key")).expect("an identity");
    assert_eq!(came(), identity(master));
    fs::remove_dir_all(next.storage.join("mars")).expect("a folder");
    next.refuses(&beside, &[], &["E-RESTORE-ALIVE", agent.name()]);
    next.refuses(
        &["--from-agent", "pluto"],
        &["--old-is-gone"],
        &["E-RESTORE-AGENT", "pluto"],
    );
    next.restore(&beside, &["--old-is-gone"]).expect("restored");
    assert_eq!(came(), identity(master));
}

/// Stop, snapshot, restore, start; here into the same home, over what is there.
#[test]
fn a_master_moves_in_order_and_what_was_there_is_moved_aside() {
    isolated_for(3 * SOON, || {
        let (lab, node) = server();
        let (key, recipient) = operator(&lab, "operator.key");
        let recipe = node
            .recipe
            .clone()
            .with("snapshot", &recipient)
            .with("snapshot", "agents = 0");
        let home = node.home().clone();
        drop(node);
        let mut node = lab.node(&home, recipe);
        node.start();
        reaches(&node, "ready");
        until(SOON, "the schedule makes the first one", || {
            node.status().unwrap_or_default()["snapshot"]["kept"] == 1
        });
        assert!(node.stop(SOON).success(), "{}", node.log());
        let out = lab.directory.join("move.age");
        let shown = out.display().to_string();
        let made = call(&node, &["snapshot", "now", "--out", &shown]);
        assert!(made.status.success(), "{}", said(&made));
        let listed = call(&node, &["snapshot", "list", "--json"]);
        let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).expect("JSON");
        assert_eq!(hepto_tests::fits("snapshot-list", &listed), Ok(()));
        assert_eq!(listed.as_array().map(Vec::len), Some(2), "{listed}");
        restore(&node, &out, &key, &["--force"]).expect("restored");
        let aside = fs::read_dir(&node.recipe.storage)
            .expect("the storage")
            .flatten();
        let aside = aside.filter(|entry| {
            entry
                .file_name()
                .to_string_lossy()
                .starts_with("mars.before-")
        });
        assert_eq!(aside.count(), 1);
        node.start();
        reaches(&node, "ready");
        // In its new place the stand-in has never been started.
        assert_eq!(starts(&node), 1);
        assert!(rows(&node) > 0);
        let twice = restore(&node, &out, &key, &["--force"]).expect_err("it runs");
        assert!(twice.contains("E-RUN-TWICE"), "{twice}");
        end(node);
    });
}

#[test]
fn without_an_operators_key_none_is_made_and_status_says_what_to_do() {
    isolated(|| {
        let (_lab, mut node) = server();
        node.start();
        reaches(&node, "ready");
        let status = node.status().expect("it runs");
        let problems = status["problems"].as_array().expect("a list");
        let told = |problem: &serde_json::Value| {
            problem["code"] == "W-SNAPSHOT-RECIPIENT"
                && problem["fix"]
                    .as_str()
                    .is_some_and(|fix| fix.contains("keys generate operator"))
        };
        assert!(problems.iter().any(told), "{status}");
        let refused = call(&node, &["snapshot", "now"]);
        assert!(
            said(&refused).contains("W-SNAPSHOT-RECIPIENT"),
            "{}",
            said(&refused)
        );
        assert!(!folder(&node, "snapshots").exists());
        end(node);
    });
}
