//! Snapshots of the one master: all that brings it up elsewhere under the same name, encrypted to the operator's key, kept
//! in a rotation, and sent to a few agents over the mesh; and how it is brought up again.
//!
//! `archive` says what is in one and `age` how it is sealed; `shelf` keeps them, `parcel` carries one, `schedule`
//! (pure) decides when; `take` makes one, `restore` turns one into a node's storage. In a running node all work is on
//! one plain thread, `hepto-snapshot`, inside the node's network namespace: [`master`] makes and sends, [`agent`] takes
//! what the master brings. It never holds up the main loop, and nothing depends on it.

pub mod age;
mod agent;
pub mod archive;
mod master;
mod parcel;
pub mod restore;
mod schedule;
pub mod shelf;
pub mod stamp;
pub mod take;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hepto_mesh::name::NodeName;
use hepto_net::Entry;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use tokio::sync::oneshot;

use crate::config::{Config, FirewallMode};
use crate::control::Answer;
use crate::fault::Fault;
use crate::status::{Problem, SnapshotStatus};
use shelf::{Bounds, Kept, Shelf};
use stamp::Stamp;

/// How long a node that stops waits for the thread: what was begun is swept at the next start.
const FAREWELL: Duration = Duration::from_secs(2);

/// The snapshots of a running node.
pub struct Snapshots {
    shared: Arc<Shared>,
    /// What `status` warns of for as long as the node runs with its config.
    unset: Option<Problem>,
    master: bool,
    thread: Option<JoinHandle<()>>,
}

/// What the thread and the main loop both see.
struct Shared {
    state: Mutex<State>,
    wake: OwnedFd,
    ends: AtomicBool,
}

#[derive(Default)]
struct State {
    /// The other nodes.
    members: BTreeMap<NodeName, Ipv6Addr>,
    /// This node's own overlay address.
    own: Option<Ipv6Addr>,
    /// Who waits for a snapshot that he asked for.
    asked: Vec<oneshot::Sender<Answer>>,
    report: Report,
}

/// What the thread tells.
#[derive(Debug, Default, Clone)]
struct Report {
    kept: Vec<Kept>,
    /// Agents that hold the latest.
    holders: Vec<NodeName>,
    next: Option<Instant>,
    doing: Option<String>,
    /// What last went wrong, until it goes well.
    trouble: Option<Problem>,
    /// Why agents did not take the latest, by name.
    refusals: BTreeMap<NodeName, String>,
    /// Connections of others than the master.
    strangers: u64,
}

