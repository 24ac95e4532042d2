//! Acquiring k3s beside a node that runs: on a thread of its own, again and again until it succeeds, so that neither the
//! mesh nor the main loop ever waits for a line or a disk.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::{Acquired, Cancel, Error, History, Known, Order, PROGRAM, Stage, Store, acquire};

/// The first pause after a failure.
const PAUSE_LEAST: Duration = Duration::from_secs(5);
/// The longest pause after a failure that may pass by itself: no network, a server that is down.
const PAUSE_MOST: Duration = Duration::from_secs(300);
/// The longest pause where only a person mends it, perhaps without telling us: a full disk, a wrong digest.
const PAUSE_MENDED: Duration = Duration::from_secs(1800);

/// What stands in the way, as the operator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The stable code.
    pub code: &'static str,
    /// What went wrong.
    pub what: String,
    /// What mends it.
    pub fix: Option<String>,
    /// When it is tried again.
    pub again: Instant,
}

/// How far an acquisition is.
#[derive(Debug, Clone, Default)]
pub struct Standing {
    /// It is done, and this is it.
    pub acquired: Option<Acquired>,
    /// What is being done.
    pub stage: Stage,
    /// What stood in the way of the last try.
    pub problem: Option<Problem>,
    /// After a failure: the k3s with which this node was last ready, if it is there and whole.
    pub earlier: Option<Acquired>,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.stage, &self.problem) {
            (Stage::Pausing, Some(problem)) => {
                let left = problem.again.saturating_duration_since(Instant::now());
                write!(f, "tried again in {} s: {}", left.as_secs(), problem.what)
            }
            (stage, _) => stage.fmt(f),
        }
    }
}

/// An order that is being carried out. Dropping it ends the work.
#[derive(Debug)]
pub struct Acquisition {
    name: String,
    standing: watch::Receiver<Standing>,
    cancel: Arc<Cancel>,
}

impl Acquisition {
    /// Begins.
    pub fn start(order: Order) -> Acquisition {
        let (sender, standing) = watch::channel(Standing::default());
        let cancel = Arc::new(Cancel::default());
        let name = order.source.to_string();
        let work = Work {
            order,
            sender,
            cancel: cancel.clone(),
        };
        let started = thread::Builder::new()
            .name("hepto-k3s".into())
            .spawn(move || work.run());
        if let Err(error) = started {
            // The receiver hears that its sender is gone; nothing else needs the thread.
            tracing::error!(code = "E-RUN-THREAD", fix = "raise the limit of tasks (TasksMax= of the unit), then restart the node", %error, "cannot start the thread that acquires k3s");
        }
        Acquisition {
            name,
            standing,
            cancel,
        }
    }

    /// What is acquired, as the operator calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Waits until something about it has changed. Cancel-safe.
    pub async fn changed(&mut self) {
        if self.standing.changed().await.is_err() {
            // It is over; what it came to stays.
            std::future::pending().await
        }
    }

    /// How far it is.
    pub fn standing(&self) -> Standing {
        self.standing.borrow().clone()
    }
}

impl Drop for Acquisition {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// The thread's side.
struct Work {
    order: Order,
    sender: watch::Sender<Standing>,
    cancel: Arc<Cancel>,
}

impl Work {
    /// Shows it in `status`; in the log each tenth of a download.
    fn tell(&self, stage: Stage) {
        let tenth = |stage: &Stage| match stage {
            Stage::Downloading(progress) => progress.percent().map(|percent| percent / 10),
            _ => None,
        };
        let changed = |standing: &mut Standing| {
            let (before, now) = (tenth(&standing.stage), tenth(&stage));
            if let Stage::Downloading(progress) = &stage
                && before != now
            {
                tracing::info!("{progress}");
            }
            // A waker for each chunk would cost more than the chunk.
            let worth = std::mem::discriminant(&standing.stage) != std::mem::discriminant(&stage)
                || before != now;
            standing.stage = stage.clone();
            worth
        };
        self.sender.send_if_modified(changed);
    }

    fn run(self) {
        let mut failures = 0;
        loop {
            let tell = |stage| self.tell(stage);
            let error = match acquire(&self.order, &self.cancel, &tell) {
                Ok(acquired) => {
                    tracing::info!(k3s = acquired.name, sha256 = %acquired.digest, "k3s is there");
                    return self.sender.send_modify(|standing| {
                        *standing = Standing {
                            acquired: Some(acquired),
                            ..Standing::default()
                        };
                    });
                }
                Err(Error::Cancelled) => return,
                Err(error) => error,
            };
            if error.came_further() {
                failures = 0;
            }
            let pause = pause(failures, error.may_pass());
            failures += 1;
            tracing::error!(
                code = error.code(),
                fix = error.fix(),
                "there is no {}, tried again in {} s: {error}",
                self.order.source,
                pause.as_secs()
            );
            let earlier = earlier(&self.order);
            self.sender.send_modify(|standing| {
                standing.stage = Stage::Pausing;
                standing.earlier = earlier;
                standing.problem = Some(Problem {
                    code: error.code(),
                    what: error.to_string(),
                    fix: error.fix(),
                    again: Instant::now() + pause,
                });
            });
            if self.cancel.sleep(pause) {
                return;
            }
        }
    }
}

/// The k3s with which the node was last ready, read and found whole: better than none, until the wanted one is there.
fn earlier(order: &Order) -> Option<Acquired> {
    let Known {
        sha256,
        path,
        name,
        images: _, // They were imported when it ran.
    } = History::read(&order.node_directory).good?;
    let stored = Store::of(&order.storage).path(&sha256, PROGRAM) == path;
    let whole = std::fs::File::open(&path).and_then(super::Digest::of);
    // The owner may have put another program in place of his own: that is no earlier one.
    (whole.is_ok_and(|found| found == sha256) && (stored || super::binary::check(&path).is_ok()))
        .then_some(Acquired {
            path,
            digest: sha256,
            name,
            images: None,
        })
}

/// How long to wait after so many earlier failures.
pub fn pause(failures: u32, may_pass: bool) -> Duration {
    growing(failures, may_pass, RandomState::new().hash_one(0))
}

/// Twice as long each time, up to a fifth more by `jitter`.
fn growing(failures: u32, may_pass: bool, jitter: u64) -> Duration {
    let most = match may_pass {
        true => PAUSE_MOST,
        false => PAUSE_MENDED,
    };
    let pause = (PAUSE_LEAST * 2u32.saturating_pow(failures.min(16))).min(most);
    pause + pause.mul_f64((jitter % 1000) as f64 / 5000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_an_end() {
        let pauses: Vec<u64> = (0..12)
            .map(|failures| growing(failures, true, 0).as_secs())
            .collect();
        assert_eq!(pauses[..7], [5, 10, 20, 40, 80, 160, 300]);
        assert_eq!(pauses[11], 300);
        assert_eq!(growing(30, false, 0), PAUSE_MENDED);
        assert_eq!(growing(0, true, 999).as_millis(), 5_999);
    }
}
