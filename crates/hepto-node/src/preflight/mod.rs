//! `hepto-node preflight`: whether a node can live here, found out by trying.
//!
//! `machine` looks at what the host is, `storage` writes and mounts where the data will lie, `uplink` makes the node's own network
//! for a moment and asks its gateways, its resolvers, the Internet and the `anchors` from inside. A node that runs is asked
//! in its own network. Nothing stays behind.

mod anchors;
mod machine;
mod storage;
mod uplink;

use std::fmt::Write as _;

use schemars::JsonSchema;
use serde::Serialize;

use crate::config::{Config, Diagnostic, Severity};
use crate::fault::Fault;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// It was tried, and it works.
    Ok,
    /// The node runs without it, and something is lost.
    Warning,
    /// The node cannot run.
    Error,
}

/// What one try came to.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Finding {
    /// What was tried, as a dotted name that stays: `machine.clock`.
    pub check: &'static str,
    /// How much it matters.
    pub level: Level,
    /// The stable code; absent where all is well.
    pub code: Option<&'static str>,
    /// What was found.
    pub what: String,
    /// Why it matters.
    pub why: Option<String>,
    /// The command or setting that mends it.
    pub fix: Option<String>,
}

impl Finding {
    /// It was tried, and it works.
    fn ok(check: &'static str, what: impl Into<String>) -> Finding {
        Finding {
            check,
            level: Level::Ok,
            code: None,
            what: what.into(),
            why: None,
            fix: None,
        }
    }

    fn warning(check: &'static str, code: &'static str, what: impl Into<String>) -> Finding {
        Finding {
            level: Level::Warning,
            code: Some(code),
            ..Finding::ok(check, what)
        }
    }

    fn error(check: &'static str, code: &'static str, what: impl Into<String>) -> Finding {
        Finding {
            level: Level::Error,
            ..Finding::warning(check, code, what)
        }
    }

    fn why(mut self, why: impl Into<String>) -> Finding {
        self.why = Some(why.into());
        self
    }

    fn fix(mut self, fix: impl Into<String>) -> Finding {
        self.fix = Some(fix.into());
        self
    }

    /// A fault of the node itself, as it would meet it at its start.
    fn fault(check: &'static str, fault: Fault) -> Finding {
        Finding {
            fix: fault.fix,
            ..Finding::error(check, fault.code, fault.what)
        }
    }

    /// What `config check` says.
    fn diagnostic(found: &Diagnostic) -> Finding {
        let level = match found.severity {
            Severity::Error => Level::Error,
            Severity::Warning => Level::Warning,
        };
        Finding {
            level,
            fix: found.fix.clone(),
            ..Finding::error("config", found.code, found.what.clone())
        }
    }
}

/// Everything that was tried.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Report {
    /// `CLUSTER.NODE`; absent when the config could not be understood.
    pub node: Option<String>,
    /// Whether there is no error among the findings.
    pub passed: bool,
    /// In the order in which they were tried.
    pub findings: Vec<Finding>,
}

impl Report {
    /// A config that is refused: nothing else can be tried.
    pub fn refused(diagnostics: &[Diagnostic]) -> Report {
        Report::new(None, diagnostics.iter().map(Finding::diagnostic).collect())
    }

    fn new(node: Option<String>, findings: Vec<Finding>) -> Report {
        Report {
            node,
            passed: findings.iter().all(|found| found.level != Level::Error),
            findings,
        }
    }

    /// For a person: what is wrong first to last, then how many tries went well.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for found in &self.findings {
            let mark = match found.level {
                Level::Ok => "ok     ",
                Level::Warning => "warning",
                Level::Error => "ERROR  ",
            };
            let code = found
                .code
                .map(|code| format!("[{code}] "))
                .unwrap_or_default();
            let _ = writeln!(out, "{mark}  {:<18} {code}{}", found.check, found.what);
            if let Some(why) = &found.why {
                let _ = writeln!(out, "         why: {why}");
            }
            if let Some(fix) = &found.fix {
                let _ = writeln!(out, "         fix: {fix}");
            }
        }
        let count = |level| {
            self.findings
                .iter()
                .filter(|found| found.level == level)
                .count()
        };
        let (errors, warnings) = (count(Level::Error), count(Level::Warning));
        let _ = match (errors, warnings) {
            (0, 0) => writeln!(out, "a node can live here"),
            (0, warnings) => writeln!(out, "a node can live here; {warnings} to look at"),
            (errors, _) => writeln!(out, "a node cannot live here yet: {errors} to mend"),
        };
        out
    }
}

/// Tries everything that a node of this config needs; `diagnostics` are the config's own warnings.
pub async fn run(config: &Config, diagnostics: &[Diagnostic]) -> Report {
    let mut findings = vec![Finding::ok(
        "config",
        format!("{} is understood", config.path.display()),
    )];
    findings.extend(diagnostics.iter().map(Finding::diagnostic));
    findings.extend(machine::look(config));
    findings.extend(storage::look(config));
    findings.extend(uplink::look(config).await);
    Report::new(Some(config.instance()), findings)
}
