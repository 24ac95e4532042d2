//! A node takes up a new program or a changed config while it runs.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hepto_tests::{Echo, Lab, Node, isolated, isolated_for, replace_file, until, within};
use nix::sys::signal::Signal;

use crate::{SOON, new_lab, seconds};

/// Two nodes that have met; the second runs from a file of its own.
fn pair() -> (Lab, Vec<Node>, PathBuf) {
    let lab = new_lab();
    let mut nodes = lab.nodes(&["mars", "venus"]);
    let program = lab.directory.join("bin-hepto-node");
    nodes[1].install_at(&program);
    nodes.iter_mut().for_each(Node::start);
    Node::all_meet(&[&nodes[0], &nodes[1]], Instant::now(), SOON);
    (lab, nodes, program)
}

/// What a reload must not touch: the process, the namespace, the tunnel's link.
fn lasting(node: &Node) -> (i32, u64, u32) {
    let name = format!("/run/netns/hepto-{}.{}", node.recipe.cluster, node.name());
    let inode = || fs::metadata(&name).expect("the namespace").ino();
    let space = node.home().space();
    let inside = node.inside().expect("the namespace");
    let link = inside.run(|| nix::net::if_::if_nametoindex("hepto0"));
    (
        node.pid(),
        space.run(inode).expect("the home lives"),
        link.expect("the namespace").expect("the tunnel's link"),
    )
}

fn reload(node: &Node) -> Output {
    node.ask(&["reload", "--wait"])
}

fn reloaded(node: &Node) {
    let output = reload(node);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    println!("{said}");
}

/// Refused with these words; the node goes on as it was.
fn refused(node: &Node, words: &str) {
    refused_by(node, node, words);
}

/// The same for a node whose own program cannot ask any more: another's asks.
fn refused_by(asking: &Node, node: &Node, words: &str) {
    let before = lasting(node);
    let mut command = asking.command(&["reload", "--config"]);
    command.arg(&node.config).stderr(Stdio::piped());
    let child = node.home().space().spawn(&mut command);
    let output = child.expect("hepto-node starts").wait_with_output();
    let output = output.expect("the process is ours");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{words}: {said}");
    assert!(said.contains(words), "{words}: {said}");
    assert_eq!(lasting(node), before);
}

/// The longest time without an answer from `to`, asked again and again while `work` is done and until it answers.
fn longest_silence(from: &Node, to: &Node, work: impl FnOnce()) -> Duration {
    let over = AtomicBool::new(false);
    let request = Echo {
        patience: Duration::from_millis(100),
        ..Echo::new(to.overlay()[1])
    };
    thread::scope(|scope| {
        let stream = scope.spawn(|| {
            let (mut longest, mut heard) = (Duration::ZERO, Instant::now());
            loop {
                let answered = from.echo(request).is_ok();
                longest = longest.max(heard.elapsed());
                if answered {
                    heard = Instant::now();
                    if over.load(Ordering::Relaxed) {
                        return longest;
                    }
                }
                assert!(heard.elapsed() < SOON, "the tunnel does not come back");
                thread::sleep(Duration::from_millis(10));
            }
        });
        work();
        over.store(true, Ordering::Relaxed);
        stream.join().expect("the stream of echoes")
    })
}

#[test]
fn a_replaced_program_takes_over_and_the_tunnel_is_back_at_once() {
    isolated(|| {
        let (_lab, nodes, program) = pair();
        let before = lasting(&nodes[1]);
        let old = fs::metadata(&program).expect("the program").ino();
        let content = fs::read(&program).expect("the program");
        replace_file(&program, &content);
        // A moment in which the whole machine stands still is none of the tunnel's: the best of three counts.
        let silences: Vec<Duration> = (0..3)
            .map(|_| longest_silence(&nodes[0], &nodes[1], || reloaded(&nodes[1])))
            .collect();
        assert!(silences.iter().min() < Some(&seconds(1)), "{silences:?}");
        assert_eq!(lasting(&nodes[1]), before);
        let runs = fs::metadata(format!("/proc/{}/exe", nodes[1].pid())).expect("it runs");
        assert_ne!(runs.ino(), old, "the new file runs");
        // The lock went along: nobody else starts this node.
        assert_eq!(nodes[1].ask(&["run"]).status.code(), Some(75));
    });
}

