//! What a node logs: fields in the journal, and how much at most.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use std::time::Duration;

use hepto_tests::{isolated, until};

use crate::{SOON, new_lab, seconds};

const LISTEN: &str = "127.0.0.1:9586";

/// The fields of a message of journald's native protocol: `NAME=value`, or the name, a length and the value.
fn fields(mut message: &[u8]) -> BTreeMap<String, String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut fields = BTreeMap::new();
    while let Some(end) = message.iter().position(|byte| *byte == b'\n') {
        let (line, rest) = (&message[..end], &message[end + 1..]);
        match line.iter().position(|byte| *byte == b'=') {
            Some(equals) => {
                fields.insert(text(&line[..equals]), text(&line[equals + 1..]));
                message = rest;
            }
            None => {
                let length = u64::from_le_bytes(rest[..8].try_into().expect("a length")) as usize;
                fields.insert(text(line), text(&rest[8..8 + length]));
                message = &rest[8 + length + 1..];
            }
        }
    }
    fields
}

#[test]
fn the_journal_gets_code_fix_cluster_and_node_as_fields() {
    isolated(|| {
        let lab = new_lab();
        let home = lab.home(1);
        let node = lab.node(
            &home,
            lab.recipe(1, "mars")
                .with("metrics", &format!("listen = {LISTEN:?}")),
        );
        let begin = || {
            std::fs::create_dir_all("/run/systemd/journal").expect("a folder of its own");
            let journal = UnixDatagram::bind("/run/systemd/journal/socket").expect("a socket");
            (
                journal,
                TcpListener::bind(LISTEN).expect("the port is free"),
            )
        };
        let (journal, _taken) = home.space().run(begin).expect("the home lives");
        journal
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("a timeout");
        let mut command = node.command(&["run", "--config"]);
        command
            .arg(&node.config)
            .env("JOURNAL_STREAM", "1:1")
            .stderr(Stdio::null());
        let mut process = home.space().spawn(&mut command).expect("hepto-node starts");
        let mut buffer = vec![0; 1 << 16];
        let told = loop {
            let length = journal.recv(&mut buffer).expect("a line before long");
            if length == 0 {
                // It tries whether there is a journal.
                continue;
            }
            let fields = fields(&buffer[..length]);
            assert_eq!(
                fields.get("NODE").map(String::as_str),
                Some("mars"),
                "{fields:?}"
            );
            assert_eq!(
                fields.get("CLUSTER"),
                Some(&node.recipe.cluster),
                "{fields:?}"
            );
            let priority: u8 = fields["PRIORITY"].parse().expect("a number");
            if priority <= 4 {
                assert!(
                    fields.contains_key("CODE") && fields.contains_key("FIX"),
                    "{fields:?}"
                );
            }
            if fields
                .get("CODE")
                .is_some_and(|code| code == "W-METRICS-LISTEN")
            {
                break fields;
            }
        };
        assert!(
            told["MESSAGE"].contains(LISTEN) && told["FIX"].contains("metrics.listen"),
            "{told:?}"
        );
        process.kill().expect("ours");
        process.wait().expect("ours");
        assert!(node.ask(&["stop"]).status.success());
    });
}

#[test]
fn who_flaps_a_link_a_hundred_times_writes_a_few_lines() {
    isolated(|| {
        let lab = new_lab();
        let mut nodes = lab.nodes(&["mars"]);
        let mars = &mut nodes[0];
        mars.start();
        until(SOON, "mars runs", || mars.status().is_ok());
        for _ in 0..100 {
            for on in [false, true] {
                lab.street.carrier(mars.home(), on).expect("the lab's link");
                // The node hears of each.
                let state = if on { "up" } else { "down" };
                until(SOON, "the node sees the link", || {
                    mars.status()
                        .is_ok_and(|status| status["network"]["uplink"]["state"] == state)
                });
            }
        }
        let said = mars.log().matches("the host's interface changed").count();
        assert!((2..=40).contains(&said), "{said}");
        until(seconds(60), "what was not written is counted", || {
            mars.log()
                .contains("more like it were not shown: the host's interface changed")
        });
        let log = mars.log();
        let count = log.lines().find_map(|line| {
            line.split(" more like it")
                .next()?
                .rsplit(' ')
                .next()?
                .parse::<u32>()
                .ok()
        });
        assert!(count.is_some_and(|count| count > 50), "{log}");
        assert!(log.contains("W-LOG-LIMITED"), "{log}");
        assert!(mars.stop(SOON).success());
    });
}
