//! How much a way holds: found out by preflight from the anchors, and by a running node from all others.

use std::time::Instant;

use hepto_tests::{Filter, Node, fits, isolated, until};
use serde_json::Value;

use crate::preflight::{Trial, own_warnings};
use crate::{SOON, new_lab};

/// What `mtu` says, as JSON of the published form.
fn measured(node: &Node, arguments: &[&str]) -> Value {
    let output = node.ask(&[&["mtu", "--json"], arguments].concat());
    let errors = String::from_utf8_lossy(&output.stderr);
    let found =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {errors}"));
    fits("mtu", &found).unwrap_or_else(|wrong| panic!("{wrong}\n{found:#}"));
    found
}

/// `(node, family)` with the path's MTU, whether more was not tried, and what it bears.
fn ways(found: &Value) -> Vec<(String, u64, bool, u64)> {
    let ways = found["ways"].as_array().expect("a list").iter();
    let mut ways: Vec<_> = ways
        .map(|way| {
            let text = |key: &str| way[key].as_str().expect("text").to_owned();
            let number = |key: &str| way[key].as_u64().unwrap_or(0);
            let more = way["or_more"].as_bool().expect("yes or no");
            (
                format!("{} {}", text("node"), text("family")),
                number("path_mtu"),
                more,
                number("bears"),
            )
        })
        .collect();
    ways.sort();
    ways
}

/// Whether a node's endpoints are known by both families.
fn knows_both(peer: &Value) -> bool {
    let endpoints = peer["endpoints"].as_array().into_iter().flatten();
    let texts: Vec<&str> = endpoints.filter_map(Value::as_str).collect();
    let v6 = texts.iter().filter(|text| text.starts_with('[')).count();
    v6 > 0 && v6 < texts.len()
}

#[test]
fn preflight_names_the_mtu_that_the_way_to_an_anchor_bears() {
    isolated(|| {
        let (mut trial, mars) = Trial::with_anchor();
        let own = own_warnings(&trial);
        let said = |report: &Value, check: &str| {
            let findings = report["findings"].as_array().expect("a list").iter();
            let found = findings.clone().find(|found| found["check"] == check);
            found.unwrap_or_else(|| panic!("no {check} in {report:#}"))["what"].to_string()
        };
        let report = trial.finds(&own);
        assert!(
            said(&report, "anchor.mtu-v6").contains("holds 1500 or more bytes"),
            "{report:#}"
        );
        // The way to mars loses what is larger, and says nothing.
        let narrow = Filter::narrow(&trial.lab.street, mars.home(), 1372);
        let expected = [
            ("W-PREFLIGHT-MTU", "network.mtu = 1372 "),
            ("W-PREFLIGHT-MTU", "network.mtu = 1392 "),
        ];
        let report = trial.finds(&[&own[..], &expected].concat());
        assert!(
            said(&report, "anchor.mtu-v4").contains("holds 1372 bytes, and network.mtu is 1400"),
            "{report:#}"
        );
        drop(narrow);
        // A node whose own uplink would be narrow is told that the way is not.
        trial.recipe = trial.recipe.clone().with("network", "mtu = 1300");
        let report = trial.finds(&[&own[..], &[("W-NET-MTU", "1360")]].concat());
        assert!(
            said(&report, "anchor.mtu-v6").contains("holds 1500 or more bytes"),
            "{report:#}"
        );
    });
}

#[test]
fn a_node_measures_the_ways_to_all_others_and_says_what_they_agree_on() {
    isolated(|| {
        let lab = new_lab();
        let mut nodes = lab.nodes(&["mars", "venus", "pluto"]);
        // So low that its uplink has it too, and cannot send what is larger.
        let recipe = nodes[0].recipe.clone().with("network", "mtu = 1300");
        nodes[0] = lab.node(&nodes[0].home().clone(), recipe);
        nodes.iter_mut().for_each(Node::start);
        let all: Vec<&Node> = nodes.iter().collect();
        Node::all_meet(&all, Instant::now(), SOON);
        let [mars, venus, pluto] = &nodes[..] else {
            panic!("three")
        };
        // Addresses of IPv6 are there a second or two after those of IPv4.
        for one in &nodes {
            until(SOON, "both families of all others are known", || {
                one.peers().is_ok_and(|peers| peers.iter().all(knows_both))
            });
        }
        // Its own link ends at 1300, and the host goes on.
        let found = measured(mars, &[]);
        let open = |node: &str, family| (format!("{node} {family}"), 1500, true, 1500);
        let expected = [
            open("pluto", "ipv4"),
            open("pluto", "ipv6"),
            open("venus", "ipv4"),
            open("venus", "ipv6"),
        ];
        assert_eq!(
            (ways(&found), &found["agreed"], &found["mtu"]),
            (expected.to_vec(), &1500.into(), &1300.into()),
            "{found:#}"
        );

        let narrow = Filter::narrow(&lab.street, pluto.home(), 1352);
        let found = measured(mars, &[]);
        let expected = [
            ("pluto ipv4".to_owned(), 1352, false, 1372),
            ("pluto ipv6".to_owned(), 1352, false, 1352),
        ];
        assert_eq!(
            (&ways(&found)[..2], &found["agreed"]),
            (&expected[..], &1352.into()),
            "{found:#}"
        );
        let output = mars.ask(&["mtu", "pluto"]);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            text.contains("network.mtu is 1300, and every way from here bears 1352"),
            "{text}"
        );
        assert!(!text.contains("venus"), "{text}");
        drop(narrow);

        // One that is away is named, and one that nobody is is refused.
        lab.street.cut(venus.home()).expect("the line can be cut");
        let found = measured(mars, &[]);
        assert_eq!(found["silent"], serde_json::json!(["venus"]), "{found:#}");
        let output = mars.ask(&["mtu", "venu"]);
        assert!(String::from_utf8_lossy(&output.stderr).contains("E-PING-NAME"));
        let output = mars.ask(&["mtu", "venus"]);
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains("E-MTU-SILENT"));
    });
}
