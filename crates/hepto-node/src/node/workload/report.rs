//! What `status` says of the workload.

use std::time::Instant;

use super::super::pause;
use super::{Phase, RETRY, Workload};
use crate::config::Config;
use crate::k3s::State;
use crate::k3s::acquire::Stage;
use crate::status::{Download, K3sStatus, Problem};

impl Workload {
    /// What `status` shows; `None` without k3s.
    pub fn report(&self, config: &Config) -> Option<K3sStatus> {
        let idle = |state: &str, since: Instant, detail: String| K3sStatus {
            state: state.into(),
            since_s: since.elapsed().as_secs(),
            pid: None,
            restarts: 0,
            ready: false,
            upgrade: None,
            detail: Some(detail),
            download: self.download(),
        };
        match &self.phase {
            Phase::Off => None,
            Phase::Pausing { since, .. } | Phase::Paused { since } => {
                let over = matches!(self.phase, Phase::Paused { .. });
                Some(K3sStatus {
                    since_s: since.elapsed().unwrap_or_default().as_secs(),
                    ..idle(
                        if over { "paused" } else { "pausing" },
                        Instant::now(),
                        format!("since {}; hepto-node resume ends it", pause::moment(*since)),
                    )
                })
            }
            Phase::Waiting { since } => {
                if let Some(detail) = self.acquiring() {
                    return Some(idle("acquiring", *since, detail));
                }
                let detail = match config.is_master() {
                    true => "waits for another node, a few seconds".into(),
                    false => format!(
                        "waits until the master {} is a live peer",
                        config.cluster.master
                    ),
                };
                Some(idle("waiting", *since, detail))
            }
            Phase::Lost { until } => Some(idle(
                "lost",
                *until - RETRY,
                "the sandbox is made again in a moment".into(),
            )),
            Phase::Running(supervisor) => {
                let report = supervisor.report();
                let retry = report
                    .retry_in_s
                    .map(|seconds| format!("started again in {seconds} s"));
                let details: Vec<String> = [report.waiting_for, report.last_error, retry]
                    .into_iter()
                    .flatten()
                    .collect();
                Some(K3sStatus {
                    state: report.state.to_string(),
                    since_s: report.since_s,
                    pid: report.pid,
                    restarts: report.restarts,
                    ready: report.state == State::Ready,
                    upgrade: self.upgrade(report.trying),
                    detail: (!details.is_empty()).then(|| details.join("; ")),
                    download: self.download(),
                })
            }
        }
    }

    /// What is being done to have a k3s to start; `None` once there is one.
    fn acquiring(&self) -> Option<String> {
        match self.candidate() {
            Some(_) => None,
            None => {
                let acquisition = self.acquisition.as_ref()?;
                Some(format!(
                    "{}: {}",
                    acquisition.name(),
                    acquisition.standing()
                ))
            }
        }
    }

    fn download(&self) -> Option<Download> {
        match self.acquisition.as_ref()?.standing().stage {
            Stage::Downloading(progress) => Some(Download {
                percent: progress.percent(),
                file: progress.file,
                done_bytes: progress.done,
                total_bytes: progress.total,
            }),
            _ => None,
        }
    }

    /// The k3s that is on its way into another's place; `None` when what the config wants runs, or cannot.
    fn upgrade(&self, trying: Option<String>) -> Option<String> {
        let acquisition = self.acquisition.as_ref()?;
        let coming = !self.decided && acquisition.standing().problem.is_none();
        trying.or_else(|| coming.then(|| acquisition.name().to_owned()))
    }

    /// What stands in the way of the k3s that the config wants.
    pub fn problem(&self) -> Option<Problem> {
        if let Some(problem) = self.acquisition.as_ref()?.standing().problem {
            return Some(Problem {
                code: problem.code.into(),
                what: problem.what,
                fix: problem.fix,
            });
        }
        let Phase::Running(supervisor) = &self.phase else {
            return None;
        };
        let (name, why) = supervisor.report().failed?;
        Some(Problem {
            code: "E-K3S-UPGRADE".into(),
            what: format!("{name} did not take the earlier k3s's place, which runs on: {why}"),
            fix: Some("see k3s's log; name another version, or change what it lacks in [k3s], then hepto-node reload".into()),
        })
    }
}
