//! The workload of a node that is paused.

use std::time::{Instant, SystemTime};

use super::super::pause;
use super::{Ending, Phase, Workload, order, remains};
use crate::config::Config;
use crate::fault::Fault;
use crate::k3s::acquire::Acquisition;

impl Workload {
    /// Begins to end what runs, until [`Workload::resume`]; whether there is something to wait for ([`Step::Paused`]).
    ///
    /// # Errors
    /// `E-PAUSE-MESH` for a node that runs no k3s; when the pause cannot be noted on the disk, in which case nothing ends.
    pub fn pause(&mut self, config: &Config) -> Result<bool, Fault> {
        match self.phase {
            Phase::Off => {
                let what = "this node is one of the mesh alone: there is no k3s to pause";
                return Err(Fault::new("E-PAUSE-MESH", what)
                    .fix("hepto-node stop ends it; as a unit: systemctl disable --now"));
            }
            Phase::Pausing { .. } => return Ok(true),
            Phase::Paused { .. } => return Ok(false),
            _ => {}
        }
        let since = pause::set(&config.node_directory())?;
        let before = std::mem::replace(&mut self.phase, Phase::Paused { since });
        let ending: Ending = match before {
            Phase::Running(supervisor) => Box::pin(supervisor.stop()),
            _ => remains(&self.run_directory),
        };
        self.phase = Phase::Pausing { since, ending };
        self.running = None;
        Ok(true)
    }

    /// Lets k3s start again.
    ///
    /// # Errors
    /// `E-PAUSE-BUSY` while the node is still being paused; when the mark of the pause cannot be removed.
    pub fn resume(&mut self, config: &Config) -> Result<(), Fault> {
        match self.phase {
            Phase::Pausing { .. } => {
                let fault = Fault::new("E-PAUSE-BUSY", "k3s and its pods are still ending");
                return Err(fault.fix("try again when hepto-node status says that it is paused"));
            }
            Phase::Paused { .. } => {}
            _ => return Ok(()),
        }
        pause::lift(&config.node_directory())?;
        if self.acquisition.is_none() {
            self.acquisition = order(config).map(Acquisition::start);
        }
        let since = Instant::now();
        self.phase = Phase::Waiting { since };
        Ok(())
    }

    /// Since when the node is paused; `None` when it is not.
    pub fn paused(&self) -> Option<SystemTime> {
        match self.phase {
            Phase::Pausing { since, .. } | Phase::Paused { since } => Some(since),
            _ => None,
        }
    }
}
