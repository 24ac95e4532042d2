//! Random lives of random clusters: whatever happens, once it is quiet everyone reaches everyone.

use std::collections::BTreeSet;

use crate::seeds;
use crate::world::{World, seconds};

fn life(seed: u64, traced: bool) -> World {
    let mut world = World::cluster(seed, 0, 0);
    world.traced = traced;
    let number = 4 + world.below(7) as usize;
    let anchors = 1 + world.below(3) as usize;
    let addresses: Vec<_> = (0..anchors).map(World::address).collect();
    for node in 0..number {
        let settings = world.settings(&format!("n{node}"), &addresses);
        world.add(settings);
    }
    world.loss = world.below(200);
    let slowest = 5 + u64::from(world.below(150));
    world.latency = (1, slowest);
    for node in 0..number {
        world.boot(node);
        let pause = u64::from(world.below(3));
        world.pass(seconds(pause));
    }
    for _ in 0..12 {
        let pause = u64::from(world.below(40));
        world.pass(seconds(pause));
        let node = world.below(u32::try_from(number).expect("few")) as usize;
        match world.below(4) {
            0 => world.nodes[node].cut_until = world.now + seconds(10 * (seed % 20)),
            1 if world.nodes[node].core.is_some() => world.kill(node),
            2 if node >= anchors => {
                let address = std::net::Ipv4Addr::from(0x2800_0000 + world.below(1 << 16));
                world.readdress(node, vec![address.into()]);
            }
            _ if world.nodes[node].core.is_none() => world.boot(node),
            _ => {}
        }
    }
    world
}

fn quiet(world: &mut World) {
    world.loss = 0;
    for node in 0..world.nodes.len() {
        world.nodes[node].cut_until = world.now;
        if world.nodes[node].core.is_none() {
            world.boot(node);
        }
    }
}

#[test]
fn whatever_happens_everyone_is_back_when_it_is_quiet() {
    seeds(6, |seed| {
        let mut world = life(seed, false);
        quiet(&mut world);
        let all = world.running();
        world.within(seconds(30), "all connected", |world| {
            world.all_connected(&all)
        });
        world.pass(seconds(40));
        assert!(world.all_connected(&all), "and they stay so");
        for node in &all {
            let it = &world.nodes[*node];
            assert_eq!(it.hosts.len(), all.len(), "hosts of n{node}");
            let distinct: BTreeSet<_> = it.hosts.values().flatten().collect();
            assert_eq!(distinct.len(), 2 * all.len(), "addresses are distinct");
            assert_eq!(it.hosts, world.nodes[0].hosts, "all agree");
            let report = it.report(world.now);
            assert_eq!(
                (report.counters.records_bad, report.counters.malformed),
                (0, 0)
            );
        }
    });
}

#[test]
fn one_seed_gives_one_history() {
    assert_eq!(life(5, true).trace(), life(5, true).trace());
    assert_ne!(life(5, true).trace(), life(6, true).trace());
}

/// A hundred of them take a minute of a CPU: with `HEPTO_SIM_SEEDS` they do it, without it is twenty.
#[test]
fn a_large_cluster_comes_up_and_survives_a_partition() {
    let number = if std::env::var_os("HEPTO_SIM_SEEDS").is_some() {
        100
    } else {
        20
    };
    let mut world = World::cluster(1, number, 3);
    world.loss = 10;
    (0..number).for_each(|node| world.boot(node));
    let all = world.running();
    // Looking at all pairs after each event would take longer than the simulation.
    let sampled = |world: &World| (world.now - world.start).subsec_millis() < 20;
    world.within(seconds(30), "all up", |world| {
        sampled(world) && world.all_connected(&all)
    });
    for node in 0..number / 2 {
        world.nodes[node].cut_until = world.now + seconds(60);
    }
    world.pass(seconds(62));
    world.within(seconds(20), "healed", |world| {
        sampled(world) && world.all_connected(&all)
    });
}
