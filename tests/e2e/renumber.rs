//! A node that takes its address from the router.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::Instant;

use hepto_tests::{Lab, Node, isolated_for, within};
use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket, sockopt};

use crate::{SOON, new_lab, seconds};

const STREET: &str = "street";

#[test]
fn a_changed_prefix_is_followed_and_a_stream_goes_on() {
    isolated_for(seconds(120), || {
        let lab = new_lab();
        let mut nodes = lab.nodes(&["mars", "venus"]);
        automatic(&nodes[1]);
        ip(&lab, "-6 address add 2001:db8:a::1/64 dev street nodad");
        in_street(&lab, || {
            fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")
        })
        .expect("a router");
        nodes.iter_mut().for_each(Node::start);
        let first = given(&lab, &nodes[1], "2001:db8:a::");
        Node::all_meet(&[&nodes[0], &nodes[1]], Instant::now(), SOON);

        let at = SocketAddr::new(nodes[0].overlay()[1], 4711);
        let mars = nodes[0].inside().expect("it runs");
        let listener = mars
            .run(|| TcpListener::bind(at))
            .expect("a thread")
            .expect("a port");
        let echo = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut byte = [0];
            while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
        });
        let venus = nodes[1].inside().expect("it runs");
        let mut stream = venus
            .run(|| TcpStream::connect(at))
            .expect("a thread")
            .expect("a connection");
        stream.set_read_timeout(Some(SOON)).expect("a timeout");
        let mut ask = |byte: u8| {
            let mut answer = [0];
            stream.write_all(&[byte]).expect("the stream goes on");
            stream.read_exact(&mut answer).expect("the stream goes on");
            assert_eq!(answer, [byte]);
        };
        ask(1);

        // The provider gives another prefix; packets to the old one lead nowhere.
        ip(&lab, "-6 address add 2001:db8:b::1/64 dev street nodad");
        ip(&lab, "-6 address del 2001:db8:a::1/64 dev street");
        announce(&lab, "2001:db8:a::", 0);
        let second = given(&lab, &nodes[1], "2001:db8:b::");
        assert_eq!(
            first.segments()[4..],
            second.segments()[4..],
            "the identifier stays"
        );
        ask(2);
        within(SOON, "mars knows the new address", || {
            let endpoint = nodes[0].peers()?[0]["endpoint"].to_string();
            endpoint
                .contains(&second.to_string())
                .then_some(())
                .ok_or(endpoint)
        });
        drop(stream);
        echo.join().expect("the echo ends");

        assert!(nodes[1].stop(SOON).success());
        nodes[1].start();
        assert_eq!(
            given(&lab, &nodes[1], "2001:db8:b::"),
            second,
            "over a restart, too"
        );
    });
}

#[test]
fn a_router_that_gives_nothing_is_named_until_it_does() {
    isolated_for(seconds(120), || {
        let lab = new_lab();
        let mut nodes = lab.nodes(&["mars", "venus"]);
        automatic(&nodes[1]);
        nodes[1].start();
        let named = || -> Result<bool, String> {
            let status = nodes[1].status()?;
            let problems = status["problems"].as_array().cloned().unwrap_or_default();
            Ok(problems
                .iter()
                .any(|problem| problem["code"] == "W-NET-AUTO"))
        };
        assert!(
            !within(SOON, "it runs", named).0,
            "a router has ten seconds"
        );
        within(2 * SOON, "the router is named", || {
            named()?.then_some(()).ok_or_else(|| nodes[1].log())
        });
        given(&lab, &nodes[1], "2001:db8:a::");
        assert_eq!(named(), Ok(false), "it gives an address now");
    });
}

/// Has the node take what the router gives, and nothing else.
fn automatic(node: &Node) {
    let text = fs::read_to_string(&node.config).expect("its config");
    let lines = text
        .lines()
        .filter_map(|line| match line.split(' ').next() {
            Some("addresses") => Some("addresses = \"auto\""),
            Some("gateways") => None,
            Some("dns") => Some("dns = [\"2001:db8:77::fe\"]"),
            _ => Some(line),
        });
    let text: Vec<&str> = lines.collect();
    fs::write(&node.config, text.join("\n")).expect("its config");
}

/// Announces the prefix until the node shows its one address in it.
fn given(lab: &Lab, node: &Node, prefix: &str) -> Ipv6Addr {
    within(SOON, &format!("an address in {prefix}"), || {
        announce(lab, prefix, 3600);
        let shown = node.status()?["network"]["addresses"].clone();
        match shown.as_array().map(Vec::as_slice) {
            Some([one]) => {
                let text = one.as_str().unwrap_or_default();
                let net = text
                    .strip_suffix("/64")
                    .filter(|text| text.starts_with(prefix.trim_end_matches(':')));
                net.and_then(|net| net.parse().ok())
                    .ok_or(shown.to_string())
            }
            _ => Err(shown.to_string()),
        }
    })
    .0
}

/// The street's router advertises a prefix of 64 bits (RFC 4861 §4.2), preferred for so many seconds.
fn announce(lab: &Lab, prefix: &str, lifetime: u32) {
    let prefix: Ipv6Addr = prefix.parse().expect("an address");
    let mut message = vec![134, 0, 0, 0, 64, 0, 7, 8];
    message.extend([0; 8]);
    message.extend([3, 4, 64, 0b1100_0000]);
    message.extend(lifetime.to_be_bytes());
    message.extend(lifetime.to_be_bytes());
    message.extend([0; 4]);
    message.extend(prefix.octets());
    let send = || {
        let raw = socket(AddressFamily::INET6, SocketType::RAW, Some(ipproto::ICMPV6))?;
        sockopt::set_ipv6_multicast_hops(&raw, 255)?;
        let index = rustix::net::netdevice::name_to_index(&raw, STREET)?;
        let all = SocketAddrV6::new(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), 0, 0, index);
        sendto(&raw, &message, SendFlags::empty(), &all)
    };
    in_street(lab, send).expect("an advertisement");
}

fn in_street<T: Send>(lab: &Lab, work: impl FnOnce() -> T + Send) -> T {
    lab.street.space().run(work).expect("the street")
}

fn ip(lab: &Lab, words: &str) {
    let mut command = Command::new("ip");
    command.args(words.split(' '));
    let child = lab
        .street
        .space()
        .spawn(&mut command)
        .expect("ip, of iproute2");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "ip {words}");
}
