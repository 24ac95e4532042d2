//! All homes of the demo: built, waited for, described, and removed.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use hepto_net::lab::{LAN, Street};
use ipnet::IpNet;
use nix::unistd::mkdtemp;

use super::interrupt::Interrupt;
use super::measure::table;
use super::neighbour::Neighbour;
use super::program;
use super::progress::{Progress, say};
use crate::status::Status;

const CLUSTER: &str = "demo";

/// Seven for a film, thirteen for a book.
const NAMES: [&str; 20] = [
    "grumpy", "sleepy", "happy", "doc", "bashful", "sneezy", "dopey", "balin", "dwalin", "fili",
    "kili", "dori", "nori", "ori", "oin", "gloin", "bifur", "bofur", "bombur", "thorin",
];

/// How long the nodes may take to find one another: much longer than they promise.
const MESH_PATIENCE: Duration = Duration::from_secs(60);
/// How long k3s may take in every node: a first start unpacks itself and makes certificates.
const K3S_PATIENCE: Duration = Duration::from_secs(600);
/// After so many restarts k3s is not going to serve.
const K3S_RESTARTS: u64 = 3;
/// How long a node may take to stop.
const STOP_PATIENCE: Duration = Duration::from_secs(20);
/// The same when k3s has pods to end.
const K3S_STOP_PATIENCE: Duration = Duration::from_secs(120);

/// What one look at a node's report says.
enum Outlook {
    /// It is as wanted; the sentence tells it.
    Done(String),
    /// Something lacks still.
    Lacking(String),
}

/// The street with its homes. Dropping it stops the nodes and removes everything.
#[derive(Debug)]
pub struct Town {
    /// The network between the homes.
    pub street: Street,
    /// The homes, the master first.
    pub homes: Vec<Neighbour>,
    program: PathBuf,
    directory: PathBuf,
    k3s: Option<PathBuf>,
    kind: &'static str,
    kept: bool,
}

impl Town {
    /// An empty street, and a directory for its files.
    ///
    /// # Errors
    /// When the kernel or the disk refuses, or there is no k3s at that path.
    pub fn open(k3s: Option<&Path>) -> anyhow::Result<Town> {
        let program = env::current_exe().context("cannot find the program's own file")?;
        let k3s = k3s.map(program::find).transpose()?;
        let street = Street::open(&[net("192.168.77.254/24"), net("2001:db8:77::fe/64")])?;
        let directory = mkdtemp(&env::temp_dir().join("hepto-demo.XXXXXX"))
            .context("cannot make a directory for the demo's files")?;
        Ok(Town {
            street,
            homes: Vec::new(),
            program,
            directory,
            k3s,
            kind: "macvlan",
            kept: false,
        })
    }

    /// Builds the homes and writes their nodes' config and key files.
    ///
    /// # Errors
    /// When the kernel or the disk refuses, or the demo is interrupted.
    pub fn build(
        &mut self,
        count: usize,
        progress: &Progress,
        interrupt: &Interrupt,
    ) -> anyhow::Result<()> {
        progress.step(&format!("building {count} homes"), count);
        for (number, name) in (1u8..).zip(&NAMES[..count]) {
            interrupt.check()?;
            let addresses = [
                net(&format!("192.168.77.{number}/24")),
                net(&format!("2001:db8:77::{number:x}/64")),
            ];
            let home = self.street.home(&format!("home-{name}"), &addresses)?;
            let config = self.directory.join(format!("{name}.toml"));
            progress.part(&format!("home of {name}: 192.168.77.{number}"));
            self.homes.push(Neighbour::new(CLUSTER, name, home, config));
        }
        if self
            .homes
            .iter()
            .any(|neighbour| neighbour.home.has_ipvlan())
        {
            self.kind = "ipvlan";
        }
        self.make_keys()?;
        for (number, neighbour) in (1u8..).zip(&self.homes) {
            let text = self.config(number, neighbour.name);
            fs::write(&neighbour.config, text)
                .with_context(|| format!("cannot write {}", neighbour.config.display()))?;
        }
        Ok(())
    }

