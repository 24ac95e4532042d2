//! The other implementation: which one, how it is started, and how it is asked and told.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::home::{Home, MTU, PSK, private, public};

/// Says which implementation stands at the other end: `wireguard-go` (also when it is not set) or `kernel`.
const VARIABLE: &str = "HEPTO_INTEROP_PEER";

/// Makes the interface, then runs line after line and ends each answer with a dot. wireguard-go keeps its socket at a
/// fixed place, so there is a `/run` of its own. All of it ends when the standard input does.
const SCRIPT: &str = r#"
set -e
mount -t tmpfs tmpfs /run
mkdir -p /run/wireguard
case "$1" in
  kernel)
    ip link add hepto0 type wireguard
    ;;
  wireguard-go)
    wireguard-go -f hepto0 >/run/log 2>&1 &
    for _ in $(seq 200); do [ -S /run/wireguard/hepto0.sock ] && break; sleep 0.05; done
    ;;
esac
echo .
while read -r line; do
  eval "$line" || exit 1
  echo .
done
"#;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    WireguardGo,
    Kernel,
}

impl Kind {
    fn chosen() -> Kind {
        match std::env::var(VARIABLE).as_deref() {
            Err(_) | Ok("" | "wireguard-go") => Kind::WireguardGo,
            Ok("kernel") => Kind::Kernel,
            Ok(other) => panic!("{VARIABLE}={other}: it may be `wireguard-go` or `kernel`"),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Kind::WireguardGo => "wireguard-go",
            Kind::Kernel => "kernel",
        }
    }

    fn needs(self) -> &'static str {
        match self {
            Kind::WireguardGo => "are wireguard-go and wireguard-tools installed?",
            Kind::Kernel => {
                "is wireguard-tools installed, and has this kernel WireGuard (`modprobe wireguard`)?"
            }
        }
    }
}

/// Another WireGuard in a home, with the addresses of number 2 of a pair. It knows number 1 as its peer.
pub struct Other {
    pub home: Home,
    kind: Kind,
    child: Child,
    input: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Other {
    pub fn start(home: Home) -> Other {
        home.ip("addr add 192.0.2.2/24 dev wire");
        home.ip("addr add 2001:db8::2/64 dev wire nodad");
        home.ip("link set wire up");
        let kind = Kind::chosen();
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
                    "sh",
                    kind.name(),
                ])
                .env("WG_I_PREFER_BUGGY_USERSPACE_TO_POLISHED_KMOD", "1")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("util-linux is installed")
        });
        let input = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("piped"));
        let mut other = Other {
            home,
            kind,
            child,
            input,
            answers,
        };
        other.answer("the start");
        other.tell(&format!(
            "echo {} >/run/private; echo {} >/run/psk",
            base64(&private(2)),
            base64(&PSK)
        ));
        other.tell("wg set hepto0 listen-port 51820 private-key /run/private");
        other.know("");
        other.home.ip(&format!("link set hepto0 mtu {MTU} up"));
        other.home.ip("addr add 10.44.0.2/16 dev hepto0");
        other.home.ip("addr add fd44::2/64 dev hepto0 nodad");
        other.home.settle("[fd44::2]:0");
        other
    }

    /// Makes number 1 its peer, with more settings for `wg set` (its endpoint, say).
    pub fn know(&mut self, more: &str) {
        self.tell(&format!(
            "wg set hepto0 peer {} preshared-key /run/psk allowed-ips 10.44.0.1/32,fd44::1/128 {more}",
            base64(&public(1))
        ));
    }

    /// What `wg show` says of its peer: `latest-handshakes`, `endpoints`, `transfer`.
    pub fn show(&mut self, what: &str) -> String {
        let text = self.tell(&format!("wg show hepto0 {what}"));
        let (_, value) = text.split_once('\t').expect("a line for its one peer");
        value.trim_end().to_owned()
    }

    /// Runs a line of shell beside it and returns what it printed.
    pub fn tell(&mut self, line: &str) -> String {
        let input = self.input.as_mut().expect("open until the end");
        writeln!(input, "{line}").expect("the shell lives");
        self.answer(line)
    }

    fn answer(&mut self, line: &str) -> String {
        let mut text = String::new();
        while text != ".\n" && !text.ends_with("\n.\n") {
            let read = self
                .answers
                .read_line(&mut text)
                .expect("the shell answers");
            assert!(
                read > 0,
                "{}: `{line}` failed: {}",
                self.kind.name(),
                self.kind.needs()
            );
        }
        text.truncate(text.len() - 2);
        text
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        drop(self.input.take());
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
