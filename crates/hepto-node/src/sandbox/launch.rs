//! How a sandbox is made: the supervisor's side, and the process `hepto-node sandbox` between it and init.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::time::timeout;

use super::cgroup::{self, Hierarchy};
use super::descriptor::watch;
use super::mount::{self, Host};
use super::state::State;
use super::{Error, Settings, file, inherit, wire};

/// What the supervisor tells `sandbox`.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    settings: Settings,
    /// Whether the process was started in a systemd scope of its own.
    scope: bool,
}

/// What `sandbox` tells init.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Birth {
    pub settings: Settings,
    pub host: Host,
    pub hierarchies: Vec<Hierarchy>,
}

/// Nothing in the making waits for anything but disks.
const PATIENCE: Duration = Duration::from_secs(60);

/// Makes the sandbox and its init; returns when init listens.
pub(super) async fn start(settings: &Settings) -> Result<(), Error> {
    file::prepare(settings)?;
    let scope = Path::new("/run/systemd/system").is_dir();
    let failed = |why: io::Error| Error::Start {
        what: "the sandbox".into(),
        why: why.to_string(),
    };
    let (ours, theirs) = wire::pair().map_err(failed)?;
    let mut command = if scope {
        in_scope(settings)
    } else {
        again(&settings.executable, "sandbox")
    };
    command
        .stdin(theirs)
        .stdout(Stdio::null())
        .stderr(complaints(settings)?);
    let mut child = tokio::process::Command::from(command)
        .spawn()
        .map_err(failed)?;
    wire::put(
        &ours,
        &Order {
            settings: settings.clone(),
            scope,
        },
    )
    .map_err(failed)?;
    let Ok(answer) = timeout(PATIENCE, answer(ours)).await else {
        // What it has made by now is removed by the caller.
        child.kill().await.map_err(failed)?;
        return Err(failed(io::Error::other(format!(
            "no answer within {PATIENCE:?}"
        ))));
    };
    let ended = child.wait().await.map_err(failed)?;
    match answer {
        Ok(result) => result,
        Err(_) => {
            let log = settings.directory.join(COMPLAINTS);
            let last = fs::read_to_string(&log)
                .unwrap_or_default()
                .lines()
                .last()
                .unwrap_or_default()
                .to_owned();
            Err(Error::Start {
                what: "the sandbox".into(),
                why: format!("{ended}: {last} (see {})", log.display()),
            })
        }
    }
}

/// Where panics of `sandbox` and init, and complaints of systemd-run, go.
const COMPLAINTS: &str = "log/init.stderr";

fn complaints(settings: &Settings) -> Result<fs::File, Error> {
    let path = settings.directory.join(COMPLAINTS);
    let mut options = OpenOptions::new();
    options.create(true).write(true).truncate(true).mode(0o600);
    options
        .open(&path)
        .map_err(|error| Error::file("create", &path, error))
}

/// Our own program with a hidden command, and nothing of our environment.
fn again(executable: &Path, command: &str) -> Command {
    let mut again = Command::new(executable);
    again
        .arg0("hepto-node")
        .arg(command)
        .env_clear()
        .current_dir("/");
    again
}

/// The same in a transient scope: in the service's own cgroup, the node would end with a crash of the supervisor or, with
/// Delegate, keep the service from starting again.
fn in_scope(settings: &Settings) -> Command {
    let unit = format!("hepto-{}.{}-pods", settings.cluster, settings.node);
    let mut command = Command::new("systemd-run");
    command
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .current_dir("/");
    command.args([
        "--scope",
        "--quiet",
        "--collect",
        "--slice=hepto.slice",
        "--property=Delegate=yes",
    ]);
    command.arg(format!("--unit={unit}"));
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    if let Some(service) = service(&own) {
        // Ends with `systemctl stop`, and survives crash and restart of the service (BindsTo would not).
        command
            .arg(format!("--property=PartOf={service}"))
            .arg(format!("--property=Before={service}"));
    }
    // systemd-run's own /proc/self/exe is systemd-run.
    let executable = match settings.executable.strip_prefix("/proc/self") {
        Ok(rest) => PathBuf::from(format!("/proc/{}", std::process::id())).join(rest),
        Err(_) => settings.executable.clone(),
    };
    command.arg("--").arg(executable).arg("sandbox");
    command
}

/// The systemd service that a process belongs to, by its /proc/self/cgroup.
fn service(own: &str) -> Option<&str> {
    let line = own
        .lines()
        .find(|line| line.contains(":name=systemd:") || line.starts_with("0::"))?;
    line.rsplit(['/', ':'])
        .find(|part| part.ends_with(".service"))
}