#[test]
fn many_reloads_leak_nothing() {
    isolated_for(seconds(180), || {
        let (_lab, nodes, _) = pair();
        reloaded(&nodes[1]);
        let count = |what: &str| {
            let path = format!("/proc/{}/{what}", nodes[1].pid());
            fs::read_dir(path).expect("it runs").count()
        };
        // A control connection that has just ended may still be open for a moment, and a helping thread run.
        let settled = || {
            let lowest = |what: &str| {
                (0..40)
                    .map(|_| {
                        thread::sleep(Duration::from_millis(10));
                        count(what)
                    })
                    .min()
            };
            (lowest("fd"), lowest("task"))
        };
        let before = settled();
        (0..10).for_each(|_| reloaded(&nodes[1]));
        let after = settled();
        println!("descriptors and threads: {before:?} before, {after:?} after");
        assert!(
            after.0 <= before.0 && after.1 <= before.1,
            "{before:?} {after:?}"
        );
        let children = format!("/proc/{0}/task/{0}/children", nodes[1].pid());
        until(SOON, "no child is left", || {
            fs::read_to_string(&children).is_ok_and(|pids| pids.trim().is_empty())
        });
    });
}

#[test]
fn a_program_that_cannot_run_is_refused_and_the_node_goes_on() {
    isolated(|| {
        let (_lab, nodes, program) = pair();
        let good = fs::read(&program).expect("the program");
        // The machine in the head of an ELF file: none that exists (elf(5): e_machine).
        let mut foreign = good[..4096].to_vec();
        foreign[18..20].copy_from_slice(&[0xfe, 0xfe]);
        replace_file(&program, &foreign);
        refused_by(&nodes[0], &nodes[1], "Exec format error");
        replace_file(&program, b"#!/bin/sh\nkill -9 $$\n");
        refused_by(&nodes[0], &nodes[1], "signal: 9");
        // Ends well, and yet is no hepto-node.
        replace_file(&program, b"#!/bin/sh\nexit 0\n");
        refused_by(&nodes[0], &nodes[1], "cannot take over");
        replace_file(&program, &good);
        fs::set_permissions(&program, fs::Permissions::from_mode(0o644)).expect("the program");
        refused_by(&nodes[0], &nodes[1], "Permission denied");
        fs::remove_file(&program).expect("the program");
        refused_by(&nodes[0], &nodes[1], "No such file");
        replace_file(&program, &good);
        reloaded(&nodes[1]);
        Node::all_meet(&[&nodes[0], &nodes[1]], Instant::now(), SOON);
    });
}

/// A program that passes its check and then does this.
fn treacherous(deed: &str) -> Vec<u8> {
    format!("#!/bin/sh\n[ $1 = config ] && exec echo hepto-node 9.9.9\n{deed}\n").into_bytes()
}

