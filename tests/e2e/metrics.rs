//! Metrics: over the socket and the port, and whoever reads them slowly.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hepto_tests::{Node, isolated, until};

use crate::{SOON, new_lab, seconds};

const LISTEN: &str = "127.0.0.1:9586";
const REQUEST: &str = "GET /metrics HTTP/1.1\r\nHost: node\r\nAccept: */*\r\n\r\n";

fn socket(node: &Node) -> PathBuf {
    let recipe = &node.recipe;
    format!("/run/hepto/{}.{}/metrics.sock", recipe.cluster, recipe.name).into()
}

/// Sends a request in the node's home, over TCP or else over the socket, and gives head and body.
fn ask(node: &Node, tcp: bool, request: &str) -> Option<(String, String)> {
    let (path, request) = (socket(node), request.to_owned());
    let talk = move || {
        let mut text = String::new();
        if tcp {
            let mut stream = TcpStream::connect(LISTEN).ok()?;
            stream.set_read_timeout(Some(seconds(20))).ok()?;
            stream.write_all(request.as_bytes()).ok()?;
            stream.read_to_string(&mut text).ok()?;
        } else {
            let mut stream = UnixStream::connect(path).ok()?;
            stream.set_read_timeout(Some(seconds(20))).ok()?;
            stream.write_all(request.as_bytes()).ok()?;
            stream.read_to_string(&mut text).ok()?;
        }
        let (head, body) = text.split_once("\r\n\r\n")?;
        Some((head.to_owned(), body.to_owned()))
    };
    node.home().space().run(talk).expect("the home lives")
}

/// The names of the samples in the text.
fn names(body: &str) -> BTreeSet<String> {
    let samples = body.lines().filter(|line| !line.starts_with('#'));
    samples
        .filter_map(|line| line.split(['{', ' ']).next())
        .map(str::to_owned)
        .collect()
}

fn documented() -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/metrics.md");
    let text = std::fs::read_to_string(path).expect("the reference");
    let rows = text.lines().filter(|line| line.starts_with("| `hepto_"));
    rows.filter_map(|row| row.split('`').nth(1))
        .map(str::to_owned)
        .collect()
}

#[test]
fn socket_and_port_say_what_the_reference_lists() {
    isolated(|| {
        let lab = new_lab();
        let home = [lab.home(1), lab.home(2)];
        let listen = format!("listen = {LISTEN:?}");
        let mut nodes = [
            lab.node(&home[0], lab.recipe(1, "mars").with("metrics", &listen)),
            lab.node(&home[1], lab.recipe(2, "venus")),
        ];
        nodes.iter_mut().for_each(Node::start);
        Node::all_meet(&[&nodes[0], &nodes[1]], Instant::now(), SOON);
        for tcp in [false, true] {
            let (head, body) = ask(&nodes[0], tcp, REQUEST).expect("an answer");
            assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
            assert!(
                head.contains("Content-Type: application/openmetrics-text; version=1.0.0"),
                "{head}"
            );
            assert!(body.ends_with("\n# EOF\n"), "{body}");
            let (names, documented) = (names(&body), documented());
            let unknown: Vec<_> = names.difference(&documented).collect();
            assert!(
                unknown.is_empty() && names.len() > 12,
                "{unknown:?} of {names:?}"
            );
            for line in [
                "hepto_node_ready 1",
                "hepto_mesh_reachable 2",
                "hepto_peer_session{peer=\"venus\"} 1",
            ] {
                assert!(body.lines().any(|found| found == line), "{line}: {body}");
            }
            for (request, answer) in [
                ("GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 404 "),
                ("POST /metrics HTTP/1.1\r\n\r\n", "HTTP/1.1 405 "),
                ("hello\r\n\r\n", "HTTP/1.1 400 "),
            ] {
                let (head, body) = ask(&nodes[0], tcp, request).expect("an answer");
                assert!(
                    head.starts_with(answer) && body.is_empty(),
                    "{request}: {head}"
                );
            }
        }
        let path = socket(&nodes[0]);
        let mode = nodes[0]
            .home()
            .space()
            .run(move || std::fs::metadata(path).map(|data| data.permissions().mode()));
        assert_eq!(
            mode.expect("the home lives").expect("a socket") & 0o777,
            0o600
        );
        assert!(
            ask(&nodes[1], true, REQUEST).is_none(),
            "no port unless it is asked for"
        );
        for node in &mut nodes {
            assert!(node.stop(SOON).success());
        }
    });
}

