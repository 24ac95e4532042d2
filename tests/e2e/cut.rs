//! Lines break and come back.

use std::thread;
use std::time::{Duration, Instant};

use hepto_tests::{Echo, Filter, Node, isolated, isolated_for, until, within};

use crate::{SOON, new_lab, seconds};

#[test]
fn a_cut_of_ninety_seconds_heals_within_fifteen_with_both_sides_untouched() {
    isolated_for(seconds(180), || {
        let lab = new_lab();
        let mut nodes = lab.nodes(&["mars", "venus", "pluto"]);
        nodes.iter_mut().for_each(Node::start);
        let all: Vec<&Node> = nodes.iter().collect();
        Node::all_meet(&all, Instant::now(), SOON);
        lab.street
            .cut(nodes[2].home())
            .expect("the line can be cut");
        // The length of the cut is the promise; nothing is awaited here.
        thread::sleep(seconds(90));
        for to in nodes[2].overlay() {
            nodes[0].echo(quick(to)).expect_err("the line is cut");
        }
        Node::all_meet(&all[..2], Instant::now(), SOON);
        lab.street
            .heal(nodes[2].home())
            .expect("the line can be healed");
        Node::all_meet(&all, Instant::now(), seconds(15));
    });
}

#[test]
fn a_pulled_cable_is_noticed_and_its_return_too() {
    isolated(|| {
        let lab = new_lab();
        let mut nodes = lab.nodes(&["mars", "venus"]);
        nodes.iter_mut().for_each(Node::start);
        Node::all_meet(&[&nodes[0], &nodes[1]], Instant::now(), SOON);
        let uplink = || {
            nodes[1]
                .status()
                .map(|status| status["network"]["uplink"]["state"].clone())
        };
        lab.street
            .carrier(nodes[1].home(), false)
            .expect("the cable can be pulled");
        until(seconds(5), "the node sees its parent down", || {
            uplink().is_ok_and(|state| state == "down")
        });
        lab.street
            .carrier(nodes[1].home(), true)
            .expect("the cable can be put back");
        until(seconds(5), "the node sees its parent up", || {
            uplink().is_ok_and(|state| state == "up")
        });
        Node::all_meet(&[&nodes[0], &nodes[1]], Instant::now(), seconds(15));
    });
}

#[test]
fn an_interface_that_is_absent_is_waited_for() {
    isolated(|| {
        let lab = new_lab();
        let mut nodes = lab.nodes(&["mars", "venus"]);
        nodes[0].start();
        let text = std::fs::read_to_string(&nodes[1].config).expect("its config");
        std::fs::write(&nodes[1].config, text.replace("\"lan0\"", "\"late0\""))
            .expect("its config");
        nodes[1].start();
        let waits = || {
            nodes[1]
                .status()
                .is_ok_and(|status| status["network"]["uplink"]["state"] == "waiting")
        };
        until(SOON, "the node waits for its interface", waits);
        nodes[1].says("late0", SOON);
        nodes[1]
            .home()
            .space()
            .rename("lan0", "late0")
            .expect("the interface appears");
        Node::all_meet(&[&nodes[0], &nodes[1]], Instant::now(), SOON);
    });
}

#[test]
fn two_nodes_that_cannot_hear_one_another_keep_the_third() {
    isolated(|| {
        let lab = new_lab();
        let mut nodes = lab.nodes(&["mars", "venus", "pluto"]);
        nodes.iter_mut().for_each(Node::start);
        let all: Vec<&Node> = nodes.iter().collect();
        Node::all_meet(&all, Instant::now(), SOON);
        let filter = Filter::apart(&lab.street, nodes[1].home(), nodes[2].home());
        let [_, to] = nodes[2].overlay();
        nodes[1].echo(quick(to)).expect_err("the line is cut");
        within(SOON, "the others' line is whole", || {
            nodes[0].echo(quick(to))
        });
        drop(filter);
        within(seconds(15), "they hear one another again", || {
            nodes[1].echo(quick(to))
        });
    });
}

fn quick(to: std::net::IpAddr) -> Echo {
    Echo {
        patience: Duration::from_millis(500),
        ..Echo::new(to)
    }
}
