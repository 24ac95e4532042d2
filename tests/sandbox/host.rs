//! The host of a test, and the nodes on it.

use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hepto_tests::patience;

use nix::unistd::Pid;

use crate::sandbox::{self, Event, Program, Sandbox, Settings};

/// The variable that carries the cluster's name, by which its cgroups are known from outside.
pub const CLUSTER: &str = "HEPTO_TEST_CLUSTER";
/// Everything here takes far less; a machine under load takes longer.
pub const DEADLINE: Duration = Duration::from_secs(30);
/// Our own program.
pub const HEPTO: &str = env!("CARGO_BIN_EXE_hepto-node");

/// Folders that a host without k3s lacks, and that a node mounts over.
const PLACES: [&str; 6] = [
    "/etc/cni",
    "/etc/rancher",
    "/opt/cni",
    "/var/lib/rancher",
    "/var/lib/kubelet",
    "/var/lib/cni",
];

/// Covers what the tests write to, in the test's own mount namespace.
pub fn cover() -> Result<()> {
    for folder in ["/run", "/srv", "/mnt"] {
        run("mount", &["-t", "tmpfs", "tmpfs", folder])?;
    }
    // Mount points are made in /etc, /opt and /var/lib: other tests of this machine make the same ones.
    for (index, folder) in ["/etc", "/opt", "/var"].iter().enumerate() {
        let (upper, work) = (format!("/mnt/upper{index}"), format!("/mnt/work{index}"));
        fs::create_dir(&upper)?;
        fs::create_dir(&work)?;
        let options = format!("lowerdir={folder},upperdir={upper},workdir={work}");
        run(
            "mount",
            &["-t", "overlay", "overlay", "-o", &options, folder],
        )?;
    }
    for place in PLACES.iter().filter(|place| Path::new(place).exists()) {
        fs::remove_dir_all(place)?;
    }
    for folder in ["/run/netns", "/run/hepto", "/mnt/keys", "/srv/data"] {
        fs::create_dir(folder)?;
    }
    fs::write("/mnt/keys/overlay.key", "secret")?;
    fs::write("/srv/data/file", "data")?;
    Ok(())
}

/// Runs a command that must succeed, and gives what it said.
pub fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    said(output).with_context(|| format!("{program} {}", arguments.join(" ")))
}

fn said(output: Output) -> Result<String> {
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {errors}", output.status);
    Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
}

/// A node of the test's cluster.
pub struct Node {
    pub settings: Settings,
}

impl Node {
    /// With a network namespace of its own, and nothing else made.
    pub fn new(node: &str) -> Result<Node> {
        let cluster = std::env::var(CLUSTER)?;
        let netns = PathBuf::from(format!("/run/netns/hepto-{cluster}.{node}"));
        if !netns.exists() {
            fs::write(&netns, "")?;
            run("unshare", &[&format!("--net={}", netns.display()), "true"])?;
        }
        let settings = Settings {
            node: node.into(),
            directory: Path::new("/srv").join(node),
            storage: "/srv".into(),
            data: vec!["/srv/data".into()],
            netns,
            run_directory: format!("/run/hepto/{cluster}.{node}").into(),
            hosts: sandbox::hosts(&[(node.into(), vec!["10.44.7.9".parse()?])]),
            resolv_conf: "nameserver 192.0.2.53\n".into(),
            hidden: vec!["/mnt/keys".into()],
            visible: Vec::new(),
            limits: sandbox::Limits::default(),
            executable: HEPTO.into(),
            cluster,
        };
        Ok(Node { settings })
    }

    pub async fn start(&self) -> Result<Sandbox> {
        Sandbox::start_or_adopt(&self.settings)
            .await
            .context(format!("start {}", self.settings.node))
    }

    /// `hepto-node exec` of a shell script in the node, which must succeed. `$PODS` is kubelet's cgroup.
    pub fn shell(&self, script: &str) -> Result<String> {
        said(self.exec(&["--", "sh", "-c", &format!("{PODS}{script}")])?)
            .with_context(|| format!("in {}: {script}", self.settings.node))
    }

