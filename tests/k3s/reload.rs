//! A node is reloaded; its pods are none the wiser.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use hepto_tests::{Lab, Node, Recipe, isolated, isolated_for, replace_file, until, within};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{
    PROGRAM, SOON, all_gone, control, end, k3s, pid_in, reaches, server, starts, with_k3s,
};

fn reloaded(node: &Node) {
    let output = node.ask(&["reload", "--wait"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{}", node.log());
}

/// Adds a line to the section `[k3s]`.
fn set(node: &Node, line: &str) {
    let text = fs::read_to_string(&node.config).expect("the config file");
    let text = text.replace("[k3s]\n", &format!("[k3s]\n{line}\n"));
    fs::write(&node.config, text).expect("the config file");
}

#[test]
fn a_reload_leaves_k3s_and_its_pods_alone() {
    isolated(|| {
        let (_lab, mut node) = server();
        node.start();
        let before = reaches(&node, "ready");
        control(&node, "leave-children\n");
        let pod = pid_in(&node, "pod");
        let process = node.pid();
        for _ in 0..3 {
            reloaded(&node);
            let after = k3s(&node).expect("it runs");
            assert_eq!(
                (&after["pid"], &after["ready"]),
                (&before["pid"], &true.into())
            );
            assert_eq!(after["restarts"], 0);
        }
        assert_eq!(
            (starts(&node), pid_in(&node, "pod"), node.pid()),
            (1, pod, process)
        );
        end(node);
    });
}

/// A server that runs from a file of its own, and a second file of the same program, to ask it by.
fn server_with_program() -> (Lab, Node, PathBuf, PathBuf) {
    let (lab, mut node) = server();
    let program = lab.directory.join("bin-hepto-node");
    node.install_at(&program);
    // 45 in earnest.
    let bound = ("HEPTO_DEBUG_GUARD_SECONDS".to_owned(), "15".to_owned());
    node.environment.push(bound);
    let whole = lab.directory.join("whole-hepto-node");
    replace_file(&whole, &fs::read(&program).expect("the program"));
    node.start();
    reaches(&node, "ready");
    control(&node, "leave-children\n");
    (lab, node, program, whole)
}

/// Installs a program that passes its check and then does this.
fn install(program: &Path, deed: &str) {
    let text = format!("#!/bin/sh\n[ $2 = check ] && exec echo hepto-node 9.9.9\n{deed}\n");
    replace_file(program, text.as_bytes());
}

#[test]
fn a_program_that_crashes_is_put_back_and_leaves_k3s_and_its_pods_alone() {
    isolated_for(3 * SOON, || {
        let (_lab, mut node, program, whole) = server_with_program();
        let good = fs::read(&program).expect("the program");
        let before = (
            k3s(&node).expect("it runs")["pid"].clone(),
            pid_in(&node, "pod"),
        );
        // At once; and when it has the node.
        let later = format!("(sleep 1; kill -9 $$) & exec {} \"$@\"", whole.display());
        for deed in ["kill -9 $$", &later] {
            install(&program, deed);
            let mut command = Command::new(&whole);
            command
                .args(["reload", "--wait", "--config"])
                .arg(&node.config);
            let child = node.home().space().spawn(command.stderr(Stdio::piped()));
            let output = child.expect("hepto-node starts").wait_with_output();
            let said = String::from_utf8_lossy(&output.expect("it is ours").stderr).into_owned();
            assert!(said.contains("E-RELOAD-FAILED"), "{said}\n{}", node.log());
            replace_file(&program, &good);
            let status = node.status().expect("it runs");
            let problems = status["problems"].to_string();
            assert!(problems.contains("W-RELOAD-BACK"), "{problems}");
            let after = reaches(&node, "ready");
            assert_eq!((&after["pid"], &after["restarts"]), (&before.0, &0.into()));
            assert_eq!((starts(&node), pid_in(&node, "pod")), (1, before.1));
        }
        reloaded(&node);
        assert_eq!(reaches(&node, "ready")["pid"], before.0);
        let stopped = node.ask(&["stop"]);
        assert!(stopped.status.success(), "{}", node.log());
        node.end(SOON);
    });
}

#[test]
fn a_stop_while_a_program_is_on_trial_ends_the_node_in_order() {
    isolated_for(3 * SOON, || {
        let (_lab, mut node, program, _whole) = server_with_program();
        let good = fs::read(&program).expect("the program");
        install(&program, "exec sleep 1000");
        node.signal(Signal::SIGHUP);
        let there = || Path::new("/run/hepto").exists();
        assert!(node.home().space().run(there).expect("its home"));
        let guard = within(SOON, "a guard stands", || guard().ok_or("none")).0;
        until(SOON, "the other program runs", || {
            fs::read_to_string(format!("/proc/{}/comm", node.pid()))
                .is_ok_and(|name| name == "sleep\n")
        });
        replace_file(&program, &good);
        kill(Pid::from_raw(guard), Signal::SIGTERM).expect("the guard is ours");
        // It takes the node back when the other's time is over, and then stops it.
        until(SOON, "the node has stopped", || {
            !node.home().space().run(there).expect("its home")
        });
        all_gone(SOON);
        node.end(SOON);
    });
}

/// The process that stands guard over a reload.
fn guard() -> Option<i32> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let mut ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    ids.find(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.starts_with(b"hepto-node\0guard\0--detached")
    })
}

