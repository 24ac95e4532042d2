//! `hepto-node reload`.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Target;
use crate::control::{Answer, Ask, Client};
use crate::fault::{Exit, Fault};
use crate::status::{Problem, Status};
use crate::target::{self, RunDirectory};

/// Longer than the new program may take to check the config.
const CHECK: Duration = Duration::from_secs(90);
/// How long a node may take to be as before, when nothing else was said.
const USUAL: Duration = Duration::from_secs(60);
/// How long a node whose new program has ended may take to be back under the earlier one.
const GUARD: Duration = Duration::from_secs(20);
/// What a node says that is.
const PUT_BACK: &str = "W-RELOAD-BACK";
/// Between two looks at a node that comes up.
const PAUSE: Duration = Duration::from_millis(50);

/// What `reload` takes.
#[derive(Debug, Args)]
pub struct ReloadArgs {
    #[command(flatten)]
    pub target: Target,
    /// Wait until the other nodes are reached again and k3s is as ready as it was
    #[arg(long)]
    pub wait: bool,
    /// The longest time to wait, as 90s, 5m or 1h; without it a minute, and as long as a new k3s may take
    #[arg(long, value_name = "TIME", requires = "wait", value_parser = humantime::parse_duration)]
    pub timeout: Option<Duration>,
}

/// Has the installed program take over, and waits for the node as it was before.
pub fn run(args: ReloadArgs) -> anyhow::Result<ExitCode> {
    let run_directory = target::running(&args.target)?;
    let mut client = connect(&run_directory)?;
    let process = client.process()?;
    let before = Seen::by(&mut client)?;
    if let Err(why) = client.reload(CHECK)? {
        // With its code.
        anyhow::bail!("{why}");
    }
    if args.wait {
        let (version, took) = wait(&run_directory.path, &process, &before, args.timeout)?;
        let took = took.as_secs_f64();
        eprintln!(
            "{} is back after {took:.1} s, with hepto-node {version}",
            run_directory.name()
        );
    } else {
        eprintln!("{} is reloading", run_directory.name());
    }
    Ok(ExitCode::SUCCESS)
}

fn connect(run_directory: &RunDirectory) -> anyhow::Result<Client> {
    Client::connect(&run_directory.path).map_err(|error| {
        let name = run_directory.name();
        if error.kind() == ErrorKind::PermissionDenied {
            return Fault::new("E-STOP-ROOT", format!("only root reloads a node: {error}"))
                .fix("run it as root")
                .exit(Exit::NoPermission)
                .into();
        }
        let what = format!("{name} does not run: {error}");
        let fault = Fault::new("E-RELOAD-ABSENT", what).exit(Exit::NotReady);
        fault
            .fix("start it: hepto-node run --config FILE, or its systemd unit")
            .into()
    })
}

/// What there was before, and has to be again.
struct Seen {
    reached: BTreeSet<String>,
    uplink: String,
    k3s_ready: bool,
    /// A k3s that is on its way into another's place.
    upgrade: Option<String>,
    /// What is wrong with k3s.
    wrong: BTreeSet<String>,
    /// Whether the program from before stands by, for one that fails.
    on_trial: bool,
    /// That the program from before took the node back.
    put_back: Option<Problem>,
    version: String,
}

impl Seen {
    fn by(client: &mut Client) -> anyhow::Result<Seen> {
        let status = status(client)?;
        let Answer::Peers(peers) = client.ask(Ask::Peers)? else {
            anyhow::bail!("the node answers something else than its peers");
        };
        let reached = peers.into_iter().filter(|peer| peer.session);
        Ok(Seen {
            reached: reached.map(|peer| peer.name).collect(),
            k3s_ready: status.k3s.as_ref().is_some_and(|k3s| k3s.ready),
            upgrade: status.k3s.and_then(|k3s| k3s.upgrade),
            wrong: status.problems.iter().filter_map(wrong).collect(),
            on_trial: status.on_trial,
            put_back: status
                .problems
                .into_iter()
                .find(|problem| problem.code == PUT_BACK),
            uplink: status.network.uplink.state,
            version: status.version,
        })
    }

    /// What of `self` is not there yet, in words.
    fn missing(&self, now: &Seen) -> Option<String> {
        let unreached: Vec<&str> = self
            .reached
            .difference(&now.reached)
            .map(String::as_str)
            .collect();
        if self.uplink == "up" && now.uplink != "up" {
            return Some(format!("the uplink is {}", now.uplink));
        }
        if !unreached.is_empty() {
            return Some(format!("not reached again: {}", unreached.join(", ")));
        }
        if let Some(name) = &now.upgrade {
            return Some(format!("{name} is not ready yet"));
        }
        if self.k3s_ready && !now.k3s_ready {
            return Some("k3s is not ready again".to_owned());
        }
        now.on_trial
            .then(|| "the new program has yet to prove itself".to_owned())
    }
}

