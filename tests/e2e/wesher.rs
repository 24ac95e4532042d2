//! A cluster that comes from wesher keeps its IPv4 addresses.

use std::net::IpAddr;
use std::time::Instant;

use hepto_tests::{Node, Recipe, isolated};

use crate::{SOON, new_lab};

#[test]
fn nodes_meet_at_the_addresses_that_wesher_gave_their_names() {
    isolated(|| {
        let lab = new_lab();
        let wesher = |number: u8, name: &str| {
            let recipe = Recipe {
                master: "mars".to_owned(),
                ..lab.recipe(number, name)
            };
            let recipe = recipe.with("mesh", "addressing = \"wesher\"");
            lab.node(
                &lab.home(number),
                recipe.with("mesh", "ipv4 = \"10.44.0.0/16\""),
            )
        };
        let mut nodes = [wesher(1, "mars"), wesher(2, "venus")];
        nodes.iter_mut().for_each(Node::start);
        Node::all_meet(&[&nodes[0], &nodes[1]], Instant::now(), SOON);
        // The last two bytes of FNV-1a of 128 bits, computed by another program.
        let expected: [IpAddr; 2] = [[10, 44, 146, 32].into(), [10, 44, 8, 126].into()];
        assert_eq!(nodes.each_ref().map(|node| node.overlay()[0]), expected);
    });
}