impl Snapshots {
    /// Starts the thread of this node's part: a master's with a recipient, or an agent's with room.
    pub fn start(config: &Config, entry: Entry) -> Result<Snapshots, Fault> {
        let failed = |what: &str, error: std::io::Error| {
            let fault = Fault::new("E-SNAPSHOT-THREAD", format!("{what}: {error}"));
            fault.fix("raise the limits of tasks and of open files (ulimit -u, ulimit -n)")
        };
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let wake = eventfd(0, flags)
            .map_err(|errno| failed("cannot make an event for the snapshots", errno.into()))?;
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            wake,
            ends: AtomicBool::new(false),
        });
        let (unset, work) = work(config);
        let thread = work.map(|work| {
            let shared = shared.clone();
            let builder = std::thread::Builder::new().name("hepto-snapshot".into());
            builder.spawn(move || {
                if let Err(error) = entry.enter() {
                    return tracing::error!(code = "E-RUN-THREAD", fix = "restart the node, and report its log", %error, "the thread hepto-snapshot cannot enter the node's network namespace");
                }
                // The mesh and k3s come first.
                let _ = rustix::process::nice(10);
                work(&shared);
            })
        });
        Ok(Snapshots {
            shared,
            unset,
            master: config.is_master(),
            thread: thread
                .transpose()
                .map_err(|error| failed("cannot start the thread hepto-snapshot", error))?,
        })
    }

    /// Tells who is there, the node itself first.
    pub fn members(&self, entries: &[(NodeName, Vec<IpAddr>)]) {
        let mut v6 = entries.iter().filter_map(|(name, addresses)| {
            let v6 = addresses.iter().find_map(|address| match address {
                IpAddr::V6(v6) => Some(*v6),
                IpAddr::V4(_) => None,
            });
            Some((name.clone(), v6?))
        });
        let mut state = self.shared.lock();
        state.own = v6.next().map(|(_, address)| address);
        state.members = v6.collect();
        drop(state);
        self.shared.wake();
    }

    /// Makes a snapshot now; the answer comes when it lies on the disk.
    pub fn ask(&self, answer: oneshot::Sender<Answer>) {
        let refusal = match (self.master, &self.unset, &self.thread) {
            (false, ..) => {
                Some("[E-SNAPSHOT-AGENT] snapshots are made on the master alone".to_owned())
            }
            (true, Some(unset), _) => Some(format!(
                "[{}] {}\n  fix: {}",
                unset.code,
                unset.what,
                unset.fix.as_deref().unwrap_or_default()
            )),
            (true, None, None) => Some("[E-SNAPSHOT-AGENT] this node runs no k3s".to_owned()),
            (true, None, Some(_)) => None,
        };
        match refusal {
            // Who asked may have gone away.
            Some(why) => drop(answer.send(Answer::Refused(why))),
            None => {
                self.shared.lock().asked.push(answer);
                self.shared.wake();
            }
        }
    }

    /// What `status` shows; `None` where this node has no part in snapshots.
    pub fn report(&self, config: &Config) -> Option<SnapshotStatus> {
        self.thread.as_ref()?;
        let report = self.shared.lock().report.clone();
        let last = report.kept.last();
        Some(SnapshotStatus {
            last: last.map(|last| last.name.clone()),
            age_s: last.map(|last| last.made.until(Stamp::now())),
            size: last.map(|last| last.size),
            kept: report.kept.len(),
            bytes: report.kept.iter().map(|kept| kept.size).sum(),
            wanted: if self.master {
                config.snapshot.agents
            } else {
                0
            },
            on: report.holders.iter().map(ToString::to_string).collect(),
            next_in_s: report
                .next
                .map(|next| next.saturating_duration_since(Instant::now()).as_secs()),
            doing: report.doing,
            strangers: report.strangers,
        })
    }

    /// What is wrong with them now.
    pub fn problems(&self, config: &Config) -> Vec<Problem> {
        let report = self.shared.lock().report.clone();
        let mut problems: Vec<Problem> = self.unset.iter().cloned().chain(report.trouble).collect();
        let wanted = config.snapshot.agents;
        if self.master
            && self.thread.is_some()
            && let Some(last) = report.kept.last()
            && report.holders.len() < wanted
            && last.made.until(Stamp::now()) >= PATIENCE.as_secs()
        {
            let why: Vec<String> = report
                .refusals
                .iter()
                .map(|(name, why)| format!("; {name} {why}"))
                .collect();
            problems.push(Problem {
                code: "W-SNAPSHOT-COPIES".into(),
                what: format!(
                    "the last snapshot is on {} of {wanted} agents{}",
                    report.holders.len(),
                    why.concat()
                ),
                fix: Some(
                    "see that other nodes run and have room; or lower snapshot.agents".into(),
                ),
            });
        }
        problems
    }

    /// Ends the thread; at the latest with the process.
    pub async fn stop(mut self) {
        self.shared.ends.store(true, Ordering::Relaxed);
        self.shared.wake();
        let Some(thread) = self.thread.take() else {
            return;
        };
        let end = tokio::time::Instant::now() + FAREWELL;
        while !thread.is_finished() && tokio::time::Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// How long a snapshot may lack agents before `status` says so.
const PATIENCE: Duration = Duration::from_secs(600);

type Work = Box<dyn FnOnce(&Shared) + Send>;

/// This node's part, and what is unset that it should have.
fn work(config: &Config) -> (Option<Problem>, Option<Work>) {
    let settings = &config.snapshot;
    let bounds = Bounds {
        keep: settings.keep,
        space: settings.space,
    };
    // Without the firewall anyone on the LAN could reach the port.
    let alone = config.network.firewall == FirewallMode::None;
    if !config.is_master() {
        let shelf = Shelf::of(&config.node_directory());
        let master = config.cluster.master.clone();
        let wanted = !alone && bounds.keep > 0 && bounds.space > 0;
        return (
            None,
            wanted.then(|| -> Work {
                Box::new(move |shared: &Shared| agent::run(shared, &shelf, &master, bounds))
            }),
        );
    }
    match take::Job::new(config) {
        Ok(Some(job)) => {
            let agents = if alone { 0 } else { settings.agents };
            let (every, rate) = (settings.every, settings.rate);
            let run = move |shared: &Shared| master::run(shared, &job, every, agents, rate);
            (None, Some(Box::new(run)))
        }
        Ok(None) => (None, None),
        Err(fault) => {
            let Fault {
                code, what, fix, ..
            } = fault;
            let code = code.into();
            (Some(Problem { code, what, fix }), None)
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is whole: what a thread that panicked left is as good as any.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ends(&self) -> bool {
        self.ends.load(Ordering::Relaxed)
    }

    fn wake(&self) {
        // Full means that it is awake.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// Waits until something happens, `listener` has a connection, or a time comes; empties the event.
    fn wait(&self, listener: Option<&dyn AsFd>, until: Option<Instant>) {
        let rest = until.map(|until| until.saturating_duration_since(Instant::now()));
        // One more millisecond, so that a time that has come is not waited for again.
        let timeout =
            rest.and_then(|rest| Timespec::try_from(rest + Duration::from_millis(1)).ok());
        let mut watched = vec![PollFd::new(&self.wake, PollFlags::IN)];
        let listener = listener.map(AsFd::as_fd);
        watched.extend(
            listener
                .as_ref()
                .map(|listener| PollFd::new(listener, PollFlags::IN)),
        );
        // Interrupted or not: the caller looks at everything anew.
        let _ = poll(&mut watched, timeout.as_ref());
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
    }
}
