//! The service manager's watchdog: it is told that the node lives as long as every part does. A part that hangs keeps us
//! silent, and systemd then ends this process and starts it anew (systemd.service(5), WatchdogSec), which finds pods and
//! namespace as they are.
//!
//! The main loop proves itself by being here at all.

use std::time::{Duration, Instant};

use hepto_mesh::driver::{Command, Mesh, Report};
use hepto_tunnel::Tunnel;
use tokio::sync::oneshot;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::service::Manager;

/// The mesh's part, by the name of its thread.
const MESH: &str = "hepto-mesh";

/// What is watched, where a service manager asks for it.
pub(super) struct Watchdog(Option<Watch>);

struct Watch {
    looks: Interval,
    parts: Parts,
    /// A question that the mesh has not answered yet.
    asked: Option<oneshot::Receiver<Report>>,
    /// Answers of the mesh so far.
    answers: u64,
}

impl Watchdog {
    /// As the environment says (`WATCHDOG_USEC`). systemd's period is the longest silence; we look four times in it.
    pub fn new() -> Self {
        let Some(period) = sd_notify::watchdog_enabled().filter(|period| !period.is_zero()) else {
            return Watchdog(None);
        };
        let mut looks = interval(period / 4);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Watchdog(Some(Watch {
            looks,
            parts: Parts::new(period / 2),
            asked: None,
            answers: 0,
        }))
    }

    /// When it is time to [`Watchdog::look`]; never without a service manager. Cancel-safe.
    pub async fn due(&mut self) {
        match &mut self.0 {
            Some(watch) => drop(watch.looks.tick().await),
            None => std::future::pending().await,
        }
    }

    /// Tells that the node lives, if each part has moved since.
    pub fn look(&mut self, tunnel: &Tunnel, mesh: &Mesh, manager: &Manager) {
        let Some(watch) = &mut self.0 else { return };
        watch.ask(mesh);
        let rounds = tunnel.pulses().into_iter().chain([(MESH, watch.answers)]);
        match watch.parts.hanging(rounds, Instant::now()) {
            None => manager.alive(),
            Some((thread, silent)) => tracing::error!(
                code = "E-RUN-HUNG",
                thread,
                fix = "nothing now: the service manager starts the node anew, and pods run on; report its log",
                "this thread has not moved for {} s",
                silent.as_secs()
            ),
        }
    }
}

impl Watch {
    /// Counts the mesh's answer, and asks again.
    fn ask(&mut self, mesh: &Mesh) {
        match self.asked.as_mut().map(oneshot::Receiver::try_recv) {
            Some(Err(oneshot::error::TryRecvError::Empty)) => return,
            Some(Ok(_)) => self.answers += 1,
            Some(Err(oneshot::error::TryRecvError::Closed)) | None => {}
        }
        let (sender, receiver) = oneshot::channel();
        mesh.command(Command::Report(sender));
        self.asked = Some(receiver);
    }
}

/// When each part was last seen to move.
struct Parts {
    patience: Duration,
    seen: Vec<(&'static str, u64, Instant)>,
}

impl Parts {
    fn new(patience: Duration) -> Self {
        Parts {
            patience,
            seen: Vec::new(),
        }
    }

    /// The part that has stood still for longer than the patience, and for how long.
    fn hanging(
        &mut self,
        rounds: impl IntoIterator<Item = (&'static str, u64)>,
        now: Instant,
    ) -> Option<(&'static str, Duration)> {
        for (part, count) in rounds {
            match self.seen.iter_mut().find(|(known, ..)| *known == part) {
                Some((_, before, since)) if *before != count => (*before, *since) = (count, now),
                Some(_) => {}
                None => self.seen.push((part, count, now)),
            }
        }
        let silent = |(part, _, since): &(&'static str, u64, Instant)| {
            (*part, now.saturating_duration_since(*since))
        };
        let longest = self
            .seen
            .iter()
            .map(silent)
            .max_by_key(|(_, silent)| *silent);
        longest.filter(|(_, silent)| *silent > self.patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_hangs_when_it_alone_stands_still() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut parts = Parts::new(Duration::from_secs(30));
        assert_eq!(parts.hanging([("a", 0), ("b", 7)], at(0)), None);
        assert_eq!(parts.hanging([("a", 1), ("b", 7)], at(30)), None);
        let hanging = parts.hanging([("a", 2), ("b", 7)], at(31));
        assert_eq!(hanging, Some(("b", Duration::from_secs(31))));
        assert_eq!(
            parts.hanging([("a", 3), ("b", 8)], at(45)),
            None,
            "it moves again"
        );
    }
}