    fn make_keys(&self) -> anyhow::Result<()> {
        for kind in ["overlay", "cluster"] {
            let made = Command::new(&self.program)
                .args(["keys", "generate", kind, "--out"])
                .arg(self.key(kind))
                .output()
                .context("cannot run hepto-node keys generate")?;
            ensure!(
                made.status.success(),
                "cannot make the {kind} key: {}",
                String::from_utf8_lossy(&made.stderr)
            );
        }
        Ok(())
    }

    fn key(&self, kind: &str) -> PathBuf {
        self.directory.join(format!("{kind}.key"))
    }

    /// A config file as a volunteer would write it.
    fn config(&self, number: u8, name: &str) -> String {
        let storage = self.directory.join("storage").join(name);
        let k3s = match &self.k3s {
            Some(path) => format!("binary = {path:?}\ndrain = \"5s\""),
            None => "enabled = false".to_owned(),
        };
        format!(
            r#"[node]
name = "{name}"
storage = {storage:?}

[network]
interface = "{LAN}"
mode = "{kind}"
addresses = ["192.168.77.{host}/24", "2001:db8:77::1:{number:x}/64"]
gateways = ["192.168.77.254", "2001:db8:77::fe"]
dns = ["192.168.77.254"]

[cluster]
name = "{CLUSTER}"
master = "{master}"
anchors = ["192.168.77.101", "2001:db8:77::1:2"]
overlay_key_file = {overlay:?}
cluster_key_file = {cluster:?}

[k3s]
{k3s}
"#,
            kind = self.kind,
            host = 100 + u16::from(number),
            master = NAMES[0],
            overlay = self.key("overlay"),
            cluster = self.key("cluster"),
        )
    }

    /// Starts every node.
    pub fn start(&mut self) -> anyhow::Result<()> {
        for (neighbour, name) in self.homes.iter_mut().zip(NAMES) {
            let storage = self.directory.join("storage").join(name);
            fs::create_dir_all(&storage)
                .with_context(|| format!("cannot make {}", storage.display()))?;
            neighbour.start(&self.program)?;
        }
        Ok(())
    }

    /// Waits until every node reaches all others.
    pub fn await_mesh(&mut self, progress: &Progress, interrupt: &Interrupt) -> anyhow::Result<()> {
        let count = self.homes.len();
        progress.step("waiting until every node reaches every other", count);
        self.await_each(MESH_PATIENCE, progress, interrupt, |neighbour, status| {
            neighbour.overlay = status.mesh.addresses.clone();
            neighbour.overlay.sort();
            let reachable = status.mesh.reachable;
            if reachable < count {
                return Ok(Outlook::Lacking(format!(
                    "reaches {reachable} of {count} nodes"
                )));
            }
            Ok(Outlook::Done(format!(
                "{} reaches {count} of {count} nodes",
                neighbour.name
            )))
        })
    }

    /// Waits until k3s serves in every node.
    ///
    /// # Errors
    /// When it does not, or ends again and again.
    pub fn await_k3s(&mut self, progress: &Progress, interrupt: &Interrupt) -> anyhow::Result<()> {
        progress.step("waiting until k3s is ready in every home", self.homes.len());
        let storage = self.directory.join("storage");
        self.await_each(K3S_PATIENCE, progress, interrupt, |neighbour, status| {
            let k3s = status
                .k3s
                .as_ref()
                .context("k3s is not known to the node")?;
            if k3s.ready {
                return Ok(Outlook::Done(format!("k3s of {} is ready", neighbour.name)));
            }
            let detail = k3s.detail.as_deref().unwrap_or("no more is known");
            let name = neighbour.name;
            ensure!(
                u64::from(k3s.restarts) < K3S_RESTARTS,
                "k3s of {name} has ended {} times: {detail}\n{}",
                k3s.restarts,
                program::last_words(&storage.join(name).join(name).join("log/k3s.log"))
            );
            Ok(Outlook::Lacking(format!("k3s is {}: {detail}", k3s.state)))
        })
    }

