//! What preflight finds: nothing where a node can live, and each planted fault with the fix that mends it.

use std::fs;
use std::io::ErrorKind;
use std::net::{TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;

use hepto_net::lab::{Home, LAN, Space};
use hepto_tests::{Lab, Node, Recipe, fits, isolated, until};
use serde_json::Value;

use crate::{PROGRAM, SOON, new_lab};

/// The DNS roots that preflight asks, and the router, which is the lab's resolver.
const SERVERS: [&str; 4] = [
    "193.0.14.129",
    "2001:7fd::1",
    "192.168.77.254",
    "2001:db8:77::fe",
];

/// A home with a config, and a shell script that plants faults before preflight runs there.
pub struct Trial {
    pub lab: Lab,
    pub home: std::sync::Arc<Home>,
    pub recipe: Recipe,
    plant: Vec<String>,
}

impl Trial {
    /// A home in which all is well: the router answers, the Internet too.
    pub fn new() -> Trial {
        Trial::at(1, "mars")
    }

    /// The same in another home, under another name.
    pub fn at(number: u8, name: &str) -> Trial {
        let lab = new_lab();
        let home = lab.home(number);
        let recipe = lab.recipe(number, name);
        Trial {
            lab,
            home,
            recipe,
            plant: Vec::new(),
        }
    }

    /// The same, and an anchor that runs in home 1.
    pub fn with_anchor() -> (Trial, Node) {
        let trial = Trial::at(2, "venus");
        trial.internet();
        let home = trial.lab.home(1);
        let mut mars = trial.lab.node(&home, trial.lab.recipe(1, "mars"));
        mars.start();
        until(SOON, "mars is up", || {
            mars.status().is_ok_and(|status| status["ready"] == true)
        });
        (trial, mars)
    }

    /// The same with a k3s, which wants more of its machine.
    pub fn with_k3s(mut self) -> Trial {
        let program = self.lab.directory.join("k3s");
        fs::write(&program, "#!/bin/true\n").expect("a file");
        self.plant(&format!("chmod 755 {}", program.display()));
        run(&format!("chmod 755 {}", program.display()));
        self.recipe = self
            .recipe
            .clone()
            .without("k3s")
            .with("k3s", &format!("binary = {program:?}"));
        self
    }

    pub fn plant(&mut self, script: &str) {
        self.plant.push(script.to_owned());
    }

    /// A file of these contents, laid over another one.
    pub fn cover(&mut self, path: &str, contents: &str) {
        let script = self.covering(path, contents);
        self.plant(&script);
    }

    /// What does so.
    fn covering(&self, path: &str, contents: &str) -> String {
        let file = self.lab.directory.join(path.replace('/', "_"));
        fs::write(&file, contents).expect("a file");
        format!("mount --bind {} {path}", file.display())
    }

    /// Lets the DNS roots and the router's own resolver answer.
    pub fn internet(&self) {
        let space = self.lab.street.space();
        let links = format!(
            "dev=$(ip -o -4 addr show to {router} | cut -d' ' -f2); for a in {a}/32 {b}/128; do ip addr add $a dev $dev nodad; done",
            router = SERVERS[2],
            a = SERVERS[0],
            b = SERVERS[1]
        );
        let mut shell = Command::new("sh");
        let added = space
            .spawn(shell.args(["-ec", &links]))
            .expect("a shell")
            .wait()
            .expect("ours");
        assert!(added.success());
        serve_dns(space, &SERVERS);
    }

    /// Runs preflight there; its exit code and report.
    pub fn look(&self) -> (i32, Value) {
        let node = self.lab.node(&self.home, self.recipe.clone());
        let script = format!("{}\nexec \"$@\"", self.plant.join("\n"));
        let config = node.config.to_str().expect("a plain path");
        let mut command = Command::new("unshare");
        command
            .args([
                "-m",
                "sh",
                "-ec",
                &script,
                "sh",
                PROGRAM,
                "preflight",
                "--json",
                "--config",
                config,
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let child = self.home.space().spawn(&mut command).expect("it starts");
        let output = child.wait_with_output().expect("ours");
        let errors = String::from_utf8_lossy(&output.stderr);
        let report = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {errors}"));
        assert_eq!(fits("preflight", &report), Ok(()));
        (output.status.code().expect("a code"), report)
    }

    /// Looks, and expects exactly these codes, each with a fix that has the words.
    pub fn finds(&self, expected: &[(&str, &str)]) -> Value {
        let (code, report) = self.look();
        let findings = report["findings"].as_array().expect("a list");
        let mut wrong: Vec<&Value> = findings
            .iter()
            .filter(|found| found["level"] != "ok")
            .collect();
        for (code, words) in expected {
            let at = wrong.iter().position(|found| found["code"] == *code);
            let found = wrong.remove(at.unwrap_or_else(|| panic!("no {code} in {report:#}")));
            let fix = found["fix"].as_str().unwrap_or_default();
            assert!(fix.contains(words), "{code}: {words:?} is not in {fix:?}");
        }
        assert!(wrong.is_empty(), "not planted: {wrong:#?}");
        let has_error = expected.iter().any(|(code, _)| code.starts_with('E'));
        assert_eq!(report["passed"], !has_error);
        assert_eq!(code == 0, !has_error);
        self.leaves_nothing();
        report
    }

    fn leaves_nothing(&self) {
        let pins = fs::read_dir("/run/netns").map(Iterator::count).unwrap_or(0);
        assert_eq!(pins, 0, "a namespace was left behind");
        let storage = fs::read_dir(&self.recipe.storage)
            .map(Iterator::count)
            .unwrap_or(0);
        assert_eq!(storage, 0, "something was left in the storage");
    }
}

/// Starts a DNS server at each of these addresses of a space.
pub(crate) fn serve_dns(space: &Space, servers: &[&str]) {
    for server in servers {
        let socket = space
            .run(|| UdpSocket::bind((*server, 53)))
            .expect("the space")
            .expect("a socket");
        thread::spawn(move || answer(&socket));
    }
}

/// A DNS server that knows nothing: the question comes back as an answer without records.
fn answer(socket: &UdpSocket) {
    let mut packet = [0; 512];
    loop {
        match socket.recv_from(&mut packet) {
            Ok((length, from)) if length >= 12 => {
                packet[2] |= 0x80;
                let _ = socket.send_to(&packet[..length], from);
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

fn run(script: &str) {
    let status = Command::new("sh")
        .args(["-ec", script])
        .status()
        .expect("a shell");
    assert!(status.success(), "{script}");
}

/// What this machine lacks by itself is no plant: old cgroups, and a small disk in a tmpfs.
pub fn own_warnings(trial: &Trial) -> Vec<(&'static str, &'static str)> {
    let (_, report) = trial.look();
    let found = report["findings"].as_array().cloned().unwrap_or_default();
    [
        "W-PREFLIGHT-CGROUP-V1",
        "W-PREFLIGHT-INOTIFY",
        "W-PREFLIGHT-SPACE",
        "W-PREFLIGHT-MEMORY",
    ]
    .into_iter()
    .filter(|code| found.iter().any(|found| found["code"] == *code))
    .map(|code| (code, ""))
    .collect()
}

#[test]
fn where_a_node_can_live_it_says_so_and_leaves_nothing() {
    isolated(|| {
        let trial = Trial::new();
        trial.internet();
        let own = own_warnings(&trial);
        trial.finds(&own);
        let (_, report) = trial.look();
        let tried: Vec<&str> = report["findings"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|found| found["check"].as_str())
            .collect();
        for check in [
            "uplink.make",
            "uplink.gateway",
            "uplink.dns",
            "uplink.internet-v4",
            "uplink.internet-v6",
            "storage.write",
        ] {
            assert!(tried.contains(&check), "{check} was not tried: {tried:?}");
        }
    });
}

#[test]
fn a_node_that_runs_is_tried_in_its_own_network_and_left_alone() {
    isolated(|| {
        let trial = Trial::new();
        trial.internet();
        let mut node = trial.lab.node(&trial.home, trial.recipe.clone());
        node.start();
        until(SOON, "mars is up", || {
            node.status().is_ok_and(|status| status["ready"] == true)
        });
        let (code, report) = trial.look();
        assert_eq!(code, 0, "{report:#}");
        let text = report.to_string();
        assert!(
            text.contains("its own network is tried") && text.contains("192.168.77.254 answers"),
            "{text}"
        );
        assert!(node.status().is_ok_and(|status| status["ready"] == true));
    });
}

#[test]
fn faults_of_the_machine_are_found_one_by_one() {
    isolated(|| {
        let mut trial = Trial::new().with_k3s();
        trial.internet();
        let own = own_warnings(&trial);
        let wesher = trial.lab.directory.join("wesher").display().to_string();
        let is_v2 = PathBuf::from("/sys/fs/cgroup/cgroup.controllers").exists();
        let (controllers, without_memory) = match is_v2 {
            true => ("/sys/fs/cgroup/cgroup.controllers", "cpu pids\n"),
            false => (
                "/proc/cgroups",
                "#name h n enabled\ncpu 1 1 1\npids 1 1 1\nmemory 0 1 0\n",
            ),
        };
        let faults = [
            (
                "W-PREFLIGHT-INOTIFY",
                "fs.inotify.max_user_instances=1024",
                trial.covering("/proc/sys/fs/inotify/max_user_instances", "128\n"),
            ),
            (
                "W-PREFLIGHT-MEMORY",
                "k3s.enabled = false",
                trial.covering(
                    "/proc/meminfo",
                    "MemTotal:         262144 kB\nMemFree: 1 kB\n",
                ),
            ),
            (
                "E-PREFLIGHT-CGROUPS",
                "cgroup_enable=memory",
                trial.covering(controllers, without_memory),
            ),
            // Written by a clock that was right.
            (
                "W-PREFLIGHT-CLOCK",
                "timedatectl set-ntp true",
                "touch -d '+1 hour' \"$5\"".to_owned(),
            ),
            (
                "E-PREFLIGHT-TUN",
                "modprobe tun",
                "mount -t tmpfs none /dev/net".to_owned(),
            ),
            // Last, since it outlives its turn.
            (
                "W-PREFLIGHT-NEIGHBOURS",
                "podman pod stop",
                format!("cp /bin/sleep {wesher}; {wesher} 60 >/dev/null 2>&1 & sleep 0.2"),
            ),
        ];
        for (code, words, script) in faults {
            trial.plant.clear();
            trial.plant(&script);
            trial.finds(&besides(&own, code, words));
        }
    });
}

/// What this machine lacks by itself, and this.
fn besides<'a>(
    own: &[(&'a str, &'a str)],
    code: &'a str,
    words: &'a str,
) -> Vec<(&'a str, &'a str)> {
    let others = own.iter().copied().filter(|(other, _)| *other != code);
    others.chain([(code, words)]).collect()
}

#[test]
fn a_port_that_is_taken_and_an_address_of_the_host_are_found() {
    isolated(|| {
        let mut trial = Trial::new();
        trial.internet();
        let own = own_warnings(&trial);
        let usual = trial.recipe.clone();
        trial.recipe = usual.clone().with("metrics", "listen = \"127.0.0.1:9586\"");
        trial.finds(&own);
        let taken = trial
            .home
            .space()
            .run(|| TcpListener::bind("127.0.0.1:9586"));
        let taken = taken.expect("the home lives").expect("a port");
        trial.finds(&besides(&own, "W-PREFLIGHT-METRICS", "metrics.listen"));
        drop(taken);
        trial.recipe = usual;
        trial.recipe.uplink[1] = "2001:db8:77::1".parse().expect("an address");
        trial.finds(&[("E-NET-ADDR-HOST", "a free address of the same network")]);
    });
}

#[test]
fn faults_of_the_storage_are_found_one_by_one() {
    isolated(|| {
        let mut trial = Trial::new().with_k3s();
        trial.internet();
        let storage = trial.recipe.storage.display().to_string();
        let own = own_warnings(&trial);
        let small = besides(&own, "W-PREFLIGHT-SPACE", "node.storage");
        // A disk of a few gigabytes that has no fault, as far as this machine's memory goes.
        let large = |options: &str| format!("mount -t tmpfs -o size=5g{options} none {storage}");
        let roomy: Vec<_> = own
            .iter()
            .copied()
            .filter(|(code, _)| *code != "W-PREFLIGHT-SPACE")
            .collect();
        trial.plant(&large(""));
        trial.finds(&roomy);
        let faults = [
            (
                &small,
                None,
                format!("mount -t tmpfs -o size=1m none {storage}"),
            ),
            (
                &roomy,
                Some(("E-PREFLIGHT-NOEXEC", "remount,exec")),
                large(",noexec"),
            ),
            // An overlay cannot be the upper part of another.
            (
                &roomy,
                Some(("E-PREFLIGHT-OVERLAY", "ext4")),
                format!(
                    "mount -t tmpfs -o size=5g none /mnt; mkdir /mnt/l /mnt/u /mnt/w; mount -t overlay overlay -o lowerdir=/mnt/l,upperdir=/mnt/u,workdir=/mnt/w {storage}"
                ),
            ),
        ];
        for (own, fault, script) in faults {
            trial.plant.clear();
            trial.plant(&script);
            trial.finds(&own.iter().copied().chain(fault).collect::<Vec<_>>());
        }
        // Where nothing can be written, layers cannot be tried either.
        trial.plant.clear();
        trial.plant(&format!("mount -t tmpfs -o size=64k none {storage}; cat /dev/zero > {storage}/full 2>/dev/null || true"));
        let (_, report) = trial.look();
        let findings = report["findings"].as_array().expect("a list");
        let full = findings
            .iter()
            .find(|found| found["code"] == "E-PREFLIGHT-WRITE");
        let fix = full.unwrap_or_else(|| panic!("{report:#}"))["fix"].to_string();
        assert!(fix.contains("not full"), "{fix}");
    });
}

#[test]
fn silence_beyond_the_gateway_and_of_the_gateway_are_found() {
    isolated(|| {
        let trial = Trial::new();
        let own = own_warnings(&trial);
        let silent = [
            ("E-PREFLIGHT-DNS", "network.dns"),
            ("W-PREFLIGHT-INTERNET", "gateway"),
            ("W-PREFLIGHT-INTERNET", "gateway"),
        ];
        trial.finds(&[&own[..], &silent].concat());
        // Now the router has other addresses than the config says.
        let flush = "for dev in $(ip -o link show up | cut -d: -f2 | cut -d@ -f1); do ip addr flush dev $dev; done";
        let mut shell = Command::new("sh");
        let flushed = trial
            .lab
            .street
            .space()
            .spawn(shell.args(["-ec", flush]))
            .expect("a shell")
            .wait();
        assert!(flushed.expect("ours").success());
        let gateways = [
            ("E-PREFLIGHT-GATEWAY", "ip route"),
            ("E-PREFLIGHT-GATEWAY", "ip -6 route"),
        ];
        trial.finds(&[&own[..], &silent, &gateways].concat());
    });
}

#[test]
fn an_address_of_anothers_an_absent_and_a_dead_interface_are_found() {
    isolated(|| {
        let trial = Trial::new();
        trial.internet();
        let own = own_warnings(&trial);
        // A machine of the street has the node's address.
        let neighbour = trial.lab.home(2);
        neighbour
            .space()
            .address(LAN, &["2001:db8:77::1:1/64".parse().expect("a network")])
            .expect("an address");
        trial.finds(&besides(&own, "E-NET-ADDR-DUP", "network.addresses"));
        drop(neighbour);
        let neighbour = trial.lab.home(3);
        neighbour
            .space()
            .address(LAN, &["192.168.77.101/24".parse().expect("a network")])
            .expect("an address");
        trial.finds(&besides(&own, "E-NET-ADDR-DUP", "network.addresses"));
        drop(neighbour);
        trial.home.space().switch(LAN, false).expect("down");
        let (code, report) = trial.look();
        assert_eq!(code, 1);
        assert!(
            report.to_string().contains("E-PREFLIGHT-LINK"),
            "{report:#}"
        );
        trial.home.space().rename(LAN, "other0").expect("renamed");
        let (code, report) = trial.look();
        assert_eq!(code, 1);
        assert!(
            report.to_string().contains("E-PREFLIGHT-INTERFACE"),
            "{report:#}"
        );
        trial.leaves_nothing();
    });
}