#[test]
fn a_program_that_fails_after_its_check_is_put_back() {
    isolated_for(seconds(120), || {
        let lab = new_lab();
        let mut nodes = lab.nodes(&["mars", "venus"]);
        let program = lab.directory.join("bin-hepto-node");
        nodes[1].install_at(&program);
        // 45 in earnest.
        let bound = ("HEPTO_DEBUG_GUARD_SECONDS".to_owned(), "15".to_owned());
        nodes[1].environment.push(bound);
        nodes.iter_mut().for_each(Node::start);
        Node::all_meet(&[&nodes[0], &nodes[1]], Instant::now(), SOON);
        let good = fs::read(&program).expect("the program");
        let (process, namespace, link) = lasting(&nodes[1]);
        // Its own program cannot be asked any more: the other's asks.
        let ask = |words: &[&str]| {
            let mut command = nodes[0].command(words);
            command.arg("--config").arg(&nodes[1].config);
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            let child = nodes[1].home().space().spawn(&mut command);
            let output = child.expect("hepto-node starts").wait_with_output();
            output.expect("the process is ours")
        };
        let reload = || {
            let output = ask(&["reload", "--wait"]);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            (output.status.success(), said)
        };
        let status = || -> serde_json::Value {
            serde_json::from_slice(&ask(&["status", "--json"]).stdout).expect("it runs")
        };
        let mut runs: serde_json::Value = process.into();
        // It ends; it closes what it was handed, and stands still.
        for (deed, failed) in [
            ("exit 1", "hepto-node 9.9.9 ended"),
            (
                "exec sleep 1000 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-",
                "did not take the node over",
            ),
        ] {
            replace_file(&program, &treacherous(deed));
            let (success, said) = reload();
            assert!(!success && said.contains("E-RELOAD-FAILED"), "{said}");
            assert!(said.contains(failed), "{failed}: {said}");
            replace_file(&program, &good);
            let before = std::mem::replace(&mut runs, status()["pid"].clone());
            assert_ne!(runs, before, "the first process ended with its program");
            let problems = status()["problems"].to_string();
            assert!(problems.contains("W-RELOAD-BACK"), "{problems}");
            Node::all_meet(&[&nodes[0], &nodes[1]], Instant::now(), SOON);
        }
        // Nobody else starts this node, and a program that works takes it over for good.
        assert_eq!(nodes[1].ask(&["run"]).status.code(), Some(75));
        let (success, said) = reload();
        assert!(success, "{said}");
        let status = nodes[1].status().expect("it runs");
        assert_eq!(
            (&status["pid"], &status["problems"]),
            (&runs, &serde_json::json!([]))
        );
        assert_eq!(guards(), Vec::<i32>::new());
        let (_, again, tunnel) = lasting(&nodes[1]);
        assert_eq!((again, tunnel), (namespace, link), "all is as it was");
        let stopped = nodes[1].ask(&["stop"]);
        assert!(stopped.status.success(), "{}", nodes[1].log());
        assert!(
            !nodes[1].end(SOON).success(),
            "the first process ended with the first program"
        );
    });
}

/// The processes that stand guard over a reload.
fn guards() -> Vec<i32> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_guard = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.starts_with(b"hepto-node\0guard\0")
    };
    ids.filter(is_guard).collect()
}

/// Changes a node's config file.
fn edit(node: &Node, from: &str, to: &str) {
    let text = fs::read_to_string(&node.config).expect("the config file");
    assert!(text.contains(from), "{from} in {text}");
    fs::write(&node.config, text.replace(from, to)).expect("the config file");
}

#[test]
fn what_a_running_node_can_change_is_changed() {
    isolated(|| {
        let (_lab, nodes, _) = pair();
        let before = lasting(&nodes[1]);
        edit(&nodes[1], "192.168.77.102/24", "192.168.77.142/24");
        edit(
            &nodes[1],
            "[network]",
            "[network]\nmtu = 1360\nopen = [\"tcp/8080\"]",
        );
        reloaded(&nodes[1]);
        assert_eq!(lasting(&nodes[1]), before);
        let addresses = nodes[1].exec_net(&["ip", "-4", "address", "show", "dev", "uplink"]);
        let addresses = addresses.expect("the uplink");
        assert!(
            addresses.contains("192.168.77.142/24") && !addresses.contains("192.168.77.102"),
            "{addresses}"
        );
        assert_eq!(nodes[1].status().expect("it runs")["mesh"]["mtu"], 1280);
        let rules = nodes[1]
            .exec_net(&["nft", "list", "table", "inet", "hepto"])
            .expect("the firewall");
        assert!(rules.contains("8080"), "{rules}");
        Node::all_meet(&[&nodes[0], &nodes[1]], Instant::now(), SOON);
    });
}

