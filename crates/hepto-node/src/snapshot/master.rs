//! The master's part: makes snapshots by the schedule and sends the latest to so many agents.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hepto_mesh::name::NodeName;

use super::parcel::{self, Offer};
use super::schedule::{Act, Made, Schedule};
use super::shelf::{Kept, Shelf};
use super::stamp::Stamp;
use super::take::Job;
use super::{Report, Shared};
use crate::config::SNAPSHOT_PORT;
use crate::control::Answer;
use crate::fault::Fault;
use crate::status::Problem;

/// Runs until the node stops.
pub(super) fn run(shared: &Shared, job: &Job, every: Option<Duration>, agents: usize, rate: u64) {
    let shelf = job.shelf();
    shelf.sweep(None);
    let kept = shelf.list();
    let age = kept.last().map(|last| last.made.until(Stamp::now()));
    let mut schedule = Schedule::new(every, agents, age.map(Duration::from_secs), Instant::now());
    let mut offer: Option<Offer> = None;
    tell(shared, &shelf, &schedule, |_| {});
    while !shared.ends() {
        let (members, asked) = {
            let state = shared.lock();
            let names: Vec<NodeName> = state.members.keys().cloned().collect();
            (names, !state.asked.is_empty())
        };
        if asked {
            schedule.ask(Instant::now());
        }
        match schedule.next(Instant::now(), &members) {
            Act::Make => {
                make(shared, job, &mut schedule);
                offer = None;
                tell(shared, &shelf, &schedule, |_| {});
            }
            Act::Push(agent) => {
                let latest = shelf.list().pop();
                let sent = push(shared, &shelf, &agent, latest.as_ref(), &mut offer, rate);
                schedule.pushed(&agent, sent.is_ok(), Instant::now());
                tell(shared, &shelf, &schedule, |report| {
                    report.refusals.remove(&agent);
                    if let Err(why) = sent {
                        tracing::debug!(%agent, why, "the snapshot was not taken");
                        report.refusals.insert(agent.clone(), why);
                    } else {
                        tracing::info!(%agent, "the snapshot is kept there");
                    }
                });
            }
            Act::Wait(until) => shared.wait(None, until),
        }
    }
}

fn tell(shared: &Shared, shelf: &Shelf, schedule: &Schedule, change: impl FnOnce(&mut Report)) {
    let kept = shelf.list();
    let mut state = shared.lock();
    state.report.kept = kept;
    state.report.holders = schedule.holders().cloned().collect();
    state.report.next = schedule.due();
    state.report.doing = None;
    change(&mut state.report);
}

fn doing(shared: &Shared, what: String) {
    shared.lock().report.doing = Some(what);
}

fn make(shared: &Shared, job: &Job, schedule: &mut Schedule) {
    doing(shared, "makes one".into());
    // Who asks while it is made gets the next one.
    let asked = std::mem::take(&mut shared.lock().asked);
    let taken = job.take();
    let made = match &taken {
        Ok(_) => Made::Well,
        Err(fault) if fault.code == "E-DATASTORE-ABSENT" => Made::NotYet,
        Err(_) => Made::Badly,
    };
    schedule.made(made, Instant::now());
    log(&taken, made);
    let mut state = shared.lock();
    match made {
        Made::Well => {
            state.report.trouble = None;
            state.report.refusals.clear();
        }
        Made::NotYet => {}
        Made::Badly => state.report.trouble = taken.as_ref().err().map(problem),
    }
    drop(state);
    for answer in asked {
        // Who asked may have gone away.
        let _ = answer.send(match &taken {
            Ok(kept) => Answer::Snapshot(kept.clone()),
            Err(fault) => Answer::Refused(fault.to_string()),
        });
    }
}

fn log(taken: &Result<Kept, Fault>, made: Made) {
    match taken {
        Ok(kept) => tracing::info!(name = kept.name, bytes = kept.size, "a snapshot was made"),
        Err(fault) if made == Made::NotYet => tracing::debug!("no snapshot yet: {fault}"),
        Err(fault) => tracing::error!(
            code = fault.code,
            fix = fault.remedy(),
            "no snapshot was made: {}",
            fault.what
        ),
    }
}

fn problem(fault: &Fault) -> Problem {
    Problem {
        code: fault.code.into(),
        what: fault.what.clone(),
        fix: fault.fix.clone(),
    }
}

fn push(
    shared: &Shared,
    shelf: &Shelf,
    agent: &NodeName,
    latest: Option<&Kept>,
    offer: &mut Option<Offer>,
    rate: u64,
) -> Result<(), String> {
    let latest = latest.ok_or("there is no snapshot any more")?;
    let address = shared.lock().members.get(agent).copied();
    let to = SocketAddr::from((address.ok_or("is no member any more")?, SNAPSHOT_PORT));
    if offer.as_ref().is_none_or(|offer| offer.name != latest.name) {
        *offer = Some(Offer::of(shelf, latest).map_err(|error| error.to_string())?);
    }
    let offer = offer.as_ref().ok_or("there is no snapshot any more")?;
    let progress = |have: u64| {
        let percent = have * 100 / offer.size.max(1);
        doing(shared, format!("sends one to {agent}, {percent} %"));
    };
    progress(0);
    parcel::send(to, shelf, offer, rate, &shared.ends, &progress)
}
