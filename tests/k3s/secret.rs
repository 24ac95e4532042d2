//! The tokens are in their files, and nowhere else.

use std::fs;
use std::path::PathBuf;

use hepto_tests::{isolated, readable};

use crate::{end, folder, k3s, k3s_log, reaches, server, with_k3s};

#[test]
fn tokens_are_in_no_argument_environment_log_or_readable_file() {
    isolated(|| {
        let (lab, node) = server();
        let home = node.home().clone();
        let recipe = with_k3s(lab.recipe(1, "mars"));
        let mut node = lab.node(&home, recipe);
        node.environment
            .push(("RUST_LOG".to_owned(), "trace".to_owned()));
        node.start();
        reaches(&node, "ready");
        let etc = folder(&node, "etc-rancher").join("k3s");
        let mut files = vec![
            lab.directory.join("overlay.key"),
            lab.directory.join("cluster.key"),
        ];
        files.extend(["token", "agent-token"].map(|name| etc.join(name)));
        let read = |path: &PathBuf| {
            fs::read_to_string(path)
                .expect("a secret")
                .trim()
                .to_owned()
        };
        let mut secrets: Vec<String> = files.iter().map(read).collect();
        // The node's own private keys: those lines and words of the file that are long enough to be one.
        let own = fs::read_to_string(folder(&node, "identity").join("node.key"));
        let own = own.expect("the node's keys");
        let words = own
            .split([' ', '=', ':', '\n', '"'])
            .filter(|word| word.len() >= 40);
        secrets.extend(words.map(str::to_owned));
        assert!(
            secrets.len() >= 6,
            "two keys of the node's own are looked for"
        );
        assert!(
            secrets.iter().all(|secret| secret.len() >= 32),
            "they are worth hiding"
        );
        let clean = |what: &str, text: &[u8]| {
            let text = String::from_utf8_lossy(text);
            for secret in &secrets {
                assert!(!text.contains(secret.as_str()), "a token is in {what}");
            }
        };
        // Every process of this test, those in the node among them.
        for entry in fs::read_dir("/proc").expect("/proc").flatten() {
            for file in ["cmdline", "environ"] {
                let path = entry.path().join(file);
                clean(
                    &path.display().to_string(),
                    &fs::read(&path).unwrap_or_default(),
                );
            }
        }
        clean("the supervisor's log", node.log().as_bytes());
        clean("k3s's log", k3s_log(&node).as_bytes());
        clean(
            "status",
            node.status().expect("it runs").to_string().as_bytes(),
        );
        let pid = &k3s(&node).expect("it runs")["pid"];
        let inside = PathBuf::from(format!("/proc/{pid}/root"));
        assert!(inside.join("run/hepto").is_dir(), "the node's view is seen");
        let places = [
            folder(&node, ""),
            PathBuf::from("/run"),
            // What k3s and its pods see in place of the host's.
            inside.join("tmp"),
            inside.join("run"),
            lab.directory.clone(),
        ];
        for file in places.iter().flat_map(|place| readable(place)) {
            clean(
                &file.display().to_string(),
                &fs::read(&file).unwrap_or_default(),
            );
        }
        end(node);
    });
}