/// Each reload of one finds the other in the middle of finding it again.
#[test]
fn a_server_and_its_agent_are_reloaded_in_quick_turn() {
    isolated_for(4 * SOON, || {
        let lab = Lab::new(PROGRAM);
        let nodes = [(1, "mars"), (2, "venus")].map(|(number, name)| {
            let recipe = Recipe {
                master: "mars".to_owned(),
                ..lab.recipe(number, name)
            };
            let mut node = lab.node(&lab.home(number), with_k3s(recipe));
            node.start();
            node
        });
        let pids = || [0, 1].map(|node: usize| reaches(&nodes[node], "ready")["pid"].clone());
        let before = pids();
        for _ in 0..4 {
            nodes.iter().for_each(reloaded);
        }
        assert_eq!((pids(), nodes.each_ref().map(starts)), (before, [1, 1]));
        nodes.into_iter().rev().for_each(end);
    });
}

/// Whatever asks others meanwhile, for a name or whether k3s is ready, holds up neither the exec nor what comes after.
#[test]
fn a_node_whose_master_and_resolver_swallow_packets_is_reloaded_all_the_same() {
    isolated_for(4 * SOON, || {
        let lab = Lab::new(PROGRAM);
        let node = |number, name: &str| {
            let mut recipe = Recipe {
                master: "mars".to_owned(),
                ..lab.recipe(number, name)
            };
            recipe.anchors.push("anchor.example.org".to_owned());
            let mut node = lab.node(&lab.home(number), with_k3s(recipe));
            node.start();
            node
        };
        // Nobody has this address.
        let resolver = lab.directory.join("resolv.conf");
        fs::write(&resolver, "nameserver 192.168.77.77\n").expect("a file");
        let bind = MsFlags::MS_BIND;
        mount(
            Some(&resolver),
            "/etc/resolv.conf",
            None::<&str>,
            bind,
            None::<&str>,
        )
        .expect("a mount of this test's own");
        let (mars, venus) = (node(1, "mars"), node(2, "venus"));
        reaches(&mars, "ready");
        let before = reaches(&venus, "ready")["pid"].clone();
        mars.signal(Signal::SIGSTOP);
        for _ in 0..2 {
            let asked = venus.ask(&["reload"]);
            let said = String::from_utf8_lossy(&asked.stderr).into_owned();
            assert!(asked.status.success(), "{said}");
            until(SOON, "it is there again, and has proved itself", || {
                let status = venus.status().unwrap_or_default();
                status["on_trial"] == false && status["k3s"]["pid"] == before
            });
        }
        mars.signal(Signal::SIGCONT);
        let after = reaches(&venus, "ready");
        assert_eq!((&after["pid"], starts(&venus)), (&before, 1));
        end(venus);
        end(mars);
    });
}

#[test]
fn changed_settings_of_k3s_restart_it_alone() {
    isolated(|| {
        let (_lab, mut node) = server();
        node.start();
        let before = reaches(&node, "ready");
        control(&node, "leave-children\n");
        let pod = pid_in(&node, "pod");
        set(&node, "args = [\"--node-label=site=attic\"]");
        reloaded(&node);
        assert_eq!(starts(&node), 2);
        let after = reaches(&node, "ready");
        assert_ne!(after["pid"], before["pid"]);
        assert_eq!(pid_in(&node, "pod"), pod, "the pod lives on");
        reloaded(&node);
        assert_eq!(starts(&node), 2, "once");
        // What a running node with k3s keeps.
        set(&node, "enabled = false");
        let output = node.ask(&["reload", "--wait"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && said.contains("k3s.enabled"),
            "{said}"
        );
        assert_eq!(reaches(&node, "ready")["pid"], after["pid"]);
        end(node);
    });
}

#[test]
fn a_k3s_that_hangs_is_started_anew_and_its_pods_live_on() {
    isolated_for(3 * SOON, || {
        let (_lab, mut node) = server();
        // Five minutes in earnest.
        let hang = ("HEPTO_DEBUG_HANG_SECONDS".to_owned(), "2".to_owned());
        node.environment.push(hang);
        node.start();
        reaches(&node, "ready");
        control(&node, "leave-children\n");
        let pod = pid_in(&node, "pod");
        control(&node, "leave-children\nhang\n");
        until(3 * SOON, "k3s is started again", || starts(&node) == 2);
        control(&node, "leave-children\n");
        let after = reaches(&node, "ready");
        assert_eq!((&after["restarts"], pid_in(&node, "pod")), (&1.into(), pod));
        assert!(node.log().contains("k3s hung"), "{}", node.log());
        end(node);
    });
}
