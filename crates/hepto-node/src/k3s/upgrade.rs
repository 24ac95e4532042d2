//! Which k3s is to run: the one that the config wants, or, when that was not ready in time, the last that was. Pure: what
//! happened and the time go in, what to start comes out; [`files`] does what it asks of the disk.
//!
//! ```text
//! nothing → TRYING → SETTLING → nothing        a new k3s is started; ready; ready for a while
//!              └───→ RETURNING → FAILED         not ready in time: the earlier one, with its datastore, until the config changes
//! ```
//!
//! The stage is on the disk before anything is started, so that a supervisor that dies in between goes on from there, and
//! a k3s that failed is not tried again and again.

pub mod files;

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::acquire::Known;

/// After so long a health the earlier datastore is of no more use.
const SETTLED: Duration = Duration::from_secs(600);
/// A new k3s that ends so often before it is ready need not be waited for.
const ENDS: u32 = 5;

/// Another k3s in the earlier one's place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// The last that was ready, to which the node returns; none at a first start.
    pub from: Option<Known>,
    /// The one that is tried.
    pub to: Known,
    /// A digest of the settings: what failed with others may do with these.
    pub settings: String,
    /// How far it is.
    pub stage: Stage,
}

/// How far a trial is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// It was started, and has not been ready.
    Trying,
    /// It has been ready.
    Settling,
    /// It was not ready in time; the earlier one is about to be started.
    Returning(String),
    /// The earlier one runs again.
    Failed(String),
}

/// What comes before the next start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// Nothing.
    Start(Known),
    /// The datastore is copied, so that there is a way back; then this one is tried.
    Try(Trial),
    /// The datastore is put back; then it is asked again what comes before the start, this one being the last that ran.
    Return(Known),
}

/// Which k3s runs and which is to.
#[derive(Debug)]
pub struct Upgrade {
    wanted: Known,
    ran: Option<Known>,
    good: Option<Known>,
    settings: String,
    /// What runs was started with other settings.
    stale: bool,
    timeout: Duration,
    trial: Option<Trial>,
    /// When the trial has failed, or is over.
    due: Option<Instant>,
    /// Ends of k3s since the trial began.
    ends: u32,
}

impl Upgrade {
    /// `ran` is the one that ran last, or runs, `good` the last that was ready, `trial` what was saved. `wanted` holds until
    /// [`Upgrade::want`] says what the config wants: the digest of a program takes a moment to read.
    pub fn new(
        wanted: Known,
        (ran, good): (Option<Known>, Option<Known>),
        trial: Option<Trial>,
        settings: String,
        timeout: Duration,
    ) -> Self {
        Upgrade {
            wanted,
            ran,
            good,
            settings,
            stale: false,
            timeout,
            trial,
            due: None,
            ends: 0,
        }
    }

    /// What runs was started with other settings. It is started anew once it is known which k3s is to run then:
    /// [`Upgrade::want`] or [`Upgrade::go_on`] says so.
    pub fn settings_changed(&mut self) {
        self.stale = true;
    }

    /// The config wants this one from now on. Gives why k3s has to be started anew, if it has to.
    pub fn want(&mut self, wanted: Known) -> Option<String> {
        self.wanted = wanted;
        let (same, settings) = (self.is_wanted(), self.settings.clone());
        if let Some(trial) = &self.trial
            && matches!(trial.stage, Stage::Settling | Stage::Failed(_))
            && !(same && trial.settings == settings)
        {
            self.trial = None;
            self.due = None;
        }
        self.overtaken().or_else(|| self.go_on())
    }

    /// What the config wants cannot be had for now, so that what runs goes on. Gives why that has to be started anew, if
    /// it has to.
    pub fn go_on(&mut self) -> Option<String> {
        std::mem::take(&mut self.stale).then(|| "its settings have changed".into())
    }

    /// Why what runs, or was just started, is not what is to run: it may have been on its way when that was decided.
    pub fn overtaken(&self) -> Option<String> {
        let (ran, target) = (self.ran.as_ref()?, self.target());
        (ran.sha256 != target.sha256).then(|| format!("{} is to run", target.name))
    }

    /// Whether what is tried, or was, is what the config wants.
    fn is_wanted(&self) -> bool {
        let tried = self.trial.as_ref().map(|trial| trial.to.sha256);
        tried == Some(self.wanted.sha256)
    }

    /// The one that is to run.
    fn target(&self) -> &Known {
        match &self.trial {
            Some(Trial {
                from: Some(from),
                stage: Stage::Returning(_) | Stage::Failed(_),
                ..
            }) => from,
            _ => &self.wanted,
        }
    }

    /// What the next start takes.
    pub fn next(&self) -> Plan {
        let target = self.target().clone();
        match &self.trial {
            Some(trial) if matches!(trial.stage, Stage::Returning(_)) => Plan::Return(target),
            // Something else is wanted before that one was ready: first the datastore from before it.
            Some(Trial {
                from: Some(from),
                stage: Stage::Trying,
                ..
            }) if !self.is_wanted() => Plan::Return(from.clone()),
            Some(trial) if self.is_wanted() && matches!(trial.stage, Stage::Trying) => {
                Plan::Start(target)
            }
            _ => match &self.ran {
                Some(ran) if ran.sha256 != target.sha256 => Plan::Try(Trial {
                    from: self
                        .good
                        .clone()
                        .filter(|good| good.sha256 != target.sha256),
                    to: target,
                    settings: self.settings.clone(),
                    stage: Stage::Trying,
                }),
                _ => Plan::Start(target),
            },
        }
    }