/// A problem of k3s, as the operator reads it.
fn wrong(problem: &Problem) -> Option<String> {
    let Problem { code, what, fix } = problem;
    let fix = fix.as_ref().map(|fix| format!("\n  fix: {fix}"));
    let text = || format!("[{code}] {what}{}", fix.unwrap_or_default());
    code.contains("-K3S-").then(text)
}

fn status(client: &mut Client) -> anyhow::Result<Status> {
    match client.ask(Ask::Status)? {
        Answer::Status(status) => Ok(*status),
        answer => anyhow::bail!("the node answers something else than its status: {answer:?}"),
    }
}

/// Waits until all of `before` is there again; the new program's version, and the time that it took.
fn wait(
    run_directory: &Path,
    process: &OwnedFd,
    before: &Seen,
    limit: Option<Duration>,
) -> anyhow::Result<(String, Duration)> {
    let start = Instant::now();
    let mut since = start;
    let mut ended = None;
    loop {
        let now = Client::connect(run_directory)
            .map_err(anyhow::Error::from)
            .and_then(|mut client| Seen::by(&mut client));
        // First of all: the program from before may run the node again already, as if nothing had been.
        if has_ended(process)? {
            match &now {
                Ok(now) => return Err(failed(now.put_back.as_ref()).into()),
                Err(_) if ended.get_or_insert_with(Instant::now).elapsed() >= GUARD => {
                    return Err(failed(None).into());
                }
                Err(_) => {}
            }
        }
        let missing = match &now {
            Ok(now) => match before.missing(now) {
                // All is there; what the reload was to change may still have failed.
                None => match now.wrong.difference(&before.wrong).next() {
                    None => return Ok((now.version.clone(), start.elapsed())),
                    Some(wrong) => anyhow::bail!("{wrong}"),
                },
                missing => missing,
            },
            Err(_) => None,
        };
        // The node itself bounds how long a new k3s may take.
        if limit.is_none() && now.is_ok_and(|now| now.upgrade.is_some()) {
            since = Instant::now();
        }
        if since.elapsed() >= limit.unwrap_or(USUAL) {
            let missing = missing.unwrap_or_else(|| "it does not answer".into());
            let seconds = start.elapsed().as_secs();
            let what = format!("the node is not as before after {seconds} s: {missing}");
            return Err(Fault::new("E-RELOAD-SLOW", what)
                .fix("see hepto-node status and the node's log; it goes on trying")
                .into());
        }
        sleep(PAUSE);
    }
}

/// The new program ended, and perhaps the one from before took the node back.
fn failed(put_back: Option<&Problem>) -> Fault {
    match put_back {
        Some(problem) => {
            let fault = Fault::new("E-RELOAD-FAILED", problem.what.clone());
            fault.fix(problem.fix.clone().unwrap_or_default())
        }
        None => Fault::new(
            "E-RELOAD-FAILED",
            "the node's process ended when the new program took over; k3s and its pods run on",
        )
        .fix("read its log for the reason; start the node again, and it takes them over"),
    }
}

/// Whether a process has ended (pidfd_open(2): readable then).
fn has_ended(process: &OwnedFd) -> anyhow::Result<bool> {
    let mut fds = [PollFd::new(process, PollFlags::IN)];
    let ready = poll(&mut fds, Some(&Timespec::default())).context("the node's process")?;
    Ok(ready > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(reached: &[&str], uplink: &str, k3s_ready: bool) -> Seen {
        Seen {
            reached: reached.iter().map(ToString::to_string).collect(),
            uplink: uplink.into(),
            k3s_ready,
            upgrade: None,
            wrong: BTreeSet::new(),
            on_trial: false,
            put_back: None,
            version: "0.1.0".into(),
        }
    }

    #[test]
    fn what_was_there_has_to_be_again_and_no_more() {
        let before = seen(&["mars", "venus"], "up", true);
        let missing = |now: &Seen| before.missing(now).unwrap_or_default();
        assert_eq!(missing(&seen(&["mars", "pluto", "venus"], "up", true)), "");
        assert_eq!(
            missing(&seen(&["mars"], "up", true)),
            "not reached again: venus"
        );
        assert_eq!(
            missing(&seen(&["mars", "venus"], "down", true)),
            "the uplink is down"
        );
        assert_eq!(
            missing(&seen(&["mars", "venus"], "up", false)),
            "k3s is not ready again"
        );
        let trying = Seen {
            upgrade: Some("v2".into()),
            ..seen(&["mars", "venus"], "up", true)
        };
        assert_eq!(missing(&trying), "v2 is not ready yet");
        let mesh_only = seen(&[], "waiting", false);
        assert_eq!(mesh_only.missing(&seen(&[], "waiting", false)), None);
    }
}
