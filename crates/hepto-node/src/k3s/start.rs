//! The start of k3s: which one, after what work of the disk, and what follows when it was another than before.

use std::time::Instant;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::acquire::{History, Known};
use super::drain::{self, By};
use super::lifecycle::Event;
use super::ready::Target;
use super::upgrade::{Due, Plan, Stage, Trial, Upgrade, files};
use super::{ID, LOG, Role, Settings, State, Supervisor, argument, environment, file};
use crate::sandbox::{self, Program};

/// What the disk has to do before a start.
pub(super) type Errand = (Plan, JoinHandle<Result<(), String>>);

/// What was known of the node's k3s before this supervisor.
pub(super) fn upgrade(settings: &Settings) -> Upgrade {
    let [wanted, ran, good] = settings.programs.clone();
    let any = wanted.or(ran.clone()).or(good.clone());
    Upgrade::new(
        any.expect("a workload begins when there is a k3s to start"),
        (ran, good),
        files::read(&settings.directory),
        file::started_with(settings),
        settings.upgrade_timeout,
    )
}

impl Supervisor {
    /// The config wants this k3s: it takes the place of another that runs. Pods live on.
    pub fn want(&mut self, wanted: Known) {
        let why = self.upgrade.want(wanted);
        self.save();
        self.restart(why);
    }

    /// What the config wants cannot be had for now: what runs goes on.
    pub fn go_on(&mut self) {
        let why = self.upgrade.go_on();
        self.restart(why);
    }

    /// Which k3s runs, or is about to.
    pub fn running(&self) -> Option<&Known> {
        self.upgrade.running()
    }

    /// The last that was ready lies there from now on, too.
    pub fn kept(&mut self, good: Known) {
        self.upgrade.kept(good);
    }

    /// The name of a k3s that has yet to show that it can be ready.
    pub(super) fn trying(&self) -> Option<String> {
        let trial = self.upgrade.trial().filter(|_| self.upgrade.is_trying())?;
        Some(trial.to.name.clone())
    }

    /// The name of a k3s that could not take another's place, and why.
    pub(super) fn failed(&self) -> Option<(String, String)> {
        let trial = self.upgrade.trial()?;
        match &trial.stage {
            Stage::Returning(why) | Stage::Failed(why) => {
                Some((trial.to.name.clone(), why.clone()))
            }
            Stage::Trying | Stage::Settling => None,
        }
    }

    /// Has a k3s that runs, or waits for its next start, started anew, if there is a reason.
    pub(super) fn restart(&mut self, why: Option<String>) {
        if let Some(why) = why {
            self.machine.handle(Instant::now(), Event::Restart { why });
        }
    }

    /// Starts the k3s whose turn it is. Cancel-safe.
    ///
    /// # Errors
    /// Why it cannot be started now.
    pub(super) async fn spawn(&mut self) -> Result<(), String> {
        let plan = self.prepared().await?;
        let known = self.upgrade.start(plan, Instant::now());
        // All of it before it runs: who comes after us has to know what it finds.
        let noted = files::write(&self.settings.directory, self.upgrade.trial());
        noted.map_err(|error| format!("how far the upgrade is cannot be written: {error}"))?;
        let ran = Some(known.clone());
        let noted = History::update(&self.settings.directory, |history| history.ran = ran);
        noted.map_err(|error| error.to_string())?;
        file::note_start(&self.settings).map_err(|error| error.to_string())?;
        let program = self.program(&known);
        let spawned = self.sandbox.spawn(&program).await;
        spawned.map_err(|error| error.to_string())
    }

    /// What to start, with the disk's part done.
    async fn prepared(&mut self) -> Result<Plan, String> {
        loop {
            let (plan, work) = self.errand.get_or_insert_with(|| {
                let (plan, directory) = (self.upgrade.next(), self.settings.directory.clone());
                let work = plan.clone();
                let work = move || files::prepare(&directory, &work);
                (plan, tokio::task::spawn_blocking(work))
            });
            let done = work.await.unwrap_or_else(|error| Err(error.to_string()));
            let plan = plan.clone();
            self.errand = None;
            match (done, plan) {
                // Something else is wanted meanwhile.
                (_, plan) if plan != self.upgrade.next() => {}
                (Ok(()), Plan::Return(from)) => self.upgrade.returned(from),
                (Ok(()), plan) => return Ok(plan),
                (Err(why), Plan::Try(trial)) => self.refuse(trial, why),
                (Err(why), _) => return Err(why),
            }
        }
    }

