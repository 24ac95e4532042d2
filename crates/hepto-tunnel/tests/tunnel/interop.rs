//! Another implementation at the other end: Debian's wireguard-go, set up by wireguard-tools. Needs root, iproute2 and
//! those two.

use std::io::{BufRead, BufReader, Write};
use std::net::UdpSocket;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::home::{Home, MTU, Node, PSK, SOON, homes, private, public, receive, wait};

/// wireguard-go keeps its socket at a fixed place, so it gets a `/run` of its own; it ends when its standard input does.
const SCRIPT: &str = r#"
set -e
mount -t tmpfs tmpfs /run
mkdir -p /run/wireguard
wireguard-go -f hepto0 >/run/log 2>&1 &
for _ in $(seq 200); do [ -S /run/wireguard/hepto0.sock ] && break; sleep 0.05; done
while read -r line; do
  case "$line" in
    show) wg show hepto0 latest-handshakes; echo . ;;
    *) eval "$line" && echo . ;;
  esac
done
"#;

/// A wireguard-go in a home, with the addresses of number 2 of a pair.
struct Foreign {
    home: Home,
    child: Child,
    answers: BufReader<std::process::ChildStdout>,
}

impl Foreign {
    fn start(home: Home) -> Foreign {
        home.ip("addr add 192.0.2.2/24 dev wire");
        home.ip("addr add 2001:db8::2/64 dev wire nodad");
        home.ip("link set wire up");
        let mut child = home.run(|| {
            Command::new("unshare")
                .args([
                    "--mount",
                    "--pid",
                    "--fork",
                    "--kill-child",
                    "sh",
                    "-c",
                    SCRIPT,
                ])
                .env("WG_I_PREFER_BUGGY_USERSPACE_TO_POLISHED_KMOD", "1")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("util-linux is installed")
        });
        let answers = BufReader::new(child.stdout.take().expect("piped"));
        let mut foreign = Foreign {
            home,
            child,
            answers,
        };
        let key = |bytes: [u8; 32]| base64(&bytes);
        foreign.tell(&format!(
            "echo {} >/run/private; echo {} >/run/psk",
            key(private(2)),
            key(PSK)
        ));
        foreign.tell(&format!(
            "wg set hepto0 listen-port 51820 private-key /run/private peer {} preshared-key /run/psk \
             allowed-ips 10.44.0.1/32,fd44::1/128",
            key(public(1))
        ));
        foreign.home.ip(&format!("link set hepto0 mtu {MTU} up"));
        foreign.home.ip("addr add 10.44.0.2/16 dev hepto0");
        foreign.home.ip("addr add fd44::2/64 dev hepto0 nodad");
        foreign.home.settle("[fd44::2]:0");
        foreign
    }

    /// Runs a line of shell beside it and returns what it printed.
    fn tell(&mut self, line: &str) -> String {
        let input = self.child.stdin.as_mut().expect("piped");
        writeln!(input, "{line}").expect("the shell lives");
        let mut text = String::new();
        while !text.ends_with(".\n") {
            let read = self
                .answers
                .read_line(&mut text)
                .expect("the shell answers");
            assert!(
                read > 0,
                "`{line}` failed: are wireguard-go and wireguard-tools installed?"
            );
        }
        text
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk
            .iter()
            .fold(0u32, |word, byte| word << 8 | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let letter = LETTERS[(word >> (18 - 6 * place)) as usize & 63];
            text.push(if place <= chunk.len() {
                char::from(letter)
            } else {
                '='
            });
        }
    }
    text
}

fn echo(from: &UdpSocket, to: &UdpSocket, lengths: &[usize]) {
    let mut buffer = vec![0; 2048];
    to.set_read_timeout(Some(Duration::from_secs(5)))
        .expect("a timeout");
    let target = to.local_addr().expect("bound");
    for &length in lengths {
        let payload: Vec<u8> = (0..length).map(|n| (n * 7) as u8).collect();
        from.send_to(&payload, target).expect("sent");
        let (received, _) = receive(to, &mut buffer)
            .unwrap_or_else(|error| panic!("{length} bytes to {target}: {error}"));
        assert_eq!(
            &buffer[..received],
            &payload[..],
            "{length} bytes to {target}"
        );
    }
}

fn talk(node: &Node, foreign: &Foreign) {
    for (near, far, head) in [
        ("10.44.0.1:0", "10.44.0.2:0", 28),
        ("[fd44::1]:0", "[fd44::2]:0", 48),
    ] {
        let (a, b) = (node.home.udp(near), foreign.home.udp(far));
        let lengths = [0, 1, 15, 16, 17, 555, MTU - head - 1, MTU - head];
        echo(&a, &b, &lengths);
        echo(&b, &a, &lengths);
    }
    crate::offload::between(&node.home, &foreign.home);
}

#[test]
fn wireguard_go_answers_our_handshake() {
    for wire in ["192.0.2.2:51820", "[2001:db8::2]:51820"] {
        let (near, far) = homes();
        let (node, foreign) = (Node::start(near, 1, |_| {}), Foreign::start(far));
        node.know(2, PSK);
        node.connect(2, wire);
        talk(&node, &foreign);
    }
}

#[test]
fn we_answer_wireguard_gos_handshake() {
    for wire in ["192.0.2.1:51820", "[2001:db8::1]:51820"] {
        let (near, far) = homes();
        let (node, mut foreign) = (Node::start(near, 1, |_| {}), Foreign::start(far));
        node.know(2, PSK);
        let peer = base64(&public(1));
        foreign.tell(&format!(
            "wg set hepto0 peer {peer} endpoint {wire} persistent-keepalive 1"
        ));
        wait("a session", SOON, || {
            node.report(2).last_handshake.is_some()
        });
        talk(&node, &foreign);
        assert!(
            !foreign.tell("show").contains("\t0\n"),
            "it saw the handshake too"
        );
    }
}