#[test]
fn a_slow_reader_and_a_taken_port_hurt_nobody() {
    isolated(|| {
        let lab = new_lab();
        let home = lab.home(1);
        let listen = format!("listen = {LISTEN:?}");
        let mut node = lab.node(&home, lab.recipe(1, "mars").with("metrics", &listen));
        let taken = home.space().run(|| TcpListener::bind(LISTEN));
        let taken = taken.expect("the home lives").expect("the port is free");
        node.start();
        node.says("W-METRICS-LISTEN", SOON);
        node.says("a port of its own in metrics.listen", SOON);
        until(SOON, "mars runs", || node.status().is_ok());
        drop(taken);
        until(seconds(40), "the port is had when it is free", || {
            ask(&node, true, REQUEST).is_some()
        });

        let connect = || {
            home.space()
                .run(|| TcpStream::connect(LISTEN))
                .expect("the home lives")
                .expect("a connection")
        };
        let start = Instant::now();
        // All places are taken by who never ends a request.
        let mut slow: Vec<TcpStream> = (0..8).map(|_| connect()).collect();
        for stream in &mut slow {
            stream.write_all(b"GET /metrics HT").expect("there is room");
        }
        assert!(node.status().is_ok(), "the node itself does not wait");
        assert!(ask(&node, false, REQUEST).is_some(), "nor does the socket");
        let answer = ask(&node, true, REQUEST);
        assert!(
            answer.is_some(),
            "a place is free when the slow are cut off"
        );
        assert!(
            start.elapsed() >= Duration::from_secs(4),
            "they had theirs until then"
        );
        let mut rest = Vec::new();
        slow[0]
            .set_read_timeout(Some(seconds(30)))
            .expect("a timeout");
        // Cut off: an end, or a reset.
        let ended = slow[0].read_to_end(&mut rest);
        assert!(
            rest.is_empty()
                && !ended.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
        );
        assert!(node.stop(SOON).success());
    });
}

/// Another node of a home wants the same port, and gets one of its own by a reload.
#[test]
fn a_reload_takes_up_another_port_and_a_taken_one_is_named() {
    isolated(|| {
        let lab = new_lab();
        let home = lab.home(1);
        let listen = |port: u16| format!("listen = \"127.0.0.1:{port}\"");
        let mut mars = lab.node(&home, lab.recipe(1, "mars").with("metrics", &listen(9586)));
        mars.start();
        until(SOON, "mars has the port", || {
            ask(&mars, true, REQUEST).is_some()
        });
        let text = std::fs::read_to_string(&mars.config).expect("its config");
        std::fs::write(&mars.config, text.replace("9586", "9587")).expect("its config");
        let taken = home.space().run(|| TcpListener::bind("127.0.0.1:9587"));
        let taken = taken.expect("the home lives").expect("the port is free");
        let output = mars.ask(&["reload", "--wait"]);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        until(SOON, "the port that was left is free", || {
            ask(&mars, true, REQUEST).is_none()
        });

        let problems = || {
            mars.status()
                .map_or_else(|_| "null".into(), |status| status["problems"].to_string())
        };
        until(SOON, "the taken port is named", || {
            let problems = problems();
            problems.contains("W-METRICS-LISTEN") && problems.contains("127.0.0.1:9587")
        });
        drop(taken);
        until(
            seconds(40),
            "the port is had when it is free, and the problem is over",
            || problems() == "[]",
        );
        let answers = || {
            let talk = || TcpStream::connect("127.0.0.1:9587").is_ok();
            home.space().run(talk).expect("the home lives")
        };
        assert!(answers());
        assert!(mars.stop(SOON).success());
    });
}
