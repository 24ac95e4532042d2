//! When a guard goes, and when it takes the node back: decided from what it hears, without a clock of its own.

use std::time::{Duration, Instant};

use super::word;

/// How long a program may take to have the node after its exec, and then to prove itself. A loaded machine reads a
/// program's file slowly.
const BOUND: Duration = Duration::from_secs(45);

/// [`BOUND`]. Tests of a debug build cannot wait for so long.
pub fn bound() -> Duration {
    if !cfg!(debug_assertions) {
        return BOUND;
    }
    let seconds = std::env::var("HEPTO_DEBUG_GUARD_SECONDS").ok();
    let seconds = seconds.and_then(|seconds| seconds.parse().ok());
    seconds.map_or(BOUND, Duration::from_secs)
}

/// What a guard does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Wait,
    /// Tell the service manager that the node is there.
    Ready,
    /// Give the node up to the program that has proved itself.
    Release,
    /// The node stops: let go of its lock.
    Stopping,
    /// End: the node has stopped.
    Done,
    /// Take the node back, for this reason.
    PutBack(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Starting,
    Proving,
    Stopping,
}

/// A guard's view of the program on trial.
#[derive(Debug)]
pub struct Vigil {
    stage: Stage,
    bound: Duration,
    began: Instant,
    since: Instant,
}

impl Vigil {
    /// The program is about to be executed; each of its two steps may take `bound`.
    pub fn new(now: Instant, bound: Duration) -> Self {
        Vigil {
            stage: Stage::Starting,
            bound,
            began: now,
            since: now,
        }
    }

    /// It says something.
    pub fn hear(&mut self, said: u8, now: Instant) -> Verdict {
        let (stage, verdict) = match said {
            word::READY => (Stage::Proving, Verdict::Ready),
            word::PROVEN => return Verdict::Release,
            word::STOPPING => (Stage::Stopping, Verdict::Stopping),
            _ => return Verdict::Wait,
        };
        self.stage = stage;
        self.since = now;
        verdict
    }

    /// Its process has ended.
    pub fn ended(&self, now: Instant) -> Verdict {
        match self.stage {
            Stage::Stopping => Verdict::Done,
            Stage::Starting | Stage::Proving => {
                let took = now.saturating_duration_since(self.began).as_secs_f64();
                Verdict::PutBack(format!("ended {took:.1} s after it was executed"))
            }
        }
    }

    /// Its process lives.
    pub fn lives(&self, now: Instant) -> Verdict {
        let late = now.saturating_duration_since(self.since) >= self.bound;
        match self.stage {
            Stage::Starting if late => Verdict::PutBack(format!(
                "did not take the node over within {} s",
                self.bound.as_secs()
            )),
            Stage::Proving if late => Verdict::PutBack(format!(
                "took the node over and stood still for {} s",
                self.bound.as_secs()
            )),
            _ => Verdict::Wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_put_back(verdict: &Verdict, words: &str) -> bool {
        matches!(verdict, Verdict::PutBack(why) if why.contains(words))
    }

    #[test]
    fn a_program_that_ends_before_its_proof_is_put_back() {
        let start = Instant::now();
        let later = start + Duration::from_millis(1500);
        let mut vigil = Vigil::new(start, BOUND);
        assert!(is_put_back(&vigil.ended(later), "ended 1.5 s"));
        assert_eq!(vigil.hear(word::READY, start), Verdict::Ready);
        assert!(is_put_back(&vigil.ended(later), "ended 1.5 s"));
        assert_eq!(vigil.hear(word::PROVEN, later), Verdict::Release);
    }

    #[test]
    fn a_program_that_stands_still_is_put_back_and_each_step_has_its_own_time() {
        let start = Instant::now();
        let nearly = BOUND - Duration::from_millis(1);
        let mut vigil = Vigil::new(start, BOUND);
        assert_eq!(vigil.lives(start + nearly), Verdict::Wait);
        assert!(is_put_back(&vigil.lives(start + BOUND), "did not take"));
        vigil.hear(word::READY, start + nearly);
        assert_eq!(vigil.lives(start + nearly + nearly), Verdict::Wait);
        assert!(is_put_back(
            &vigil.lives(start + nearly + BOUND),
            "stood still"
        ));
    }

    #[test]
    fn a_stop_takes_its_time_and_is_no_failure() {
        let start = Instant::now();
        let mut vigil = Vigil::new(start, BOUND);
        assert_eq!(vigil.hear(word::STOPPING, start), Verdict::Stopping);
        assert_eq!(vigil.lives(start + 9 * BOUND), Verdict::Wait);
        assert_eq!(vigil.ended(start + 9 * BOUND), Verdict::Done);
    }

    #[test]
    fn what_a_guard_does_not_know_changes_nothing() {
        let start = Instant::now();
        let mut vigil = Vigil::new(start, BOUND);
        assert_eq!(vigil.hear(b'?', start + BOUND), Verdict::Wait);
        assert!(is_put_back(&vigil.lives(start + BOUND), "did not take"));
    }
}
