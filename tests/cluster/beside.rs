//! Two nodes of two clusters on one host: one name, one pod network, one machine.

use std::net::SocketAddr;

use hepto_tests::{Inventory, Node, Recipe};

use crate::PATIENCE;
use crate::cluster::{Cluster, end_of_log, eventually, give_images, ready, soon, with_k3s};
use crate::pods::{self, PORT};
use crate::report::Report;

/// Checks all of it.
pub fn check(report: &mut Report) {
    let mut cluster = Cluster::new(&["mars"]);
    let home = cluster.master().home().clone();
    let before = Inventory::of(&home);
    let recipe = Recipe {
        cluster: format!("{}b", cluster.lab.cluster),
        overlay_key: cluster
            .lab
            .secret("other.key", "An0therKeyAn0therKeyAn0therKey03"),
        anchors: vec!["192.168.77.104".to_owned()],
        ..cluster.lab.recipe(4, "mars")
    };
    let second = cluster
        .lab
        .node(&home, with_k3s(recipe).with("mesh", "port = 51821"));
    give_images(&second);
    cluster.nodes.push(second);
    cluster.nodes.iter_mut().for_each(Node::start);
    for node in &cluster.nodes {
        eventually("both are Ready", || {
            let ready = ready(node)?;
            (ready == ["mars"])
                .then_some(())
                .ok_or_else(|| format!("Ready is {ready:?}\n{}", end_of_log(node)))
        });
        pods::create(node, &[pods::pod("mars", Some(8081))]);
    }
    let lives: Vec<_> = cluster.nodes.iter().map(running).collect();
    report.check(
        "each has its pod, with the same hostPort and nearly the same address",
        || {
            for node in &cluster.nodes {
                for address in pods::addresses(node, "mars")? {
                    let server = SocketAddr::new(address, PORT).to_string();
                    pods::run(node, "mars", &["ask", &server])?;
                }
            }
            Ok(format!(
                "{:?} and {:?}",
                lives[0][0].addresses, lives[1][0].addresses
            ))
        },
    );
    report.check("each sees its own processes and cgroups alone", || {
        for node in &cluster.nodes {
            let seen = pods::serving(node)?;
            if seen != 1 {
                return Err(format!(
                    "{} sees {seen} pods that serve",
                    node.recipe.cluster
                ));
            }
        }
        Ok("one pod each".to_owned())
    });
    let survivor = cluster.nodes.pop().expect("the second");
    report.check(
        "the end of one is none of the other's business: 0 pod restarts",
        || {
            let status = cluster.nodes[0].stop(PATIENCE);
            if !status.success() {
                return Err(cluster.nodes[0].log());
            }
            soon(PATIENCE, || {
                let now = pods::lives(&survivor)?;
                (now == lives[1])
                    .then_some(())
                    .ok_or_else(|| format!("{now:?}"))
            })?;
            pods::run(&survivor, "mars", &["echo", "127.0.0.1"])
        },
    );
    let mut survivor = survivor;
    report.check("after the end of both nothing is left", || {
        let status = survivor.stop(PATIENCE);
        let left = Inventory::of(&home).more_than(&before);
        (status.success() && left.is_empty())
            .then(|| "exit code 0".to_owned())
            .ok_or_else(|| format!("{status}: {}", left.join("\n")))
    });
}

/// The node's pod, once it runs.
fn running(node: &Node) -> Vec<pods::Life> {
    let ask = || {
        let lives = pods::lives(node)?;
        let runs = lives.iter().all(|life| life.addresses.len() == 2) && lives.len() == 1;
        runs.then_some(lives).ok_or_else(|| end_of_log(node))
    };
    eventually("the pod runs", ask).0
}
