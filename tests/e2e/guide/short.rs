//! The guides of one page: a node is added, a box is replaced, one machine has two nodes.

use hepto_tests::{isolated_for, until};

use super::friend::{Friend, internet};
use super::page::{ADD_A_NODE, FIRST_CLUSTER, REPLACE_A_BOX, SEVERAL_NODES, blocks};
use crate::seconds;

/// What the guide of the first cluster prepares.
struct Prepared {
    config: String,
    agent_line: String,
}

/// The program on each machine, and all keys on the first.
fn prepare(friends: &[&Friend]) -> Prepared {
    let blocks: [String; 20] = blocks(FIRST_CLUSTER);
    let [install, _version, keys, _default, config, agent_line, ..] = blocks;
    for friend in friends {
        friend.install(&install);
    }
    friends[0].walk(&keys);
    Prepared { config, agent_line }
}

/// Gives an agent its keys and its config.
fn equip(friend: &Friend, master: &Friend, prepared: &Prepared) {
    friend.take_key(master, "acides.overlay.key");
    friend.take_key(master, "acides.agent.key");
    friend.fill_in(&prepared.config, &prepared.agent_line);
}

fn await_reachable(friends: &[&Friend], count: usize) {
    let words = format!("{count} of {count} nodes reachable");
    for friend in friends {
        until(seconds(60), &words, || {
            friend.walk("hepto-node status").contains(&words)
        });
    }
}

fn stop(friends: &[&Friend]) {
    for friend in friends {
        friend.walk("hepto-node stop");
    }
}

#[test]
fn a_node_is_added_and_a_box_replaced_as_the_guides_say() {
    isolated_for(seconds(120), || {
        let internet = internet();
        let [mut grumpy, sleepy, bashful] = [("grumpy", 1), ("sleepy", 2), ("bashful", 3)]
            .map(|(name, number)| Friend::new(name, number, &internet));
        let prepared = prepare(&[&grumpy, &sleepy, &bashful]);
        grumpy.fill_in(&prepared.config, "");
        equip(&sleepy, &grumpy, &prepared);
        for friend in [&grumpy, &sleepy] {
            friend.open_port();
            friend.walk(&format!(
                "systemctl enable --now hepto-node@{}",
                friend.name
            ));
            friend.await_up();
        }
        await_reachable(&[&grumpy, &sleepy], 2);

        let [derive, start] = blocks(ADD_A_NODE);
        grumpy.walk(&format!(
            "mv /etc/hepto/acides.agent.key /srv/before; {derive} cmp /etc/hepto/acides.agent.key /srv/before"
        ));
        equip(&bashful, &grumpy, &prepared);
        bashful.walk(&start);
        await_reachable(&[&grumpy, &sleepy, &bashful], 3);

        let [apply] = blocks(REPLACE_A_BOX);
        grumpy.replace_box(9, &internet);
        grumpy.walk(
            "sed -i 's/2001:db8:1::10\\/64/2001:db8:9::10\\/64/; s/192\\.168\\.1\\./192.168.9./g' /etc/hepto/grumpy.toml",
        );
        let said = grumpy.walk(&apply);
        assert!(
            said.contains("2001:db8:9::10/64, 192.168.9.123/24"),
            "{said}"
        );
        await_reachable(&[&grumpy, &sleepy, &bashful], 3);
        for friend in [&sleepy, &bashful] {
            until(seconds(60), "the others know where it is", || {
                friend
                    .walk("hepto-node peers")
                    .contains("[2001:db8:9::10]:51820")
            });
        }
        stop(&[&grumpy, &sleepy, &bashful]);
    });
}

#[test]
fn two_nodes_live_on_one_machine_as_the_guide_says() {
    isolated_for(seconds(90), || {
        let internet = internet();
        let home = Friend::new("grumpy", 1, &internet);
        let prepared = prepare(&[&home]);
        home.fill_in(&prepared.config, "");
        home.walk(
            "sed -e 's/name = \"grumpy\"/name = \"sleepy\"/' -e 's/1::10\\/64/1::11\\/64/' -e 's/1\\.123/1.124/' \
             -e 's/^cluster_key_file.*/agent_key_file = \"\\/etc\\/hepto\\/acides.agent.key\"/' \
             /etc/hepto/grumpy.toml >/etc/hepto/sleepy.toml",
        );
        let [start, ask] = blocks(SEVERAL_NODES);
        home.walk(&start);
        home.await_up();
        until(seconds(60), "each reaches the other", || {
            ["grumpy", "sleepy"].iter().all(|name| {
                let status = home.walk(&format!("hepto-node status --node {name} || true"));
                status.contains("2 of 2 nodes reachable")
            })
        });
        let said = home.walk(&ask);
        assert!(said.starts_with("sleepy (agent) of acides"), "{said}");
        let left = home.walk("hepto-node status");
        assert!(left.starts_with("grumpy (master) of acides"), "{left}");
        stop(&[&home]);
    });
}
