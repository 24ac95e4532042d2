//! What preflight finds out from the anchors: who answers, and whether they reach the node that is to be.

use hepto_tests::{Filter, isolated};

use crate::SOON;
use crate::preflight::{Trial, own_warnings};

const PORT: u16 = 51820;

/// The text of the finding of this check that has these words.
fn said(report: &serde_json::Value, check: &str, words: &str) -> String {
    let findings = report["findings"].as_array().expect("a list");
    let mut texts = findings
        .iter()
        .filter(|found| found["check"] == check)
        .map(|found| found["what"].as_str().expect("text").to_owned());
    texts
        .find(|text| text.contains(words))
        .unwrap_or_else(|| panic!("{check} says nothing of {words:?}: {report:#}"))
}

#[test]
fn anchors_that_do_not_answer_are_told_apart() {
    isolated(|| {
        let mut trial = Trial::at(2, "venus");
        trial.internet();
        // Names are not looked for beyond this machine.
        trial.cover("/etc/resolv.conf", "");
        let own = own_warnings(&trial);
        let homes = [trial.lab.home(1), trial.lab.home(3)];
        let mut mars = trial.lab.node(&homes[0], trial.lab.recipe(1, "mars"));
        let mut other = trial.lab.recipe(3, "pluto");
        other.overlay_key = trial
            .lab
            .secret("other.key", "An0therOverlayKeyAn0therOverlay0");
        let mut pluto = trial.lab.node(&homes[1], other);
        mars.start();
        pluto.start();
        for node in [&mars, &pluto] {
            hepto_tests::until(SOON, "it is up", || {
                node.status().is_ok_and(|status| status["ready"] == true)
            });
        }
        trial.recipe.anchors = [
            "192.168.77.101",
            "[2001:db8:77::1:1]:51820",
            // Another overlay key, nobody's address, a host without a node, no name, and this node itself.
            "192.168.77.103",
            "192.168.77.250",
            "192.168.77.1",
            "nobody.invalid",
            "192.168.77.102",
        ]
        .map(str::to_owned)
        .to_vec();
        let silent = [
            ("W-PREFLIGHT-ANCHOR-SILENT", "overlay key is the same"),
            ("W-PREFLIGHT-ANCHOR-SILENT", "UDP port 51820"),
            ("W-PREFLIGHT-ANCHOR-CLOSED", "start the anchor's node"),
            ("W-PREFLIGHT-ANCHOR-NAME", "cluster.anchors"),
        ];
        let report = trial.finds(&[&own[..], &silent].concat());
        said(&report, "anchor.answers", "192.168.77.101:51820 answers");
        said(
            &report,
            "anchor.answers",
            "[2001:db8:77::1:1]:51820 answers",
        );
        said(
            &report,
            "anchor.answers",
            "192.168.77.102:51820 is this node itself",
        );
        said(&report, "anchor.reach-v4", "reaches 192.168.77.102:51820");
        said(
            &report,
            "anchor.reach-v6",
            "reaches [2001:db8:77::1:2]:51820",
        );
    });
}

#[test]
fn a_gateway_that_lets_nobody_in_is_found_and_the_setting_named() {
    isolated(|| {
        let (mut trial, _mars) = Trial::with_anchor();
        let own = own_warnings(&trial);
        let closed = Filter::closed(&trial.lab.street, &trial.home, PORT);
        let blocked = [
            (
                "W-PREFLIGHT-REACH",
                "let UDP port 51820 in to 2001:db8:77::1:2",
            ),
            (
                "W-PREFLIGHT-REACH",
                "forward UDP port 51820 to 192.168.77.102",
            ),
        ];
        let report = trial.finds(&[&own[..], &blocked].concat());
        said(&report, "anchor.answers", "192.168.77.101:51820 answers");
        drop(closed);
        // A port forward that the config names is what is tried, and the port behind it is what is listened at.
        trial.recipe = trial
            .recipe
            .clone()
            .with("mesh", "endpoints = [\"203.0.113.7:40000\"]");
        let _closed = Filter::closed(&trial.lab.street, &trial.home, 40000);
        let (_, report) = trial.look();
        said(
            &report,
            "anchor.reach-v6",
            "reaches [2001:db8:77::1:2]:51820",
        );
        said(
            &report,
            "anchor.reach-v4",
            "sent to 192.168.77.102:40000 in vain",
        );
    });
}

#[test]
fn a_node_that_runs_can_be_dialled_back_too() {
    isolated(|| {
        let trial = Trial::at(2, "venus");
        trial.internet();
        let home = trial.lab.home(1);
        let mut mars = trial.lab.node(&home, trial.lab.recipe(1, "mars"));
        let mut venus = trial.lab.node(&trial.home, trial.recipe.clone());
        mars.start();
        venus.start();
        hepto_tests::Node::all_meet(&[&mars, &venus], std::time::Instant::now(), SOON);
        let (code, report) = trial.look();
        assert_eq!(code, 0, "{report:#}");
        said(&report, "uplink.make", "its own network is tried");
        said(
            &report,
            "anchor.reach-v6",
            "reaches [2001:db8:77::1:2]:51820",
        );
        let _closed = Filter::closed(&trial.lab.street, &trial.home, PORT);
        let (_, report) = trial.look();
        said(&report, "anchor.reach-v6", "in vain");
    });
}
