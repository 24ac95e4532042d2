//! The tokens are in their files, and nowhere else.

use std::fs;
use std::path::{Path, PathBuf};

use hepto_tests::isolated;

use crate::{end, folder, k3s_log, reaches, server, with_k3s};

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
        let secrets: Vec<String> = ["token", "agent-token"]
            .iter()
            .map(|name| fs::read_to_string(etc.join(name)).expect("a token"))
            .collect();
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
        for file in readable(&folder(&node, "").join("."))
            .into_iter()
            .chain(readable(Path::new("/run")))
        {
            clean(
                &file.display().to_string(),
                &fs::read(&file).unwrap_or_default(),
            );
        }
        end(node);
    });
}

/// The files below a folder that others than root may read.
fn readable(folder: &Path) -> Vec<PathBuf> {
    use std::os::unix::fs::PermissionsExt;

    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        if metadata.is_dir() {
            found.extend(readable(&entry.path()));
        } else if metadata.is_file() && metadata.permissions().mode() & 0o044 != 0 {
            found.push(entry.path());
        }
    }
    found
}
