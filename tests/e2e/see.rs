//! What an operator sees of the other nodes.

use std::process::Stdio;
use std::time::Instant;

use hepto_tests::{Node, SlowLine, fits, isolated, until, within};
use serde_json::Value;

use crate::{SOON, new_lab, seconds};

/// What a node says of another.
fn peer(node: &Node, name: &str) -> Option<Value> {
    let peers = node.peers().ok()?;
    peers.into_iter().find(|peer| peer["name"] == name)
}

/// What a command prints, or says in its place.
fn said(node: &Node, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = node.ask(arguments);
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn the_way_to_each_other_node_is_measured_and_another_mtu_is_named() {
    isolated(|| {
        let lab = new_lab();
        let homes = [lab.home(1), lab.home(2), lab.home(3)];
        let pluto = lab.recipe(3, "pluto").with("network", "mtu = 1380");
        let mut nodes = [
            lab.node(&homes[0], lab.recipe(1, "mars")),
            lab.node(&homes[1], lab.recipe(2, "venus")),
            lab.node(&homes[2], pluto),
        ];
        // 25 ms each way to venus.
        SlowLine::lay(&lab.street, &homes[1], seconds(1) / 40);
        nodes.iter_mut().for_each(Node::start);
        let all: Vec<&Node> = nodes.iter().collect();
        Node::all_meet(&all, Instant::now(), SOON);
        let mars = &nodes[0];

        let known = |name: &str| {
            let ask = || {
                let peer = peer(mars, name).filter(|peer| peer["rtt_ms"].is_f64());
                peer.ok_or("its round trip is not known")
            };
            within(SOON, &format!("mars measures the way to {name}"), ask).0
        };
        let (venus, pluto) = (known("venus"), known("pluto"));
        let rtt = |peer: &Value| peer["rtt_ms"].as_f64().expect("a number");
        assert!((50.0..200.0).contains(&rtt(&venus)), "{venus}");
        assert!(rtt(&pluto) < rtt(&venus), "{pluto}");
        assert_eq!((&venus["mtu"], &pluto["mtu"]), (&1320.into(), &1300.into()));
        assert_eq!(venus["loss_percent"], 0.0);
        until(SOON, "what flows is seen", || {
            peer(mars, "venus").is_some_and(|peer| peer["rx_bits_s"].as_u64() > Some(0))
        });
        let problems = mars.status().expect("a report")["problems"].clone();
        let problem = problems.as_array().expect("a list").iter();
        let problem = problem
            .clone()
            .find(|problem| problem["code"] == "W-MESH-MTU");
        let what = problem.map(|problem| problem["what"].to_string());
        let what = what.unwrap_or_else(|| panic!("{problems}"));
        assert!(
            what.contains("1320 here") && what.contains("pluto has 1300"),
            "{what}"
        );
        assert!(!what.contains("venus"), "{what}");

        compares(mars);
        pings(mars);
        // Silence is seen as loss while the session is still thought alive, and ping says what it is.
        lab.street.cut(&homes[1]).expect("the line can be cut");
        let (code, out, error) = said(mars, &["ping", "venus", "-c", "1"]);
        assert_eq!(code, Some(1), "{out}{error}");
        assert!(
            out.contains("no answer within a second") && error.contains("E-PING-SILENT"),
            "{out}{error}"
        );
        until(seconds(40), "the loss is counted", || {
            peer(mars, "venus").is_some_and(|peer| peer["loss_percent"].as_f64() > Some(0.0))
        });
        assert_eq!(peer(mars, "pluto").expect("pluto")["loss_percent"], 0.0);
    });
}

/// `config diff` of a file with what runs: the node itself, and what the others announce.
fn compares(mars: &Node) {
    let mut command = mars.command(&["config", "diff", "--json"]);
    command.arg(&mars.config).stdout(Stdio::piped());
    let child = mars.home().space().spawn(&mut command).expect("it starts");
    let output = child.wait_with_output().expect("ours");
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(fits("config-diff", &found), Ok(()));
    let differences = found["differences"].as_array().expect("a list");
    assert_eq!(
        (output.status.code(), differences.len()),
        (Some(1), 1),
        "{found}"
    );
    let difference = &differences[0];
    assert_eq!(
        (&difference["setting"], &difference["node"]),
        (&"network.mtu".into(), &"pluto".into())
    );
    assert!(
        difference["other"].to_string().contains("1380"),
        "{difference}"
    );
}

/// `ping` of a node that is there, and of one that nobody is.
fn pings(mars: &Node) {
    let (code, out, error) = said(mars, &["ping", "venus", "-c", "2"]);
    assert_eq!((code, error.as_str()), (Some(0), ""), "{out}");
    let endpoint = peer(mars, "venus").expect("venus")["endpoint"].clone();
    let by = format!(" by {}: ", endpoint.as_str().expect("an endpoint"));
    let answers = out
        .lines()
        .filter(|line| line.contains(&by) && line.ends_with(" ms"));
    assert_eq!(answers.count(), 4, "two rounds, two families: {out}");
    let (code, out, _) = said(mars, &["ping", "venus", "--json", "--count", "1"]);
    let pinged: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(fits("ping", &pinged), Ok(()));
    assert_eq!((code, &pinged["endpoint"]), (Some(0), &endpoint));
    let addresses = pinged["addresses"].as_array().expect("a list");
    assert_eq!(addresses.len(), 2, "{pinged}");
    for tally in addresses {
        assert_eq!(tally["answered"], 1, "{tally}");
        assert!(tally["min_ms"].as_f64() > Some(50.0), "{tally}");
    }
    let (code, _, error) = said(mars, &["ping", "venu"]);
    assert_eq!(code, Some(1));
    assert!(
        error.contains("E-PING-NAME") && error.contains("venus, "),
        "{error}"
    );
}
