//! Ctrl-C and its relatives, as a flag that every wait of the demo looks at.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

/// Whether somebody has asked the demo to end.
#[derive(Debug, Clone)]
pub struct Interrupt(Arc<(Mutex<bool>, Condvar)>);

impl Interrupt {
    /// From here on SIGINT, SIGTERM and SIGHUP end the demo in order and not at once.
    pub fn watch() -> anyhow::Result<Interrupt> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()?;
        let mut signals = {
            let _inside = runtime.enter();
            let kinds = [
                SignalKind::interrupt(),
                SignalKind::terminate(),
                SignalKind::hangup(),
            ];
            let registered: Result<Vec<_>, _> = kinds.into_iter().map(signal).collect();
            registered.context("cannot take over the signals")?
        };
        let interrupt = Interrupt(Arc::default());
        let other = interrupt.clone();
        let listen = move || {
            let [interrupt, terminate, hangup] = signals.as_mut_slice() else {
                return;
            };
            runtime.block_on(async {
                loop {
                    tokio::select! {
                        _ = interrupt.recv() => {}
                        _ = terminate.recv() => {}
                        _ = hangup.recv() => {}
                    }
                    other.come();
                }
            });
        };
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(listen)
            .context("cannot start a thread")?;
        Ok(interrupt)
    }

    fn come(&self) {
        let (came, changed) = &*self.0;
        *came.lock().unwrap_or_else(PoisonError::into_inner) = true;
        changed.notify_all();
    }

    /// Whether it came.
    pub fn came(&self) -> bool {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An error once it came, for `?`.
    pub fn check(&self) -> anyhow::Result<()> {
        anyhow::ensure!(!self.came(), "interrupted");
        Ok(())
    }

    /// Waits for it.
    pub fn wait(&self) {
        let (came, changed) = &*self.0;
        let guard = came.lock().unwrap_or_else(PoisonError::into_inner);
        // A poisoned lock ends the wait too: the demo is over.
        drop(changed.wait_while(guard, |came| !*came));
    }

    /// Pauses for this long, or until it comes, which is an error.
    pub fn pause(&self, time: Duration) -> anyhow::Result<()> {
        let (came, changed) = &*self.0;
        let guard = came.lock().unwrap_or_else(PoisonError::into_inner);
        drop(changed.wait_timeout_while(guard, time, |came| !*came));
        self.check()
    }
}
