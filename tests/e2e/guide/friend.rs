//! A friend's home for the guides: a machine with `ens1` and files of its own, behind a router that masquerades IPv4 and
//! lets no stranger in; and the Internet between such homes.

use std::fs;
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};

use hepto_net::lab::{Home, LAN, Space, Street};
use hepto_tests::{directory, until};
use ipnet::IpNet;

use crate::preflight::serve_dns;
use crate::{PROGRAM, SOON};

const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
const PATH: &str = "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The DNS roots that preflight asks; the first is the resolver of every home as well.
const ROOTS: [&str; 2] = ["193.0.14.129", "2001:7fd::1"];

/// In systemd's place: starts nodes as their unit does.
const SYSTEMCTL: &str = r#"#!/bin/sh
case "$*" in
    daemon-reload) exit ;;
    "enable --now "*) shift 2 ;;
    *) echo "this systemctl does not know: $*" >&2; exit 1 ;;
esac
for unit; do
    name=${unit#hepto-node@}
    setsid hepto-node run --config "/etc/hepto/$name.toml" >>"/run/$name.log" 2>&1 </dev/null &
done
"#;

/// A script in a space, with this one's files.
pub fn shell(space: &Space, script: &str) -> String {
    let mut command = Command::new("sh");
    command
        .args(["-euc", script])
        .current_dir(REPOSITORY)
        .env("PATH", PATH)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = space.spawn(&mut command).expect("a shell");
    let output = child.wait_with_output().expect("ours");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}\n{said}{errors}");
    said
}

/// What lies between the homes: it forwards, and the DNS roots are in it.
pub fn internet() -> Space {
    let space = Space::private().expect("a namespace");
    space
        .address(
            "lo",
            &ROOTS.map(|root| IpNet::from(root.parse::<IpAddr>().expect("an address"))),
        )
        .expect("addresses");
    forward(&space);
    serve_dns(&space, &ROOTS);
    space
}

fn forward(space: &Space) {
    shell(
        space,
        "echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding",
    );
}

/// A friend's home: a machine with `ens1`, behind a router that masquerades IPv4 and lets no stranger in.
pub struct Friend {
    /// The name of its node.
    pub name: &'static str,
    /// The machine.
    pub machine: Home,
    number: u8,
    router: Street,
}

impl Friend {
    /// The home of `2001:db8:NUMBER::/64`, with the program installed as the guides say.
    pub fn new(name: &'static str, number: u8, internet: &Space) -> Friend {
        let inside = [
            net("192.168.1.254/24"),
            net(&format!("2001:db8:{number}::ffff/64")),
            net("fe80::1/64"),
        ];
        let router = Street::open(&inside).expect("a router");
        let machine = router
            .home(
                name,
                &[
                    net("192.168.1.2/24"),
                    net(&format!("2001:db8:{number}::2/64")),
                ],
            )
            .expect("a home");
        let friend = Friend {
            name,
            machine,
            number,
            router,
        };
        friend.connect(internet);
        friend.furnish();
        friend
    }

    /// The node's own IPv6 address, as in the guide.
    pub fn address(&self) -> String {
        format!("2001:db8:{}::10", self.number)
    }

