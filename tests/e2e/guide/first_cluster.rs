//! The guide of the first cluster, walked as it stands: three homes, each behind a router of its own, and every code
//! block of the page in its order.
//!
//! Said otherwise than in the guide: the binary comes from the test's build and not from `make static`; the mode is
//! macvlan where the kernel has no ipvlan; `systemctl` and the download of k3s are not called here (`make vm` and
//! the tests of k3s do).

use std::fs;
use std::net::UdpSocket;
use std::process::{Child, Command, Stdio};
use std::thread;

use hepto_net::lab::{Home, LAN, Space, Street};
use hepto_tests::{Inventory, directory, isolated_for, until};
use ipnet::IpNet;

use crate::preflight::answer;
use crate::{PROGRAM, SOON, seconds};

const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
const ENGLISH: &str = include_str!("../../docs/guide/first-cluster.md");
const FRENCH: &str = include_str!("../../docs/guide/premier-cluster.fr.md");

/// The DNS roots that preflight asks; the first is the resolver of every home as well.
const ROOTS: [&str; 2] = ["193.0.14.129", "2001:7fd::1"];

/// How many code blocks the guide has; whoever adds one adds a step below.
const BLOCKS: usize = 20;

fn net(text: &str) -> IpNet {
    text.parse().expect("an address with its prefix")
}

/// The contents of a guide's code blocks.
fn blocks(guide: &str) -> [String; BLOCKS] {
    let (mut all, mut block) = (Vec::new(), None::<String>);
    for line in guide.lines() {
        let line = line.strip_prefix("  ").unwrap_or(line);
        match (&mut block, line.starts_with("```")) {
            (None, true) => block = Some(String::new()),
            (Some(_), true) => all.extend(block.take()),
            (Some(text), false) => {
                text.push_str(line);
                text.push('\n');
            }
            (None, false) => {}
        }
    }
    all.try_into().unwrap_or_else(|all: Vec<_>| {
        panic!("{} blocks of code, of which {BLOCKS} are walked", all.len())
    })
}