#[test]
fn what_a_running_node_keeps_is_refused_by_its_name() {
    isolated(|| {
        let (lab, nodes, _) = pair();
        let good = fs::read_to_string(&nodes[1].config).expect("the config file");
        let other = lab.directory.join("elsewhere");
        fs::create_dir(&other).expect("a directory");
        let storage = format!("{:?}", nodes[1].recipe.storage);
        for (from, to, named) in [
            (
                "name = \"venus\"",
                "name = \"pluto\"",
                "node.name is pluto now, and the node runs with venus",
            ),
            (storage.as_str(), &format!("{other:?}"), "node.storage"),
            ("[mesh]", "[mesh]\nipv4 = \"10.77.0.0/16\"", "mesh.ipv4"),
            (
                "[cluster]",
                "[cluster]\npod_cidrs = [\"10.55.0.0/16\", \"fd00:55::/56\"]",
                "cluster.pod_cidrs",
            ),
            ("[cluster]", "[cluster\n", "E-CONFIG-SYNTAX"),
            ("master = \"mars\"", "master = \"Mars!\"", "E-NAME"),
        ] {
            edit(&nodes[1], from, to);
            refused(&nodes[1], named);
            fs::write(&nodes[1].config, &good).expect("the config file");
        }
        reloaded(&nodes[1]);
    });
}

#[test]
fn a_hangup_reloads_and_the_service_manager_hears_of_it() {
    isolated(|| {
        let lab = new_lab();
        let mut node = lab.nodes(&["mars"]).remove(0);
        let path = lab.directory.join("notify");
        let manager = UnixDatagram::bind(&path).expect("a socket");
        manager.set_read_timeout(Some(SOON)).expect("a time limit");
        node.environment
            .push(("NOTIFY_SOCKET".into(), path.display().to_string()));
        node.start();
        hears(&manager, "READY=1");
        let process = node.pid();
        let started = start_of_program(&node);
        node.signal(Signal::SIGHUP);
        let said = hears(&manager, "RELOADING=1");
        let usec = said
            .lines()
            .find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
        usec.expect("when it began")
            .parse::<u64>()
            .expect("a number");
        // The guard is the main process until the new program has proved itself.
        assert_ne!(hears_main_process(&manager), process);
        hears(&manager, "READY=1");
        assert_eq!(hears_main_process(&manager), process);
        assert_eq!(node.pid(), process);
        assert!(
            node.log().contains("the installed program takes over"),
            "{}",
            node.log()
        );
        within(SOON, "another program runs", || {
            match start_of_program(&node) {
                same if same == started => Err("the same"),
                other => Ok(other),
            }
        });
        // Refused: READY all the same, or systemd would wait for ever.
        edit(&node, "[cluster]", "[cluster");
        node.signal(Signal::SIGHUP);
        hears(&manager, "RELOADING=1");
        hears(&manager, "READY=1");
        node.says("not reloaded", SOON);
        assert!(node.stop(SOON).success(), "{}", node.log());
    });
}

/// Where the program's stack begins: drawn anew at each exec.
fn start_of_program(node: &Node) -> String {
    let stat = fs::read_to_string(format!("/proc/{}/stat", node.pid())).expect("it runs");
    let after = stat.rsplit(") ").next().expect("a name in brackets");
    // Field 28 of proc_pid_stat(5), the third being the first after the name.
    after.split(' ').nth(25).expect("startstack").to_owned()
}

/// The next notice with these words.
fn hears(manager: &UnixDatagram, words: &str) -> String {
    hears_any(manager, words, |line| line == words)
}

/// What the next notice of a main process names.
fn hears_main_process(manager: &UnixDatagram) -> i32 {
    let said = hears_any(manager, "MAINPID", |line| line.starts_with("MAINPID="));
    let number = said.trim().trim_start_matches("MAINPID=");
    number.parse().expect("a process id alone")
}

fn hears_any(manager: &UnixDatagram, what: &str, is_it: impl Fn(&str) -> bool) -> String {
    let mut buffer = [0; 4096];
    loop {
        let length = manager
            .recv(&mut buffer)
            .unwrap_or_else(|error| panic!("no {what}: {error}"));
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        if text.lines().any(&is_it) {
            return text;
        }
    }
}

#[test]
fn a_node_that_does_not_run_is_not_reloaded() {
    isolated(|| {
        let lab = new_lab();
        let node = lab.nodes(&["mars"]).remove(0);
        let output = node.ask(&["reload"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert!(said.contains("E-RELOAD-ABSENT"), "{said}");
        assert!(!Path::new("/run/hepto").exists());
    });
}
