//! Several nodes on one host.

use std::time::Instant;

use hepto_tests::{Node, Recipe, isolated};

use crate::{SOON, new_lab};

#[test]
fn two_nodes_of_one_cluster_run_on_one_host() {
    isolated(|| {
        let lab = new_lab();
        let home = lab.home(1);
        let second = Recipe {
            master: "mars".to_owned(),
            ..lab.recipe(2, "venus")
        }
        .with("mesh", "port = 51821");
        let mut nodes = [
            lab.node(&home, lab.recipe(1, "mars")),
            lab.node(&home, second),
        ];
        nodes.iter_mut().for_each(Node::start);
        Node::all_meet(&[&nodes[0], &nodes[1]], Instant::now(), SOON);
        assert!(nodes[0].stop(SOON).success());
        nodes[1].overlay();
    });
}

#[test]
fn two_nodes_of_one_name_in_two_clusters_run_on_one_host() {
    isolated(|| {
        let lab = new_lab();
        let homes = [lab.home(1), lab.home(2)];
        let other = format!("{}b", lab.cluster);
        let key = lab.secret("other.key", "An0therKeyAn0therKeyAn0therKey03");
        let in_other = |number, name: &str| Recipe {
            cluster: other.clone(),
            master: "mars".to_owned(),
            overlay_key: key.clone(),
            anchors: vec!["192.168.77.103".to_owned()],
            ..lab.recipe(number, name)
        };
        let here = |number, name: &str| Recipe {
            master: "mars".to_owned(),
            ..lab.recipe(number, name)
        };
        let mut nodes = [
            lab.node(&homes[0], here(1, "mars")),
            lab.node(&homes[1], here(2, "venus")),
            lab.node(&homes[0], in_other(3, "mars")),
            lab.node(&homes[1], in_other(4, "venus")),
        ];
        nodes.iter_mut().for_each(Node::start);
        Node::all_meet(&[&nodes[0], &nodes[1]], Instant::now(), SOON);
        Node::all_meet(&[&nodes[2], &nodes[3]], Instant::now(), SOON);
        for node in &nodes {
            assert_eq!(
                node.peers().expect("it runs").len(),
                1,
                "the clusters do not mix"
            );
        }
    });
}
