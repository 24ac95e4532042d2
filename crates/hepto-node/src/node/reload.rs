//! A reload: the installed program is asked first, then takes this process's place. Namespace, TUN, init, k3s and pods
//! stay as they are, and the new program takes them over as after a crash.

use std::path::Path;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::guard::Guard;
use super::life::Life;
use super::service::{self, Manager};
use super::successor::Successor;
use crate::control::Answer;
use crate::fault::Fault;

/// Reloads that are asked for.
pub(super) struct Reload {
    successor: Successor,
    check: Option<JoinHandle<Result<String, Fault>>>,
    asked: Option<oneshot::Sender<Answer>>,
    /// A signal came while a check was under way: what was checked is not the last word.
    again: bool,
}

impl Reload {
    /// None is asked for yet.
    pub fn new(successor: Successor) -> Self {
        Reload {
            successor,
            check: None,
            asked: None,
            again: false,
        }
    }

    /// Where the next program is installed.
    pub fn program(&self) -> &Path {
        self.successor.program()
    }

    /// Begins a reload. Who asks gets an answer when it is refused; else his connection ends at the exec.
    pub fn begin(
        &mut self,
        run_directory: &Path,
        manager: &mut Manager,
        asked: Option<oneshot::Sender<Answer>>,
    ) {
        if self.check.is_some() {
            match asked {
                Some(answer) => {
                    let busy = Fault::new("E-RELOAD-BUSY", "another reload is under way");
                    // Who asked may have gone away; here and below.
                    let _ = answer.send(Answer::Refused(busy.fix("try again").to_string()));
                }
                None => self.again = true,
            }
            return;
        }
        manager.reloading();
        self.asked = asked;
        let check = self.successor.clone().check(run_directory.to_owned());
        self.check = Some(tokio::spawn(check));
    }

    /// What the installed program says of the reload that was begun. Cancel-safe.
    pub async fn checked(&mut self) -> Result<String, Fault> {
        let Some(check) = &mut self.check else {
            return std::future::pending().await;
        };
        let result = check.await;
        self.check = None;
        result.unwrap_or_else(|error| Err(Fault::new("E-RELOAD-REFUSED", error.to_string())))
    }
}

impl Life<'_> {
    /// Hands over to the installed program, if it can take over; goes on as before where not.
    pub(super) fn hand_over(&mut self, checked: Result<String, Fault>) {
        let program = self.reload.successor.program().display().to_string();
        let refusal = match checked {
            Ok(version) => {
                let from = env!("CARGO_PKG_VERSION");
                tracing::info!(
                    program,
                    from,
                    to = version,
                    "reloading: the installed program takes over"
                );
                let guard = self.post_guard(&version);
                let refused = match self.reload.successor.replace(self.state, guard.as_ref()) {
                    Ok(never) => match never {},
                    Err(error) => error,
                };
                if let Some(guard) = guard {
                    guard.dismiss();
                }
                Fault::new(
                    "E-RELOAD-REFUSED",
                    format!("{program} cannot be executed: {refused}"),
                )
                .fix("install a hepto-node for this machine; until then the node goes on as it was")
            }
            Err(fault) => fault,
        };
        tracing::error!(
            code = refusal.code,
            fix = refusal.remedy(),
            "not reloaded: {}",
            refusal.what
        );
        self.manager.ready();
        if let Some(answer) = self.reload.asked.take() {
            let _ = answer.send(Answer::Refused(refusal.to_string()));
        }
        if std::mem::take(&mut self.reload.again) {
            self.begin_reload(None);
        }
    }

    pub(super) fn begin_reload(&mut self, asked: Option<oneshot::Sender<Answer>>) {
        let run_directory = self.state.run_directory();
        self.reload.begin(run_directory, self.manager, asked);
    }

    /// A process of this program that takes the node back if the next one fails. A reload is worth having without.
    fn post_guard(&self, version: &str) -> Option<Guard> {
        match Guard::post(&self.reload.successor, self.state.lock(), version) {
            Ok(guard) => {
                service::main_process(guard.pid);
                Some(guard)
            }
            Err(error) => {
                tracing::warn!(
                    code = "W-RELOAD-GUARD",
                    fix = "see that the machine can start another process",
                    %error,
                    "no guard stands by, so that a new program that fails is not put back"
                );
                None
            }
        }
    }
}
