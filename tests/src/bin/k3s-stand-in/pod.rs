//! A pod as it looks to who has to end it: processes in cgroups under `kubepods`, children of a shim that is a child
//! of PID 1 and so outlives k3s. Both write down the SIGTERM that they get: the pod has to get one, the shim not.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::Context;
use nix::sys::signal::{SigSet, Signal};

/// Subcommand: starts the shim and ends, so that the shim falls to PID 1.
pub const LAUNCH: &str = "stand-in-launch";
/// Subcommand: the shim.
pub const SHIM: &str = "stand-in-shim";
/// Subcommand: the pod's process.
pub const POD: &str = "stand-in-pod";

/// The name by which a containerd shim is known (its first 15 characters are the kernel's `comm`).
const SHIM_NAME: &str = "containerd-shim-runc-v2";

/// Starts a pod, unless one of an earlier k3s still lives. Its files are `stand-in.pod` and `stand-in.shim` (the pid,
/// then `terminated`) in `data`.
pub fn start(data: &Path) -> anyhow::Result<()> {
    if let Ok(text) = fs::read_to_string(data.join("stand-in.pod"))
        && let Some(pid) = text.lines().next()
        && fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| line.windows(POD.len()).any(|word| word == POD.as_bytes()))
    {
        eprintln!("the pod {pid} of an earlier start lives");
        return Ok(());
    }
    let done = command(LAUNCH, data)?.status().context("start a pod")?;
    anyhow::ensure!(done.success(), "start a pod: {done}");
    Ok(())
}

pub fn launch(data: &Path) -> anyhow::Result<ExitCode> {
    let shim = command(SHIM, data)?
        .arg0(SHIM_NAME)
        .spawn()
        .context("start the shim")?;
    move_into_pod(shim.id())?;
    Ok(ExitCode::SUCCESS)
}

pub fn shim(data: &Path) -> anyhow::Result<ExitCode> {
    let terminate = block()?;
    rustix::thread::set_name(c"containerd-shim")?;
    let mut pod = command(POD, data)?
        .spawn()
        .context("start the pod's process")?;
    move_into_pod(pod.id())?;
    record(data, "shim", &terminate)?;
    // Without a reaper of its own the pod's process would stay a zombie.
    pod.wait()?;
    Ok(ExitCode::SUCCESS)
}

pub fn pod(data: &Path) -> anyhow::Result<ExitCode> {
    let terminate = block()?;
    let written = record(data, "pod", &terminate)?;
    written
        .join()
        .map_err(|_| anyhow::anyhow!("the pod's thread panicked"))?;
    Ok(ExitCode::SUCCESS)
}

fn block() -> anyhow::Result<SigSet> {
    let terminate = SigSet::from(Signal::SIGTERM);
    terminate.thread_block()?;
    Ok(terminate)
}

/// Writes the pid down once the process is in the pod's cgroups, and the first SIGTERM when it comes; the thread then
/// ends.
fn record(
    data: &Path,
    name: &str,
    terminate: &SigSet,
) -> anyhow::Result<std::thread::JoinHandle<()>> {
    let in_pod =
        || fs::read_to_string("/proc/self/cgroup").map(|text| text.matches("/kubepods/").count());
    while in_pod()? < hierarchies().len() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let path = data.join(format!("stand-in.{name}"));
    fs::write(&path, format!("{}\n", std::process::id()))?;
    let terminate = *terminate;
    Ok(std::thread::spawn(move || {
        if terminate.wait().is_ok() {
            let text = format!("{}\nterminated\n", std::process::id());
            if let Err(error) = fs::write(&path, text) {
                eprintln!("{}: {error}", path.display());
            }
        }
    }))
}

fn command(subcommand: &str, data: &Path) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("the binary's own path")?);
    command
        .arg(subcommand)
        .arg(data)
        .env_remove("NOTIFY_SOCKET");
    Ok(command)
}

/// Puts a process where the kubelet would: the same path in every hierarchy.
fn move_into_pod(pid: u32) -> anyhow::Result<()> {
    for hierarchy in hierarchies() {
        let folder = hierarchy.join("kubepods/besteffort/pod-stand-in");
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        // A new cpuset (v1) takes no process until it has processors and memory.
        for part in [
            "kubepods",
            "kubepods/besteffort",
            "kubepods/besteffort/pod-stand-in",
        ] {
            for name in ["cpuset.cpus", "cpuset.mems"] {
                let (file, above) = (
                    hierarchy.join(part).join(name),
                    hierarchy.join(part).join("..").join(name),
                );
                if fs::read_to_string(&file).is_ok_and(|text| text.trim().is_empty())
                    && hierarchy.ends_with("cpuset")
                {
                    fs::write(&file, fs::read(above)?)?;
                }
            }
        }
        let procs = folder.join("cgroup.procs");
        fs::write(&procs, pid.to_string())
            .with_context(|| format!("move {pid} into {}", procs.display()))?;
    }
    Ok(())
}

/// Where cgroup hierarchies are mounted in the node: one on v2, one a controller on v1, both on hybrid.
pub fn hierarchies() -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let is_cgroup = |line: &&str| {
        let kind = line
            .split(" - ")
            .nth(1)
            .and_then(|rest| rest.split(' ').next());
        matches!(kind, Some("cgroup" | "cgroup2"))
    };
    let mut found: Vec<PathBuf> = table
        .lines()
        .filter(is_cgroup)
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|point| point.starts_with("/sys/fs/cgroup"))
        .map(PathBuf::from)
        .collect();
    found.sort();
    found.dedup();
    found
}
