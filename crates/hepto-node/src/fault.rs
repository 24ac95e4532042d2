//! An error as the operator sees it: a stable code, what happened, and what to do about it.

use std::fmt;
use std::process::ExitCode;

/// Why the process ends, as its exit code (`docs/reference/commands.md`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 1: the work failed.
    Failed = 1,
    /// 2: the command line is wrong.
    Usage = 2,
    /// 3: not ready, for `status --check`; or no node runs there.
    NotReady = 3,
    /// 75: this node already runs.
    AlreadyRunning = 75,
    /// 77: permission is missing.
    NoPermission = 77,
    /// 78: the configuration is wrong; nothing was made.
    BadConfig = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// One error with a stable code, such as `E-NET-ADDR-HOST`.
#[derive(Debug)]
pub struct Fault {
    /// The stable code; each has an entry in `docs/reference/messages.md`.
    pub code: &'static str,
    /// What was tried, on what, and what came of it: one sentence without a full stop.
    pub what: String,
    /// The setting or command that mends it.
    pub fix: Option<String>,
    /// The exit code of the process.
    pub exit: Exit,
}

impl Fault {
    /// A failure that ends the process with 1.
    pub fn new(code: &'static str, what: impl Into<String>) -> Self {
        Fault {
            code,
            what: what.into(),
            fix: None,
            exit: Exit::Failed,
        }
    }

    /// What mends it; where that is not known, what finds it out.
    pub fn remedy(&self) -> &str {
        let unknown = "hepto-node diagnose gathers what helps to find out";
        self.fix.as_deref().unwrap_or(unknown)
    }

    /// Logs it: what cannot be done, and that the node goes on.
    pub fn log(&self) {
        tracing::error!(code = self.code, fix = self.remedy(), "{}", self.what);
    }

    /// The same fault with what mends it.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    /// The same fault with another exit code.
    #[must_use]
    pub fn exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {}", self.code, self.what)?;
        match &self.fix {
            Some(fix) => write!(f, "\n  fix: {fix}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Fault {}

/// Errors of the libraries have a code and often a fix; here they get an exit code.
macro_rules! fault_from {
    ($($error:ty => $fix:expr;)*) => {$(
        impl From<$error> for Fault {
            fn from(error: $error) -> Self {
                let fix: fn(&$error) -> Option<String> = $fix;
                Fault { code: error.code(), what: error.to_string(), fix: fix(&error), exit: Exit::Failed }
            }
        }
    )*};
}

fault_from! {
    hepto_tunnel::Error => |error| error.fix();
    hepto_mesh::driver::Error => |error| error.fix();
    // Its sentences say what to do.
    hepto_mesh::identity::IdentityError => |_| None;
    crate::k3s::Error => |error| error.fix();
    crate::k3s::drain::Error => |error| error.fix();
    crate::k3s::datastore::Error => |error| error.fix();
    crate::k3s::acquire::Error => |error| error.fix();
    hepto_net::lab::Error => |error| error.fix();
    crate::sandbox::Error => |error| error.fix();
}

impl From<hepto_net::Error> for Fault {
    fn from(error: hepto_net::Error) -> Self {
        let exit = if error.is_permission() {
            Exit::NoPermission
        } else {
            Exit::Failed
        };
        Fault {
            code: error.code(),
            what: error.to_string(),
            fix: error.fix(),
            exit,
        }
    }
}
