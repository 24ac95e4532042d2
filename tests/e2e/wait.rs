//! `wait` and `status --watch`: what scripts and tired people look at.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Instant;

use hepto_tests::{Node, isolated, until};

use crate::{SOON, new_lab};

#[test]
fn wait_begins_before_its_node_and_ends_when_another_is_reached() {
    isolated(|| {
        let lab = new_lab();
        let mut nodes = lab.nodes(&["mars", "venus"]);
        let config = nodes[0].config.to_str().expect("a plain path").to_owned();
        let mut command = nodes[0].command(&["wait", "--for", "mesh", "--config", &config]);
        let mut waiting = nodes[0]
            .home()
            .space()
            .spawn(&mut command)
            .expect("it starts");

        nodes[0].start();
        until(SOON, "mars runs", || nodes[0].status().is_ok());
        // It is not the only anchor's node: alone, it has not arrived.
        assert!(waiting.try_wait().expect("ours").is_none());
        let ready = nodes[0].ask(&["wait"]);
        assert!(ready.status.success(), "a node without k3s is ready alone");
        let late = nodes[0].ask(&["wait", "--for", "mesh", "--timeout", "1s"]);
        let said = String::from_utf8_lossy(&late.stderr).into_owned();
        assert_eq!(late.status.code(), Some(3), "{said}");
        assert!(said.contains("no other node is reached"), "{said}");

        nodes[1].start();
        Node::all_meet(&[&nodes[0], &nodes[1]], Instant::now(), SOON);
        until(SOON, "wait ends", || {
            waiting.try_wait().expect("ours").is_some()
        });
        assert!(waiting.wait().expect("ours").success());
        let never = nodes[0].ask(&["wait", "--for", "k3s"]);
        let said = String::from_utf8_lossy(&never.stderr).into_owned();
        assert!(
            said.contains("E-WAIT-NO-K3S"),
            "at once, not after 5 min: {said}"
        );
    });
}

#[test]
fn a_watch_that_is_no_terminal_tells_changes_alone() {
    isolated(|| {
        let lab = new_lab();
        let mut nodes = lab.nodes(&["mars", "venus"]);
        nodes[0].start();
        until(SOON, "mars runs", || nodes[0].status().is_ok());
        let config = nodes[0].config.to_str().expect("a plain path").to_owned();
        let mut command = nodes[0].command(&["status", "--watch", "--config", &config]);
        command.stdout(Stdio::piped());
        let mut watch = nodes[0]
            .home()
            .space()
            .spawn(&mut command)
            .expect("it starts");
        let mut lines = BufReader::new(watch.stdout.take().expect("a pipe")).lines();
        let mut next = |words: &str| {
            let mut seen = Vec::new();
            for line in lines.by_ref() {
                let line = line.expect("text");
                let found = line.contains(words);
                seen.push(line);
                if found {
                    return seen;
                }
            }
            panic!("it ended without {words:?}: {seen:?}")
        };
        next("1 of 1 nodes reachable");
        nodes[1].start();
        let seen = next("2 of 2 nodes reachable");
        let reports = seen.iter().filter(|line| line.contains("(master)")).count();
        assert!(reports <= 6, "not one a second: {seen:?}");
        nodes[0].stop(SOON);
        next("no node answers");
        watch.kill().expect("ours");
        watch.wait().expect("ours");
    });
}