    /// The plan was done: k3s is about to be started. To be saved before.
    pub fn start(&mut self, plan: Plan, now: Instant) -> Known {
        let known = match plan {
            Plan::Start(known) => known,
            Plan::Try(trial) => {
                let known = trial.to.clone();
                (self.trial, self.ends) = (Some(trial), 0);
                known
            }
            // Never started by itself: see [`Upgrade::returned`].
            Plan::Return(known) => known,
        };
        // A trial that an earlier supervisor began has all its time again.
        self.due = self
            .is_trying()
            .then(|| self.due.unwrap_or(now + self.timeout));
        (self.ran, self.stale) = (Some(known.clone()), false);
        known
    }

    /// The datastore is as this one left it. What failed is remembered, as long as the config wants it; what was given up
    /// for another is not.
    pub fn returned(&mut self, from: Known) {
        let wanted = self.is_wanted();
        self.trial = self
            .trial
            .take()
            .and_then(Trial::returned)
            .filter(|_| wanted);
        self.ran = Some(from);
    }

    /// It cannot be tried at all: the earlier one goes on.
    pub fn refuse(&mut self, trial: Trial, why: String) {
        let stage = Stage::Failed(why);
        self.trial = Some(Trial { stage, ..trial });
    }

    /// k3s was found running: a trial of before has all its time again.
    pub fn found(&mut self, now: Instant) {
        self.due = self.is_trying().then(|| now + self.timeout);
    }

    /// The node is ready. Whether the stage has changed, and is to be saved.
    pub fn ready(&mut self, now: Instant) -> bool {
        // Where it is kept already, it stays known: who owns the file that it runs from may replace that.
        let digest = |known: &Option<Known>| known.as_ref().map(|known| known.sha256);
        if digest(&self.good) != digest(&self.ran) {
            self.good.clone_from(&self.ran);
        }
        match &mut self.trial {
            Some(trial) if matches!(trial.stage, Stage::Trying | Stage::Settling) => {
                let fresh = trial.stage == Stage::Trying;
                trial.stage = Stage::Settling;
                self.due = Some(now + SETTLED);
                fresh
            }
            _ => false,
        }
    }

    /// The last that was ready lies there from now on, too.
    pub fn kept(&mut self, good: Known) {
        self.good = Some(good);
    }

    /// The node is not ready any more: what has to settle begins anew.
    pub fn unready(&mut self) {
        if !self.is_trying() {
            self.due = None;
        }
    }

    /// k3s ended. Whether the trial has failed by that, and k3s is to be started anew.
    pub fn ended(&mut self, why: &str) -> bool {
        if !self.is_trying() {
            return false;
        }
        self.ends += 1;
        self.ends >= ENDS && self.fail(format!("it ended {ENDS} times before it was ready: {why}"))
    }

    /// When [`Upgrade::handle_timeout`] is next due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }

    /// Does what is due. `possible`: the node could be ready, since the master is there. `why`: what it lacks.
    pub fn handle_timeout(&mut self, now: Instant, possible: bool, why: Option<&str>) -> Due {
        if self.due.is_none_or(|due| due > now) {
            return Due::Nothing;
        }
        self.due = None;
        if !self.is_trying() {
            self.trial = None;
            return Due::Settled;
        }
        if !possible {
            self.due = Some(now + self.timeout);
            return Due::Nothing;
        }
        let why = why.unwrap_or("it did not say READY");
        let seconds = self.timeout.as_secs();
        match self.fail(format!("it was not ready within {seconds} s: {why}")) {
            true => Due::Failed,
            false => Due::Nothing,
        }
    }

    /// Returns to the earlier one, if there is one.
    fn fail(&mut self, why: String) -> bool {
        match &mut self.trial {
            Some(trial) if trial.from.is_some() => {
                trial.stage = Stage::Returning(why);
                self.due = None;
                true
            }
            _ => false,
        }
    }

    /// Whether a new k3s has yet to show that it can be ready.
    pub fn is_trying(&self) -> bool {
        let stage = self.trial.as_ref().map(|trial| &trial.stage);
        matches!(stage, Some(Stage::Trying | Stage::Returning(_)))
    }

    /// What is to be saved.
    pub fn trial(&self) -> Option<&Trial> {
        self.trial.as_ref()
    }

    /// What is to run, or runs.
    pub fn running(&self) -> Option<&Known> {
        self.ran.as_ref()
    }
}

impl Trial {
    /// What is to be remembered of a trial whose datastore was put back.
    fn returned(self) -> Option<Trial> {
        match self.stage {
            Stage::Returning(why) => Some(Trial {
                stage: Stage::Failed(why),
                ..self
            }),
            _ => None,
        }
    }
}

/// What a timeout came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Nothing.
    Nothing,
    /// The trial is over, in peace: the way back can be removed.
    Settled,
    /// The trial has failed: k3s is to be started anew.
    Failed,
}

#[cfg(test)]
mod tests;
