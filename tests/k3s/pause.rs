//! The host's owner has his machine back, and gives it again.

use hepto_tests::{Inventory, Node, isolated, until};

use crate::{SOON, all_gone, control, k3s, pid_in, reaches, server, starts, was_told};

fn asked(node: &Node, verb: &str) {
    let output = node.ask(&[verb]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{verb}: {said}");
}

#[test]
fn a_pause_ends_pods_keeps_the_mesh_and_lasts_over_crash_and_restart() {
    isolated(|| {
        let (_lab, mut node) = server();
        let before = Inventory::of(node.home());
        node.start();
        reaches(&node, "ready");
        control(&node, "leave-children\n");
        pid_in(&node, "pod");
        asked(&node, "pause");
        // The answer came when all had ended.
        all_gone(SOON);
        assert!(was_told(&node, "pod"), "the pod was asked to end");
        let told = k3s(&node).expect("it runs");
        assert_eq!(told["state"], "paused", "{told}");
        let problems = node.status().expect("it runs")["problems"].to_string();
        assert!(
            problems.contains("W-NODE-PAUSED") && problems.contains("hepto-node resume"),
            "{problems}"
        );
        node.inside().expect("the mesh's namespace stays");
        node.overlay();
        asked(&node, "pause");

        node.crash();
        node.start();
        reaches(&node, "paused");
        assert!(node.stop(SOON).success(), "{}", node.log());
        assert_eq!(
            Inventory::of(node.home()).more_than(&before),
            Vec::<String>::new()
        );
        node.start();
        reaches(&node, "paused");
        assert_eq!(starts(&node), 1, "k3s was not started meanwhile");

        asked(&node, "resume");
        reaches(&node, "ready");
        assert_eq!(starts(&node), 2);
        assert!(node.stop(SOON).success(), "{}", node.log());
        all_gone(SOON);
    });
}

#[test]
fn a_supervisor_that_dies_while_it_pauses_leaves_the_rest_to_the_next() {
    isolated(|| {
        let (_lab, mut node) = server();
        node.start();
        reaches(&node, "ready");
        node.crash();
        // As it stands when the mark is on the disk and nothing has ended yet.
        std::fs::write(crate::folder(&node, "paused"), "1700000000\n").expect("the mark");
        node.start();
        let told = reaches(&node, "paused");
        assert!(
            told["detail"].to_string().contains("2023-11-14T22:13:20Z"),
            "{told}"
        );
        all_gone(SOON);
        asked(&node, "resume");
        until(SOON, "k3s starts again", || starts(&node) == 2);
        reaches(&node, "ready");
        assert!(node.stop(SOON).success(), "{}", node.log());
    });
}

#[test]
fn an_uninstall_of_a_node_with_k3s_leaves_what_is_to_be_kept_alone() {
    isolated(|| {
        let (lab, mut node) = server();
        let before = Inventory::of(node.home());
        node.start();
        reaches(&node, "ready");
        let shared = node.recipe.storage.join(".hepto/k3s");
        until(
            SOON,
            "k3s is kept where all nodes of the storage have it",
            || shared.is_dir(),
        );
        let data = crate::folder(&node, "rancher").join("storage");
        std::fs::create_dir_all(&data).expect("k3s's folder");
        std::fs::write(data.join("precious"), "data").expect("a file");
        let data = data.to_str().expect("plain text").to_owned();
        let show = node.ask(&["uninstall", "--purge", "--dry-run"]);
        assert!(show.status.success());
        assert!(node.status().is_ok(), "it still runs");
        let refused = node.ask(&["uninstall", "--purge"]);
        assert_eq!(refused.status.code(), Some(2), "nobody was asked");
        let done = node.ask(&["uninstall", "--purge", "--yes", "--keep-data", &data]);
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{said}");
        assert!(node.end(SOON).success());
        all_gone(SOON);
        assert_eq!(
            Inventory::of(node.home()).more_than(&before),
            Vec::<String>::new()
        );
        let mut left = Vec::new();
        everything(&node.recipe.storage, &mut left);
        assert_eq!(left, [format!("{data}/precious")]);
        let mut beside = Vec::new();
        everything(&lab.directory, &mut beside);
        let name = |path: &String| path.rsplit('/').next().unwrap_or_default().to_owned();
        let others: Vec<String> = beside.iter().map(name).collect();
        // The test's own log; config, note and keys are gone.
        assert!(
            others
                .iter()
                .all(|name| name.ends_with(".log") || name == "precious"),
            "{others:?}"
        );
    });
}

/// Every file below a folder.
fn everything(folder: &std::path::Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => everything(&entry.path(), found),
            _ => found.push(entry.path().display().to_string()),
        }
    }
}
