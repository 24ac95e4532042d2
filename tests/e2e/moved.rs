//! A node that was brought up from a snapshot on another machine, and its old machine, powered on again.

use std::fs;
use std::process::Command;
use std::time::Instant;

use hepto_tests::{Node, Recipe, isolated_for};

use crate::{SOON, new_lab, seconds};

#[test]
fn the_old_machine_gives_way_and_does_not_start_again() {
    isolated_for(seconds(180), || {
        let lab = new_lab();
        let mut nodes = lab.nodes(&["mars", "venus", "pluto"]);
        nodes.iter_mut().for_each(Node::start);
        let all: Vec<&Node> = nodes.iter().collect();
        Node::all_meet(&all, Instant::now(), SOON);
        let mut old = nodes.remove(0);
        assert!(old.stop(SOON).success(), "{}", old.log());
        // What `restore` does for a node with k3s.
        let elsewhere = Recipe {
            master: "mars".to_owned(),
            ..lab.recipe(4, "mars")
        };
        fs::create_dir(&elsewhere.storage).expect("a storage");
        let mut copy = Command::new("cp");
        copy.arg("-a")
            .arg(old.recipe.storage.join("mars"))
            .arg(&elsewhere.storage);
        assert!(copy.status().expect("cp").success());
        let note = elsewhere.storage.join("mars/mesh/restored");
        fs::write(note, "1700000000\n").expect("the storage");
        let recipe = old.recipe.clone();
        let home = old.home().clone();
        drop(old);
        let mut new = lab.node(&lab.home(4), elsewhere);
        new.start();
        Node::all_meet(&[&new, &nodes[0], &nodes[1]], Instant::now(), SOON);

        let mut old = lab.node(&home, recipe);
        // A crash before it hears of that: what it leaves is found by its next start, which does not leave it alone.
        lab.street.cut(&home).expect("the line can be cut");
        old.start();
        old.overlay();
        old.crash();
        lab.street.heal(&home).expect("the line can be healed");
        old.start();
        assert_eq!(old.end(2 * SOON).code(), Some(78), "{}", old.log());
        let told = |log: String| log.matches("E-MESH-MOVED").count();
        assert!(
            told(old.log()) >= 1 && old.log().contains("hepto-node uninstall"),
            "{}",
            old.log()
        );
        assert!(old.inside().is_err(), "its namespace is gone");
        let ups = old.log().matches("up: namespace").count();
        old.start();
        assert_eq!(old.end(SOON).code(), Some(78), "{}", old.log());
        assert_eq!(
            old.log().matches("up: namespace").count(),
            ups,
            "it did not come up"
        );

        Node::all_meet(&[&new, &nodes[0], &nodes[1]], Instant::now(), 2 * SOON);
        // Both write into one log.
        let problems = new.status().expect("it runs")["problems"].to_string();
        assert!(!problems.contains("E-MESH-MOVED"), "{problems}");
    });
}