    /// Without a way back nothing is tried.
    fn refuse(&mut self, trial: Trial, why: String) {
        let name = &trial.to.name;
        tracing::error!(
            code = "E-K3S-UPGRADE",
            fix = "see to what stands in the way, then hepto-node reload",
            "{name} is not tried, and the earlier k3s goes on, since there would be no way back: {why}"
        );
        self.upgrade.refuse(trial, why);
        self.save();
    }

    /// Has the pods go elsewhere, in half of the time that a stop may take: the other half is for those that stay.
    pub(super) async fn drain(&self) {
        let (target, enter) = (self.target(), self.enter.clone());
        let deadline = Instant::now() + self.settings.drain / 2;
        let work = move || {
            enter().map_err(|error| format!("cannot enter the node's network: {error}"))?;
            let tell = |pod: &str| tracing::info!(pod, "asked to go to another node");
            drain::drain(&target, By::Stop, deadline, &tell).map_err(|error| error.to_string())
        };
        let (sender, receiver) = oneshot::channel();
        // A thread of its own: it stays in the node's network.
        let started = std::thread::Builder::new()
            .name("hepto-drain".into())
            .spawn(move || drop(sender.send(work())));
        drop(started);
        match receiver.await {
            Ok(Ok(drained)) => tracing::info!(
                gone = drained.gone.len(),
                left = ?drained.left,
                "drained; the node takes pods again when it is ready again"
            ),
            Ok(Err(why)) => {
                tracing::warn!(
                    code = "W-K3S-DRAIN",
                    fix = "nothing now; before the next stop, hepto-node drain says what stands in the way",
                    why,
                    "the pods cannot be asked to go elsewhere; they are ended here"
                );
            }
            Err(_) => tracing::warn!(
                code = "E-RUN-THREAD",
                fix = "raise the limit of tasks (TasksMax= of the unit)",
                "the drain could not be started"
            ),
        }
    }

    /// What a change of state means for a k3s that has yet to show itself.
    pub(super) fn on_state(&mut self, state: State) {
        match state {
            State::Ready => {
                let name = self.trying();
                if self.upgrade.ready(Instant::now()) {
                    tracing::info!(k3s = name, "k3s was replaced, and is ready");
                    self.save();
                }
            }
            _ => self.upgrade.unready(),
        }
    }

    /// k3s ended, or could not be started.
    pub(super) fn on_end(&mut self, how: &str) {
        if self.upgrade.ended(how) {
            self.give_up();
        }
    }

    /// The time of a trial is over.
    pub(super) fn on_trial(&mut self) {
        let possible = self.settings.arguments.role == Role::Server || self.master;
        let why = self.machine.last_error().map(str::to_owned);
        match self
            .upgrade
            .handle_timeout(Instant::now(), possible, why.as_deref())
        {
            Due::Nothing => {}
            Due::Settled => self.save(),
            Due::Failed => self.give_up(),
        }
    }

    fn give_up(&mut self) {
        self.save();
        if let Some((name, why)) = self.failed() {
            tracing::error!(
                code = "E-K3S-UPGRADE",
                fix = "its log has why; name another one in the config, or the same again, then hepto-node reload",
                "{name} is given up, and the earlier k3s started again: {why}"
            );
            self.restart(Some(format!("{name} is given up: {why}")));
        }
    }

    fn save(&self) {
        if let Err(error) = files::write(&self.settings.directory, self.upgrade.trial()) {
            tracing::warn!(code = "W-K3S-NOTE", fix = "make room in node.storage", %error, "how far an upgrade of k3s is cannot be written");
        }
    }

    fn program(&self, known: &Known) -> Program {
        let command = self.settings.arguments.role.command();
        let config = format!("{}/config.yaml", argument::ETC);
        Program {
            id: ID.into(),
            argv: vec![
                known.path.display().to_string(),
                command.into(),
                "--config".into(),
                config,
            ],
            env: environment::environment(sandbox::environment(), &self.settings.unproxied),
            notify: true,
            log: LOG.into(),
        }
    }

    /// What a probe asks.
    pub(super) fn target(&self) -> Target {
        let arguments = &self.settings.arguments;
        let bound = arguments
            .addresses
            .first()
            .copied()
            .filter(|_| arguments.bind_overlay);
        Target::new(
            arguments.role,
            arguments.node.clone(),
            &self.settings.directory,
            bound.unwrap_or(std::net::Ipv4Addr::LOCALHOST.into()),
        )
    }
}