async fn answer(socket: OwnedFd) -> io::Result<Result<(), Error>> {
    rustix::io::ioctl_fionbio(&socket, true)?;
    let socket = watch(socket, Interest::READABLE)?;
    socket
        .async_io(Interest::READABLE, |socket| wire::get(socket))
        .await
}

/// `hepto-node sandbox`: its socket is its standard input. Single-threaded, as the kernel demands.
///
/// # Errors
/// When the supervisor cannot be answered; everything else is its answer.
pub fn sandbox() -> io::Result<()> {
    inherit::shed();
    let supervisor = io::stdin().as_fd().try_clone_to_owned()?;
    let order: Order = wire::get(&supervisor)?;
    wire::put(&supervisor, &make(order))
}

fn make(order: Order) -> Result<(), Error> {
    let Order { settings, scope } = order;
    let settings = resolved(settings);
    let host = Host::observe();
    // Before anything is made: a plan that is refused leaves nothing behind.
    let node = format!("{}.{}", settings.cluster, settings.node);
    let hierarchies = cgroup::observe(&node, scope)?;
    mount::plan(&settings, &host, &hierarchies)?;
    let brief = Settings {
        hosts: String::new(),
        resolv_conf: String::new(),
        ..settings.clone()
    };
    State {
        settings: Some(brief),
        hierarchies: hierarchies.clone(),
        places: mount::places(&settings, &host),
    }
    .write(&settings.run_directory)?;
    cgroup::create(&hierarchies)?;
    enter_network(&settings.netns)?;
    cgroup::enter(&hierarchies)?;
    let flags = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWCGROUP;
    unshare(flags).map_err(|error| namespace("make the node's namespaces", error))?;
    cgroup::descend(&hierarchies)?;
    bear(Birth {
        settings,
        host,
        hierarchies,
    })
}

/// Paths as they really are: what is compared must not hide behind a link. What is shown is shown by both names.
fn resolved(mut settings: Settings) -> Settings {
    let real = |path: &PathBuf| path.canonicalize().unwrap_or_else(|_| path.clone());
    let all = |paths: &[PathBuf]| paths.iter().map(real).collect::<Vec<_>>();
    settings.storage = real(&settings.storage);
    settings.data = all(&settings.data);
    settings.hidden = all(&settings.hidden);
    settings.visible.extend(all(&settings.visible));
    settings.visible.sort();
    settings.visible.dedup();
    settings
}

/// Enters a pinned network namespace.
pub(super) fn enter_network(pin: &Path) -> Result<(), Error> {
    let verb = || format!("enter the network namespace {}", pin.display());
    let file = fs::File::open(pin).map_err(|error| namespace(&verb(), error))?;
    setns(file, CloneFlags::CLONE_NEWNET).map_err(|error| namespace(&verb(), error))
}

pub(super) fn namespace(verb: &str, why: impl ToString) -> Error {
    Error::Namespace {
        verb: verb.into(),
        why: why.to_string(),
    }
}

/// Starts init and hears how far it came.
fn bear(birth: Birth) -> Result<(), Error> {
    let failed = |why: io::Error| Error::Start {
        what: "init".into(),
        why: why.to_string(),
    };
    let (ours, theirs) = wire::pair().map_err(failed)?;
    // Not `settings.executable`: /proc is still the host's here, and it may be hidden by now.
    let mut init = again(Path::new("/proc/self/exe"), "init");
    // Never waited for: it outlives this process, and belongs to the host's own init then.
    let child = init
        .stdin(theirs)
        .stdout(Stdio::null())
        .spawn()
        .map_err(failed)?;
    // The command holds the other end, whose closing tells of init's death.
    drop(init);
    wire::put(&ours, &birth).map_err(failed)?;
    wire::get(&ours).unwrap_or_else(|error| {
        let why = format!("pid {} ended before it was ready ({error})", child.id());
        Err(Error::Start {
            what: "init".into(),
            why,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::service;

    #[test]
    fn the_service_is_found_in_either_kind_of_hierarchy() {
        assert_eq!(
            service("0::/hepto.slice/hepto-node@grumpy.service\n"),
            Some("hepto-node@grumpy.service")
        );
        assert_eq!(
            service("1:name=systemd:/system.slice/x.service/sub\n0::/\n"),
            Some("x.service")
        );
        assert_eq!(
            service("0::/user.slice/user-0.slice/session-1.scope\n"),
            None
        );
    }
}