    /// Asks every node until `satisfied` with its report.
    fn await_each(
        &mut self,
        patience: Duration,
        progress: &Progress,
        interrupt: &Interrupt,
        satisfied: impl Fn(&mut Neighbour, &Status) -> anyhow::Result<Outlook>,
    ) -> anyhow::Result<()> {
        let start = Instant::now();
        for neighbour in &mut self.homes {
            let mut lacking = "it does not answer".to_owned();
            loop {
                interrupt.check()?;
                if let Some(status) = neighbour.status(&self.program)? {
                    match satisfied(neighbour, &status)? {
                        Outlook::Done(what) => break progress.part(&what),
                        Outlook::Lacking(what) => lacking = what,
                    }
                }
                if start.elapsed() > patience {
                    bail!(
                        "{} is not up after {} s: {lacking}\n{}",
                        neighbour.name,
                        patience.as_secs(),
                        neighbour.last_words()
                    );
                }
                interrupt.pause(Duration::from_millis(50))?;
            }
        }
        Ok(())
    }

    /// The nodes, as a table.
    pub fn introduction(&self) -> String {
        let reason = if self.kind == "ipvlan" {
            ""
        } else {
            " (this kernel makes no ipvlan)"
        };
        let mut rows = vec![
            ["node", "uplink in its home", "overlay IPv4", "overlay IPv6"]
                .map(str::to_owned)
                .to_vec(),
        ];
        for (number, neighbour) in (1u16..).zip(&self.homes) {
            let mut row = vec![
                neighbour.name.to_owned(),
                format!("192.168.77.{}", 100 + number),
            ];
            row.extend(neighbour.overlay.iter().map(ToString::to_string));
            rows.push(row);
        }
        format!(
            "\n{} homes on one bridge, a node in each by {}{reason}\n\n{}",
            self.homes.len(),
            self.kind,
            table(&rows)
        )
    }

    /// How to look around.
    pub fn directions(&self) -> String {
        let program = self.program.display();
        let mut text = "Look around, as root; each home is a machine of its own:\n".to_owned();
        for neighbour in &self.homes {
            let Some(pid) = neighbour.pid() else { continue };
            let _ = writeln!(
                text,
                "  nsenter -t {pid} -m -n {program} status    # in the home of {}",
                neighbour.name
            );
        }
        if let [one, other, ..] = &self.homes[..] {
            let pid = one.pid().unwrap_or_default();
            let _ = writeln!(text, "  nsenter -t {pid} -m -n {program} peers");
            let _ = writeln!(
                text,
                "  nsenter -t {pid} -m -n {program} exec --net -- ping -c 3 {}",
                other.name
            );
        }
        let _ = writeln!(text, "Config files and logs: {}", self.directory.display());
        text
    }

    /// Lets everything live on; the command that ends it.
    pub fn keep(&mut self) -> String {
        let pids: Vec<String> = self
            .homes
            .iter()
            .filter_map(Neighbour::pid)
            .map(|pid| pid.to_string())
            .collect();
        self.homes.iter_mut().for_each(Neighbour::release);
        self.kept = true;
        let pids = pids.join(" ");
        format!("kill {pids}; sleep 5; rm -r {}", self.directory.display())
    }
}

impl Drop for Town {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let mut failures = Vec::new();
        for neighbour in &mut self.homes {
            failures.extend(neighbour.stop().err());
        }
        // Together: each may wait for its pods.
        let patience = if self.k3s.is_some() {
            K3S_STOP_PATIENCE
        } else {
            STOP_PATIENCE
        };
        let program = &self.program;
        failures.extend(thread::scope(|scope| {
            let ending: Vec<_> = self
                .homes
                .iter_mut()
                .map(|neighbour| scope.spawn(move || neighbour.end(program, patience)))
                .collect();
            let ended = ending.into_iter().filter_map(|thread| thread.join().ok());
            ended.filter_map(Result::err).collect::<Vec<_>>()
        }));
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            failures.push(
                anyhow::Error::new(error)
                    .context(format!("cannot remove {}", self.directory.display())),
            );
        }
        for failure in failures {
            say(&format!("warning: {failure:#}"));
        }
    }
}

fn net(text: &str) -> IpNet {
    text.parse()
        .expect("the demo's own addresses are well-formed")
}