/// A script in a space, with this one's files.
fn shell(space: &Space, script: &str) -> String {
    let mut command = Command::new("sh");
    command
        .args(["-euc", script])
        .current_dir(REPOSITORY)
        .env("PATH", "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
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
fn internet() -> Space {
    let space = Space::private().expect("a namespace");
    space
        .address(
            "lo",
            &ROOTS.map(|root| IpNet::from(root.parse::<std::net::IpAddr>().expect("an address"))),
        )
        .expect("addresses");
    forward(&space);
    for root in ROOTS {
        let socket = space
            .run(|| UdpSocket::bind((root, 53)))
            .expect("the Internet")
            .expect("a socket");
        thread::spawn(move || answer(&socket));
    }
    space
}

fn forward(space: &Space) {
    shell(
        space,
        "echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding",
    );
}

/// A friend's home: a machine with `ens1`, behind a router that masquerades IPv4 and lets no stranger in.
struct Friend {
    name: &'static str,
    number: u8,
    router: Street,
    machine: Home,
}

impl Friend {
    /// The home of `2001:db8:NUMBER::/64`.
    fn new(name: &'static str, number: u8, internet: &Space) -> Friend {
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
            number,
            router,
            machine,
        };
        friend.connect(internet);
        friend.furnish();
        friend
    }

    /// The node's own IPv6 address, as in the guide.
    fn address(&self) -> String {
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
    }

    /// The guide's step 5, over IPv6: one UDP port, to the node's address.
    fn open_port(&self) {
        let rule = format!(
            "insert rule inet router strangers ip6 daddr {} udp dport 51820 accept",
            self.address()
        );
        shell(self.router.space(), &format!("nft '{rule}'"));
    }

    /// What the guide says for `grumpy` and its prefix, said for this home.
    fn here(&self, text: &str) -> String {
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
    fn walk(&self, block: &str) -> String {
        shell(self.machine.space(), &self.here(block))
    }

    /// A file here, as seen by the test.
    fn write(&self, path: &str, text: &str) {
        let space = self.machine.space();
        space
            .run(|| fs::write(path, text))
            .expect("the home")
            .expect("a file");
    }

    /// Fills the config in.
    fn fill_in(&self, config: &str, agent: &str) {
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
    fn take_key(&self, from: &Friend, name: &str) {
        let key = directory().join(from.name).join("etc/hepto").join(name);
        shell(
            self.machine.space(),
            &format!(
                "mkdir -p -m 0700 /etc/hepto; cp -p {} /etc/hepto/",
                key.display()
            ),
        );
    }

    /// Starts what runs in the foreground.
    fn run(&self, block: &str) -> Child {
        let log = fs::File::create(directory().join(format!("{}.log", self.name))).expect("a log");
        let mut command = Command::new("sh");
        command
            .args(["-c", &format!("exec {}", self.here(block))])
            .env("PATH", "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .stdout(log.try_clone().expect("a second descriptor"))
            .stderr(log);
        self.machine.space().spawn(&mut command).expect("a node")
    }

    fn log(&self) -> String {
        fs::read_to_string(directory().join(format!("{}.log", self.name))).unwrap_or_default()
    }
}

fn inside(text: &str) -> std::net::IpAddr {
    text.parse().expect("an address")
}

/// The words of a table's line.
fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

#[test]
fn the_first_cluster_is_walked_as_the_guide_says() {
    isolated_for(seconds(180), || {
        let [
            install,
            version,
            keys,
            default,
            config,
            agent,
            check,
            preflight,
            endpoints,
            run,
            unit,
            status,
            screen,
            peers,
            table,
            ping,
            k3s,
            import,
            sum,
            uninstall,
        ] = blocks(ENGLISH);
        let internet = internet();
        let friends = [("grumpy", 1), ("sleepy", 2), ("happy", 3)]
            .map(|(name, number)| Friend::new(name, number, &internet));
        let [grumpy, sleepy, happy] = &friends;
        let before = Inventory::of(&happy.machine);

        // 1. and 2.: the binary, the keys.
        let install = install
            .strip_prefix("make static\n")
            .expect("the binary is built first")
            .replace("target/hepto-node", PROGRAM);
        for friend in &friends {
            friend.walk(&install);
            assert!(friend.walk(&version).starts_with("hepto-node "));
        }
        grumpy.walk(&keys);
        for friend in [sleepy, happy] {
            friend.take_key(grumpy, "acides.overlay.key");
            friend.take_key(grumpy, "acides.agent.key");
        }

        // 3. and 5.: the config, the port; then 4., the checks.
        for friend in &friends {
            friend.walk(&default);
            friend.fill_in(&config, &agent);
        }
        grumpy.open_port();
        sleepy.open_port();
        for friend in &friends {
            assert!(friend.walk(&check).contains("is a good config"));
            friend.walk(&preflight);
        }
        for (section, lines) in [("", endpoints), ("replaces", k3s)] {
            let with = match section {
                "" => format!("{}{lines}", grumpy.here(&config)),
                _ => grumpy
                    .here(&config)
                    .replace("[k3s]\nenabled = false\n", &lines),
            };
            grumpy.write("/etc/hepto/tried.toml", &with);
            grumpy.walk("hepto-node config check /etc/hepto/tried.toml; rm /etc/hepto/tried.toml");
        }

        // 6.: run, and what of the unit needs no systemd.
        let mut nodes: Vec<Child> = friends.iter().map(|friend| friend.run(&run)).collect();
        for friend in &friends {
            until(SOON, "it says that it is up", || {
                friend
                    .log()
                    .contains("up: namespace, tunnel and control socket are there")
            });
        }
        let (files, started) = unit
            .split_once("systemctl daemon-reload\n")
            .expect("systemd reads it");
        assert_eq!(started, "systemctl enable --now hepto-node@grumpy\n");
        grumpy.walk(files);
        let unit = grumpy.walk("cat /etc/systemd/system/hepto-node@.service");
        assert!(
            unit.contains("ExecStart=/usr/local/bin/hepto-node run"),
            "{unit}"
        );

        look(&friends, [&status, &screen, &peers, &table, &ping]);
        other_commands(grumpy, &import, &sum);

        // The end: the node shows what would go, and asks on the terminal.
        let (dry, real) = uninstall.trim_end().split_once('\n').expect("two commands");
        assert!(happy.walk(dry).contains("/etc/hepto/happy.toml"));
        happy.walk("test -e /etc/hepto/happy.toml");
        happy.walk(&format!("echo happy | script -qec '{real}' /dev/null"));
        assert!(
            nodes.remove(2).wait().expect("ours").success(),
            "{}",
            happy.log()
        );
        happy.walk("! test -e /etc/hepto/happy.toml; ! test -e /srv/happy");
        for (friend, mut node) in [grumpy, sleepy].into_iter().zip(nodes) {
            friend.walk("hepto-node stop");
            assert!(node.wait().expect("ours").success(), "{}", friend.log());
        }
        let left = Inventory::of(&happy.machine).more_than(&before);
        assert_eq!(left, Vec::<String>::new());
    });
}

/// Step 7: the screens say what the guide shows, but for times and amounts.
fn look(friends: &[Friend; 3], [status, screen, peers, table, ping]: [&str; 5]) {
    let grumpy = &friends[0];
    until(seconds(60), "3 of 3 nodes reachable", || {
        friends
            .iter()
            .all(|friend| friend.walk(status).contains("3 of 3 nodes reachable"))
    });
    let mut shown = String::new();
    until(SOON, "the anchors have answered", || {
        shown = grumpy.walk(status);
        !shown.contains("problem")
    });
    let [mut promised, mut seen]: [Vec<_>; 2] =
        [screen, &shown].map(|text| text.lines().map(words).collect());
    for first in [&mut promised, &mut seen] {
        first[0].truncate(words("grumpy (master) of acides: ready, up").len());
        first[1].retain(|word| !["ipvlan", "macvlan"].contains(word));
    }
    assert_eq!(promised, seen, "{shown}");

    let shown = grumpy.walk(peers);
    let columns = |text: &str| words(text.lines().next().expect("a heading")).join(" ");
    assert_eq!(columns(table), columns(&shown), "{shown}");
    for (promised, seen) in table.lines().zip(shown.lines()).skip(1) {
        // Name and session; addresses of both families.
        assert_eq!(words(promised)[..2], words(seen)[..2], "{shown}");
        let addresses = |line| words(line).split_off(words(line).len() - 2).join(" ");
        assert_eq!(addresses(promised), addresses(seen), "{shown}");
    }
    assert!(grumpy.walk(ping).contains(" 3 received"));
}

/// What the guide says for who comes from an inventory, and for who compares keys.
fn other_commands(grumpy: &Friend, import: &str, sum: &str) {
    let inventory = "[cluster]\n\
        grumpy ansible_host=1.2.3.4 iface=ens1 ip=2001:db8:1::10/64,192.168.1.123/24 gw=fe80::1,192.168.1.254\n\
        sleepy ansible_host=1.2.3.5 iface=ens1 ip=2001:db8:2::10/64,192.168.1.123/24 gw=fe80::1,192.168.1.254\n\
        [cluster:vars]\n\
        storage_base=/srv\n\
        anchors=[\"2001:db8:1::10\",\"2001:db8:2::10\"]\n\
        master=grumpy\n\
        mtu=1400\n\
        overlay_key=0123456789abcdef0123456789abcdef\n\
        cluster_key=fedcba9876543210fedcba9876543210\n";
    grumpy.write("/srv/inventory.ini", inventory);
    grumpy.walk(&format!("cd /srv; {import}"));
    let mut files: Vec<String> = grumpy
        .walk("ls /srv/acides")
        .lines()
        .map(str::to_owned)
        .collect();
    files.retain(|file| file.ends_with(".toml"));
    assert_eq!(files, ["grumpy.toml", "sleepy.toml"]);
    assert_eq!(words(&grumpy.walk(sum))[0].len(), 64);
}

#[test]
fn both_languages_show_the_same_commands() {
    let bare = |guide| {
        blocks(guide).map(|block| {
            let bare = |line: &str| {
                line.split(" # ")
                    .next()
                    .unwrap_or_default()
                    .trim_end()
                    .to_owned()
            };
            block.lines().map(bare).collect::<Vec<_>>()
        })
    };
    assert_eq!(bare(ENGLISH), bare(FRENCH));
}