    /// `hepto-node exec` with any arguments.
    pub fn exec(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(HEPTO);
        command
            .args(["exec", "--node", &self.settings.node])
            .args(arguments);
        Ok(command.output()?)
    }

    /// The pid of the node's init on the host.
    pub fn init(&self) -> Result<Pid> {
        Ok(Pid::from_raw(
            sandbox::programs(&self.settings.run_directory)?.pid,
        ))
    }

    /// What a program of the node has written so far.
    pub fn log(&self, id: &str) -> String {
        fs::read_to_string(self.settings.directory.join(format!("log/{id}.log")))
            .unwrap_or_default()
    }

    /// Fails if anything of the node is left on the host but its network namespace and its storage.
    pub fn is_gone(&self) -> Result<()> {
        let left: Vec<_> = fs::read_dir(&self.settings.run_directory)?
            .flatten()
            .map(|entry| entry.file_name())
            // They are the run's, not the sandbox's.
            .filter(|name| {
                !["hosts", "resolv.conf", "wireguard"]
                    .iter()
                    .any(|own| name == own)
            })
            .collect();
        ensure!(left.is_empty(), "left in the run directory: {left:?}");
        let cgroups = cgroups(&format!("{}.{}", self.settings.cluster, self.settings.node));
        ensure!(cgroups.is_empty(), "left: {cgroups:?}");
        for place in PLACES {
            ensure!(!Path::new(place).exists(), "left: {place}");
        }
        Ok(())
    }
}

/// A shell script as a program.
pub fn script(id: &str, script: &str) -> Program {
    Program {
        id: id.into(),
        argv: vec!["/bin/sh".into(), "-c".into(), script.into()],
        env: sandbox::environment(),
        notify: false,
        log: format!("/var/log/{id}.log").into(),
    }
}

/// Whether this host has version 2 of cgroups alone.
pub fn unified() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.procs").exists()
}

/// Before each script: where a kubelet puts pods, in one of the hierarchies that it uses.
const PODS: &str = "export PODS=/sys/fs/cgroup/kubepods\n\
                    [ -e /sys/fs/cgroup/cgroup.procs ] || PODS=/sys/fs/cgroup/pids/kubepods\n";

/// Drives a test's futures, as `run` does: one thread.
pub fn drive<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(future)
}

/// The next event, in time.
pub async fn event(sandbox: &mut Sandbox) -> Result<Event> {
    tokio::time::timeout(patience(DEADLINE), sandbox.event())
        .await
        .context("no event came")
}

/// Starts a program and gives its pid inside.
pub async fn spawn(sandbox: &mut Sandbox, program: Program) -> Result<i32> {
    sandbox.spawn(&program).await?;
    match event(sandbox).await? {
        Event::Spawned { id, pid } if id == program.id => Ok(pid),
        other => bail!("{other:?} in place of Spawned"),
    }
}

/// Waits for a condition, with a deadline.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) -> Result<()> {
    let start = Instant::now();
    while !holds() {
        ensure!(
            start.elapsed() < patience(DEADLINE),
            "waited in vain for: {what}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// The stop, with no failure.
pub async fn stop(sandbox: Sandbox, grace: Duration) -> Result<()> {
    let errors = sandbox.stop(grace).await;
    ensure!(errors.is_empty(), "stop: {errors:?}");
    Ok(())
}

/// The cgroups of this machine whose name starts so, without those below them.
pub fn cgroups(prefix: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    find(Path::new("/sys/fs/cgroup"), prefix, &mut found);
    found
}

fn find(folder: &Path, prefix: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            found.push(path);
        } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            find(&path, prefix, found);
        }
    }
}

/// Removes the cgroups of a test whose processes have all ended with its pid namespace. Gives what there was.
pub fn sweep_cgroups(cluster: &str) -> Result<Vec<PathBuf>> {
    fn remove(folder: &Path) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                remove(&entry.path());
            }
        }
        let _ = fs::remove_dir(folder);
    }
    let left = cgroups(&format!("{cluster}."));
    for folder in &left {
        remove(folder);
        if let Some(parent) = folder.parent() {
            // Shared with other nodes: removed by the last.
            let _ = fs::remove_dir(parent);
        }
    }
    Ok(left)
}
