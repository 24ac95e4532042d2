//! `diagnose`: what a friend would ask for, and no key.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use hepto_tests::{isolated, until};

use crate::{SOON, new_lab};

#[test]
fn a_report_says_how_the_node_is_and_shows_no_key() {
    isolated(|| {
        let lab = new_lab();
        let mut nodes = lab.nodes(&["mars"]);
        let mars = &mut nodes[0];
        mars.start();
        until(SOON, "mars runs", || mars.status().is_ok());
        // Keys where they do not belong: in the log that the report shows the end of.
        let own = mars.recipe.storage.join("mars");
        let identity = fs::read_to_string(own.join("identity/node.key")).expect("the node's keys");
        let mut secrets: Vec<String> = ["overlay.key", "cluster.key"]
            .map(|name| fs::read_to_string(lab.directory.join(name)).expect("a key"))
            .to_vec();
        let keys = identity.split([' ', '=', ':', '\n', '"']);
        secrets.extend(keys.filter(|key| key.len() >= 40).map(str::to_owned));
        assert_eq!(secrets.len(), 4, "two of the cluster, two of the node");
        fs::create_dir_all(own.join("log")).expect("a folder");
        fs::write(
            own.join("log/k3s.log"),
            format!("begin\n{}\nthe last line\n", secrets.join("\n")),
        )
        .expect("a log");

        let bundle = lab.directory.join("report.txt");
        let path = bundle.to_str().expect("a plain path");
        let output = mars.ask(&["diagnose", "--bundle", path]);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert_eq!(
            fs::metadata(&bundle).expect("a file").permissions().mode() & 0o777,
            0o600
        );
        let report = fs::read_to_string(&bundle).expect("text");
        for words in [
            "1 of 1 nodes reachable",
            "name = \"mars\"",
            "hepto0",
            "table inet hepto",
            "the last line",
        ] {
            assert!(report.contains(words), "no {words:?} in:\n{report}");
        }
        for secret in &secrets {
            assert!(!report.contains(secret.trim()), "a key is in the report");
        }
        assert!(report.contains("[hidden]"));
        let again = mars.ask(&["diagnose", "--bundle", path]);
        assert_eq!(again.status.code(), Some(1));
        assert!(
            String::from_utf8_lossy(&again.stderr).contains("E-DIAGNOSE-FILE"),
            "nothing is overwritten"
        );

        mars.stop(SOON);
        let after = mars.ask(&["diagnose"]);
        let report = String::from_utf8_lossy(&after.stdout);
        assert!(
            after.status.success() && report.contains("the node does not run"),
            "{report}"
        );
        assert!(
            report.contains("name = \"mars\"") && report.contains("the last line"),
            "{report}"
        );
    });
}
