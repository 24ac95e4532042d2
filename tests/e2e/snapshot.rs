//! The port on which nodes take the master's snapshots: the master's alone.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use hepto_tests::{Node, Space, isolated, until};

use crate::barrage::pod;
use crate::{SOON, new_lab};

const PORT: u16 = 7948;
/// Long enough for an answer on one machine; a dropped packet costs this.
const SILENCE: Duration = Duration::from_millis(700);

/// An offer as the master makes it; whoever takes it answers `{"from":0}`.
const OFFER: &str = "{\"version\":1,\"name\":\"mars-20261124T170020Z.age\",\"size\":10,\"digest\":\
    \"0000000000000000000000000000000000000000000000000000000000000000\"}\n";

/// What is said to an offer; `None` where nothing at all answers within `patience`.
fn answer(from: &Space, to: SocketAddr, patience: Duration) -> Option<String> {
    let offer = move || {
        let mut stream = match TcpStream::connect_timeout(&to, patience) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                panic!("{to} is not filtered")
            }
            Err(_) => return None,
            Ok(stream) => stream,
        };
        stream
            .set_read_timeout(Some(SILENCE * 4))
            .expect("a socket");
        let mut said = String::new();
        // Who hangs up at once may be quicker than our offer.
        let _ = stream.write_all(OFFER.as_bytes());
        let _ = stream.read_to_string(&mut said);
        Some(said)
    };
    from.run(offer).expect("the namespace lives")
}

#[test]
fn only_the_master_brings_snapshots_and_no_stranger_reaches_the_port() {
    isolated(|| {
        let lab = new_lab();
        let mut nodes = lab.nodes(&["mars", "venus", "pluto"]);
        nodes.iter_mut().for_each(Node::start);
        Node::all_meet(&nodes.iter().collect::<Vec<_>>(), Instant::now(), SOON);
        let [ipv4, ipv6] = nodes[1].overlay();
        let venus = SocketAddr::new(ipv6, PORT);
        let inside = |node: &Node| node.inside().expect("it runs");

        // The master is heard: the offer's digest is of no ten bytes that follow, so it is asked for them.
        until(SOON, "venus takes the master's offer", || {
            answer(&inside(&nodes[0]), venus, SOON)
                .is_some_and(|said| said.starts_with("{\"from\":0}"))
        });
        let member = answer(&inside(&nodes[2]), venus, SOON);
        assert_eq!(member.as_deref(), Some(""), "another member is hung up on");
        let strangers = || {
            let status = nodes[1].status().unwrap_or_default();
            status["snapshot"]["strangers"].as_u64()
        };
        until(SOON, "and counted", || strangers() == Some(1));

        let pod = pod(&nodes[0]);
        assert_eq!(
            answer(&pod, SocketAddr::new(ipv4, PORT), SILENCE),
            None,
            "a pod of the master's"
        );
        let neighbour = lab.home(9);
        let [lan4, lan6]: [IpAddr; 2] = nodes[1].recipe.uplink;
        for address in [lan4, lan6] {
            let to = SocketAddr::new(address, PORT);
            assert_eq!(
                answer(neighbour.space(), to, SILENCE),
                None,
                "a neighbour on the LAN"
            );
        }
        assert_eq!(
            strangers(),
            Some(1),
            "none of these came as far as the port"
        );
        let kept = nodes[1].status().expect("it runs")["snapshot"]["kept"].clone();
        assert_eq!(kept, 0);
    });
}
