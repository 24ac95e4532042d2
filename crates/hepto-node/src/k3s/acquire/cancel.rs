//! The one word that ends work on another thread, whatever it waits for.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// By which work that blocks is told to end.
#[derive(Debug, Default)]
pub struct Cancel {
    over: Mutex<bool>,
    changed: Condvar,
    agents: Mutex<Vec<ureq::Agent>>,
}

impl Cancel {
    /// Ends the work.
    pub fn cancel(&self) {
        *self.over.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        agents.drain(..).for_each(ureq::Agent::shutdown);
    }

    /// Has the connections of `agent` ended with the rest.
    pub(super) fn ends(&self, agent: &ureq::Agent) {
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        // One order has one agent at a time.
        agents.clear();
        agents.push(agent.clone());
        drop(agents);
        if self.is_cancelled() {
            self.cancel();
        }
    }

    /// Whether it is to end.
    pub fn is_cancelled(&self) -> bool {
        *self.over.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits; whether the work is to end.
    pub fn sleep(&self, duration: Duration) -> bool {
        let until = Instant::now() + duration;
        let mut over = self.over.lock().unwrap_or_else(PoisonError::into_inner);
        while !*over {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            over = self
                .changed
                .wait_timeout(over, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        true
    }
}