    fn connect(&self, internet: &Space) {
        let (number, router) = (self.number, self.router.space());
        let there = [
            net(&format!("203.0.113.{}/31", 2 * number)),
            net(&format!("2001:db8:ff{number:02}::1/64")),
        ];
        let here = [
            net(&format!("203.0.113.{}/31", 2 * number + 1)),
            net(&format!("2001:db8:ff{number:02}::2/64")),
        ];
        router
            .join(("wan", &here), (internet, self.name, &there))
            .expect("a line");
        for (space, to, via) in [
            (router, "0.0.0.0/0", there[0]),
            (router, "::/0", there[1]),
            (internet, &*format!("2001:db8:{number}::/64"), here[1]),
        ] {
            space.route(net(to), via.addr(), None).expect("a route");
        }
        forward(router);
        shell(
            router,
            "nft 'table inet router {
                chain forward {
                    type filter hook forward priority 0; policy accept;
                    iifname wan ct state new jump strangers
                }
                chain strangers { drop; }
                chain out { type nat hook postrouting priority 100; oifname wan meta nfproto ipv4 masquerade; }
            }'",
        );
    }

    /// The machine's interface and routes, and files of its own where the guide writes some.
    fn furnish(&self) {
        let space = self.machine.space();
        space.rename(LAN, "ens1").expect("a name");
        space
            .route(net("0.0.0.0/0"), inside("192.168.1.254"), None)
            .expect("a route");
        space
            .route(net("::/0"), inside("fe80::1"), Some("ens1"))
            .expect("a route");
        let own = directory().join(self.name);
        for below in ["etc", "srv", "usr/local"] {
            let (upper, work) = (own.join(below), own.join("work").join(below));
            fs::create_dir_all(&upper).expect("a directory");
            fs::create_dir_all(&work).expect("a directory");
            shell(
                space,
                &format!(
                    "mount -t overlay overlay -o lowerdir=/{below},upperdir={},workdir={} /{below}",
                    upper.display(),
                    work.display()
                ),
            );
        }
        shell(
            space,
            &format!(
                "rm -f /etc/resolv.conf; echo 'nameserver {}' >/etc/resolv.conf",
                ROOTS[0]
            ),
        );
        self.write("/usr/local/systemctl", SYSTEMCTL);
        shell(
            space,
            "install -m 0755 /usr/local/systemctl /usr/local/bin/systemctl; rm /usr/local/systemctl",
        );
    }

    /// A new box of another provider: another prefix, and another home network. The machine has followed; its node has not.
    pub fn replace_box(&mut self, number: u8, internet: &Space) {
        let (old, new) = (self.number, number);
        shell(
            internet,
            &format!(
                "ip -6 route add 2001:db8:{new}::/64 via 2001:db8:ff{old:02}::2; ip -6 route del 2001:db8:{old}::/64"
            ),
        );
        shell(
            self.router.space(),
            &format!(
                "ip addr flush dev street; ip addr add 192.168.{new}.254/24 dev street; \
                 for a in 2001:db8:{new}::ffff fe80::1; do ip addr add $a/64 dev street nodad; done"
            ),
        );
        shell(
            self.machine.space(),
            &format!(
                "ip addr flush dev ens1; ip addr add 192.168.{new}.2/24 dev ens1; \
                 ip addr add 2001:db8:{new}::2/64 dev ens1 nodad; ip addr add fe80::2/64 dev ens1 nodad; \
                 ip route add default via 192.168.{new}.254; ip -6 route replace default via fe80::1 dev ens1"
            ),
        );
        self.number = number;
        self.open_port();
    }

    /// The guide's step 5, over IPv6: one UDP port, to the node's address.
    pub fn open_port(&self) {
        let rule = format!(
            "insert rule inet router strangers ip6 daddr {} udp dport 51820 accept",
            self.address()
        );
        shell(self.router.space(), &format!("nft '{rule}'"));
    }

    /// Step 1, the binary, from the test's build.
    pub fn install(&self, block: &str) {
        let install = block
            .strip_prefix("make static\n")
            .expect("the binary is built first");
        self.walk(&install.replace("target/hepto-node", PROGRAM));
    }

    /// What the guide says for `grumpy` and its prefix, said for this home.
    pub fn here(&self, text: &str) -> String {
        text.replace("/etc/hepto/grumpy", &format!("/etc/hepto/{}", self.name))
            .replace(
                "name = \"grumpy\"\nstorage",
                &format!("name = \"{}\"\nstorage", self.name),
            )
            .replace(
                "addresses = [\"2001:db8:1::10",
                &format!("addresses = [\"{}", self.address()),
            )
    }

    /// Does what a block says.
    pub fn walk(&self, block: &str) -> String {
        shell(self.machine.space(), &self.here(block))
    }

    /// A file here, as seen by the test.
    pub fn write(&self, path: &str, text: &str) {
        let space = self.machine.space();
        space
            .run(|| fs::write(path, text))
            .expect("the home")
            .expect("a file");
    }

    /// Fills the config in.
    pub fn fill_in(&self, config: &str, agent: &str) {
        let mut text = self.here(config);
        if self.name != "grumpy" {
            let cluster_key = "cluster_key_file = \"/etc/hepto/acides.cluster.key\"\n";
            assert!(text.contains(cluster_key), "{text}");
            text = text.replace(cluster_key, agent);
        }
        if !self.machine.has_ipvlan() {
            text = text.replace("[network]\n", "[network]\nmode = \"macvlan\"\n");
        }
        self.write(&format!("/etc/hepto/{}.toml", self.name), &text);
    }

    /// A key from another's machine, as `scp -p` brings it.
    pub fn take_key(&self, from: &Friend, name: &str) {
        let key = directory().join(from.name).join("etc/hepto").join(name);
        shell(
            self.machine.space(),
            &format!(
                "mkdir -p -m 0700 /etc/hepto; cp -p {} /etc/hepto/",
                key.display()
            ),
        );
    }

    /// Starts what runs in the foreground; its log is the test's.
    pub fn run(&self, block: &str) -> Child {
        let mut command = Command::new("sh");
        command
            .args(["-c", &format!("exec {}", self.here(block))])
            .env("PATH", PATH);
        self.machine.space().spawn(&mut command).expect("a node")
    }

    /// Waits until its node is there.
    pub fn await_up(&self) {
        let ask = format!(
            "hepto-node status --config /etc/hepto/{}.toml 2>&1 || true",
            self.name
        );
        until(SOON, "its node answers", || {
            shell(self.machine.space(), &ask).contains(" of acides: ")
        });
    }
}

fn net(text: &str) -> IpNet {
    text.parse().expect("an address with its prefix")
}

fn inside(text: &str) -> IpAddr {
    text.parse().expect("an address")
}
