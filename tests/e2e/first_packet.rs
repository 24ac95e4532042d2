//! How soon two nodes that have never met can talk.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hepto_tests::{Capture, Node, Recipe, SlowLine, isolated, within};

use crate::{SOON, new_lab, seconds};

const PORT: u16 = 9;
/// An address of the homes' network at which nobody is.
const DEAD: &str = "192.168.77.250:51820";

#[test]
fn a_first_packet_arrives_within_four_round_trips() {
    isolated(|| {
        let lab = new_lab();
        let mut nodes = lab.nodes(&["mars", "venus", "pluto", "earth"]);
        let delay = Duration::from_millis(150);
        let (first, rest) = nodes.split_at_mut(1);
        first[0].start();
        let quickest = quickest(rest, |node| {
            SlowLine::lay(&lab.street, node.home(), delay);
            let line = Capture::of(node.home());
            let arrived = first_arrival(&first[0], node).0;
            let ours = node.recipe.uplink;
            let hello = line.first(SOON, "it speaks", |seen| {
                ours.contains(&seen.from.ip()) && seen.to.port() == 51820
            });
            arrived - hello.at
        });
        // A tenth of the promise is for this machine's own delays.
        assert!(
            quickest <= delay * 8 * 11 / 10,
            "{quickest:?} for a round trip of {:?}",
            delay * 2
        );
    });
}

#[test]
fn a_first_packet_arrives_within_a_second_of_the_last_start() {
    isolated(|| {
        let lab = new_lab();
        let mut nodes = lab.nodes(&["mars", "venus", "pluto", "earth"]);
        let (first, rest) = nodes.split_at_mut(1);
        first[0].start();
        let quickest = quickest(rest, |node| first_arrival(&first[0], node).1);
        assert!(quickest <= seconds(1), "{quickest:?}");
    });
}

#[test]
fn a_dead_first_endpoint_costs_no_more() {
    isolated(|| {
        let lab = new_lab();
        let master = |recipe: Recipe| Recipe {
            master: "mars".to_owned(),
            ..recipe
        };
        // Both ways to hear of a dead endpoint: an anchor of one's own, and another's record.
        let mars = lab
            .recipe(1, "mars")
            .with("mesh", &format!("endpoints = [{DEAD:?}]"));
        let venus = lab.recipe(2, "venus");
        let second = venus.uplink[0].to_string();
        let late = [(3, "pluto"), (4, "earth"), (5, "saturn")];
        let mut mars = lab.node(&lab.home(1), mars);
        let mut venus = lab.node(&lab.home(2), master(venus));
        let mut late = late.map(|(number, name)| {
            let recipe = Recipe {
                anchors: vec![DEAD.to_owned(), second.clone()],
                ..lab.recipe(number, name)
            };
            lab.node(&lab.home(number), master(recipe))
        });
        mars.start();
        venus.start();
        Node::all_meet(&[&mars, &venus], Instant::now(), SOON);
        let quickest = quickest(&mut late, |node| first_arrival(&mars, node).1);
        assert!(quickest <= seconds(1), "{quickest:?}");
    });
}

/// What the quickest of some nodes needs, each of which has never met anyone: a moment in which the whole machine stands
/// still is none of a node's.
fn quickest(nodes: &mut [Node], needs: impl Fn(&mut Node) -> Duration) -> Duration {
    let times: Vec<Duration> = nodes.iter_mut().map(needs).collect();
    println!("{times:?}");
    times.into_iter().min().expect("some nodes")
}

/// Starts the second node, which sends to the first all the time: when the first packet arrived, and
/// how long after the start that was.
fn first_arrival(to: &Node, from: &mut Node) -> (Instant, Duration) {
    let [_, address] = to.overlay();
    let inside = to.inside().expect("it runs");
    let receiver = inside
        .run(|| UdpSocket::bind(SocketAddr::new(address, PORT)))
        .expect("the node lives")
        .expect("its address");
    receiver
        .set_read_timeout(Some(SOON))
        .expect("a socket option");
    let over = AtomicBool::new(false);
    from.start();
    let start = Instant::now();
    let from = &*from;
    thread::scope(|scope| {
        scope.spawn(|| send(from, SocketAddr::new(address, PORT), &over));
        let received = receiver.recv(&mut [0; 16]);
        let arrived = Instant::now();
        over.store(true, Ordering::Relaxed);
        received.expect("a packet arrives");
        (arrived, arrived - start)
    })
}

/// Sends all the time, from the moment in which the node has a network.
fn send(from: &Node, to: SocketAddr, over: &AtomicBool) {
    let (inside, _) = within(SOON, "the node has a network", || from.inside());
    let repeat = || {
        let socket = UdpSocket::bind("[::]:0").expect("a socket");
        while !over.load(Ordering::Relaxed) {
            // Refused until the node has its address; what is sent too early is lost.
            socket.send_to(b"first", to).ok();
            thread::sleep(Duration::from_millis(2));
        }
    };
    inside.run(repeat).expect("the node lives");
}
