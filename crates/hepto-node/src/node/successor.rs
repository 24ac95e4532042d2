//! The program that takes over at a reload: the installed one, which may have been replaced since this process began.
//! It is asked whether it would, by its own `config check`, and then executed in this very process.

use std::convert::Infallible;
use std::ffi::{CString, OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::io::{FdFlags, fcntl_setfd};
use tokio::process::Command;
use tokio::time::timeout;

use super::fixed;
use super::guard::Guard;
use super::service::watched;
use crate::config::Config;
use crate::fault::{Exit, Fault};
use crate::sandbox;
use crate::state::{Record, State};

/// How long the new program may take to check the config; a loaded machine reads a program's file slowly.
const PATIENCE: Duration = Duration::from_secs(60);
/// More of what it says is not shown.
const LONGEST: usize = 16 * 1024;
/// What a hepto-node that can take over says first, before its version.
const GREETING: &str = "hepto-node ";

/// How this node was started, and so how the next program is.
#[derive(Debug, Clone)]
pub struct Successor {
    program: PathBuf,
    config: PathBuf,
    log_format: String,
}

impl Successor {
    /// To be called early, while `/proc/self/exe` still names the file that was started.
    pub fn new(config: &Path, log_format: String) -> Self {
        Successor::of(program(), config, log_format)
    }

    /// That of a node whose program is installed there.
    pub fn of(program: PathBuf, config: &Path, log_format: String) -> Self {
        Successor {
            program,
            config: std::path::absolute(config).unwrap_or_else(|_| config.to_owned()),
            log_format,
        }
    }

    /// The installed program's path.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Asks the installed program whether it can take over the node of this run directory, with the config file as it
    /// is now; gives its version.
    ///
    /// # Errors
    /// `E-RELOAD-REFUSED` with what it says, or why it cannot be asked.
    pub async fn check(self, run_directory: PathBuf) -> Result<String, Fault> {
        let program = self.program.display();
        let mut command = Command::new(&self.program);
        command
            .args(["config", "check", "--running"])
            .args([&run_directory, &self.config])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let output = match timeout(PATIENCE, command.output()).await {
            Ok(Ok(output)) => output,
            Ok(Err(error)) => {
                return Err(unusable(format!("{program} cannot be started: {error}")));
            }
            Err(_) => {
                let what = format!("{program} did not check the config within {PATIENCE:?}");
                return Err(unusable(what));
            }
        };
        let said = String::from_utf8_lossy(&output.stdout);
        match said
            .lines()
            .next()
            .and_then(|line| line.strip_prefix(GREETING))
        {
            Some(version) if output.status.success() => Ok(version.to_owned()),
            _ => Err(refused(&self.program, output.status, &output.stderr)),
        }
    }

    /// Executes the program in this process, which keeps its id, its lock, its environment and its standard
    /// descriptors, and the socket to its guard; everything else is closed. Returns only when the kernel refuses.
    ///
    /// # Errors
    /// Why; this process is then as it was.
    pub(super) fn replace(&self, state: &State, guard: Option<&Guard>) -> io::Result<Infallible> {
        let mut arguments = self.arguments(state.descriptor());
        if let Some(Guard { socket, .. }) = guard {
            fcntl_setfd(socket, FdFlags::empty())?;
            let number = socket.as_raw_fd().to_string();
            arguments.extend(["--guard", &number].map(OsString::from));
        }
        // A signal that comes while nobody watches would end the node without its teardown: it waits instead.
        watched().thread_block()?;
        let refused = state
            .pass_on(true)
            .and_then(|()| execute(&self.program, &arguments));
        // Still here: all as before.
        state.pass_on(false)?;
        watched().thread_unblock()?;
        refused
    }

    /// The command line of the next program, which is handed the lock as this descriptor.
    pub(super) fn arguments(&self, lock: i32) -> Vec<OsString> {
        let mut arguments = vec![self.program.clone().into(), "run".into()];
        arguments.extend(self.how().map(OsStr::to_owned));
        arguments.extend(["--lock", &lock.to_string()].map(OsString::from));
        arguments
    }

    /// The options that tell another process of ours all of this.
    pub(super) fn start(&self) -> impl Iterator<Item = &OsStr> {
        let program = [OsStr::new("--program"), self.program.as_os_str()];
        program.into_iter().chain(self.how())
    }

    fn how(&self) -> [&OsStr; 4] {
        [
            OsStr::new("--config"),
            self.config.as_os_str(),
            OsStr::new("--log-format"),
            OsStr::new(&self.log_format),
        ]
    }
}

/// Executes a program in this process; returns only when the kernel refuses. The service manager's watchdog is for a
/// process by its id (sd_watchdog_enabled(3)): it is for this one.
///
/// # Errors
/// Why.
pub(super) fn execute(program: &Path, arguments: &[OsString]) -> io::Result<Infallible> {
    let arguments: Vec<CString> = arguments
        .iter()
        .map(|word| text(word))
        .collect::<Result<_, _>>()?;
    let own = OsString::from(std::process::id().to_string());
    let environment: Vec<CString> = std::env::vars_os()
        .map(|(mut name, value)| {
            let value = if name == "WATCHDOG_PID" {
                own.clone()
            } else {
                value
            };
            name.push("=");
            name.push(value);
            text(&name)
        })
        .collect::<Result<_, _>>()?;
    let program = text(program.as_os_str())?;
    Ok(nix::unistd::execve(&program, &arguments, &environment)?)
}

/// What `config check --running` answers for this program: that it can take over the node of a run directory.
///
/// # Errors
/// `E-RELOAD-FIXED` when a setting has changed that a running node keeps, `E-SANDBOX-VERSION` when the node's init
/// speaks another version.
pub fn can_take_over(config: &Config, run_directory: &Path) -> Result<String, Fault> {
    let runs_with = Record::read(run_directory).unwrap_or_default().fixed;
    let changes = fixed::changes(&runs_with, &fixed::fixed(config));
    if !changes.is_empty() {
        let changes: Vec<String> = changes.iter().map(ToString::to_string).collect();
        let what = format!(
            "a running node keeps what it was made from: {}",
            changes.join("; ")
        );
        return Err(Fault::new("E-RELOAD-FIXED", what)
            .fix("put the earlier value back; or end the node and its pods and begin anew: hepto-node stop, then run")
            .exit(Exit::BadConfig));
    }
    sandbox::understands(run_directory)?;
    Ok(format!("{GREETING}{}", env!("CARGO_PKG_VERSION")))
}

fn text(word: &OsStr) -> io::Result<CString> {
    Ok(CString::new(word.as_bytes())?)
}

fn unusable(what: String) -> Fault {
    Fault::new("E-RELOAD-REFUSED", what).fix(
        "install a hepto-node for this machine at that path; until then the node goes on as it was",
    )
}

/// The new program's own words, or how it ended when it has none.
fn refused(program: &Path, status: ExitStatus, said: &[u8]) -> Fault {
    let said = String::from_utf8_lossy(&said[..said.len().min(LONGEST)]);
    let said = said.trim();
    let program = program.display();
    if status.code() == Some(Exit::BadConfig as i32) {
        return Fault::new(
            "E-RELOAD-REFUSED",
            format!("{program} refuses the config file:\n{said}"),
        )
        .fix("mend what it names; until then the node goes on as it was")
        .exit(Exit::BadConfig);
    }
    unusable(format!("{program} cannot take over ({status}): {said}"))
}

/// Where the running program is installed. What it was started by comes first, since that may be a link which an upgrade
/// turns elsewhere.
fn program() -> PathBuf {
    let started = std::env::args_os().next().map(PathBuf::from);
    let same = |path: &PathBuf| {
        let inode = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino()));
        matches!((inode(path), inode(Path::new(SELF))), (Ok(one), Ok(other)) if one == other)
    };
    started
        .filter(|path| path.is_absolute() && same(path))
        .unwrap_or_else(|| installed(&fs::read_link(SELF).unwrap_or_else(|_| SELF.into())))
}

/// What the kernel calls our own program, also when its file was replaced.
pub(super) const SELF: &str = "/proc/self/exe";

/// The path behind a link of /proc: the kernel marks one whose file was removed or replaced (proc_pid_exe(5)).
fn installed(link: &Path) -> PathBuf {
    const MARK: &[u8] = b" (deleted)";
    match link.as_os_str().as_bytes().strip_suffix(MARK) {
        Some(path) if !link.exists() => PathBuf::from(OsStr::from_bytes(path)),
        _ => link.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_was_replaced_is_found_where_it_was_installed() {
        let folder = tempfile::tempdir().unwrap();
        let odd = folder.path().join("node (deleted)");
        assert_eq!(installed(&odd), folder.path().join("node"));
        fs::write(&odd, "").unwrap();
        assert_eq!(installed(&odd), odd, "a file may be called so");
        assert_eq!(
            installed(Path::new("/usr/bin/hepto-node")),
            Path::new("/usr/bin/hepto-node")
        );
    }

    #[test]
    fn the_next_program_is_started_as_this_one_was() {
        let successor = Successor {
            program: "/usr/bin/hepto-node".into(),
            config: "/etc/hepto/a.toml".into(),
            log_format: "json".into(),
        };
        let words = successor.arguments(7).join(OsStr::new(" "));
        assert_eq!(
            words,
            OsStr::new(
                "/usr/bin/hepto-node run --config /etc/hepto/a.toml --log-format json --lock 7"
            )
        );
    }

    #[tokio::test]
    async fn what_is_no_program_of_ours_is_refused_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let ask = async |program: &Path| {
            let successor = Successor {
                program: program.into(),
                config: "/c".into(),
                log_format: "text".into(),
            };
            successor.check("/run/hepto/a.b".into()).await.unwrap_err()
        };
        let absent = ask(&folder.path().join("absent")).await;
        assert!(absent.what.contains("No such file"), "{absent}");
        // Ends well, and yet cannot take over.
        let foreign = ask(Path::new("/bin/true")).await;
        assert_eq!(foreign.code, "E-RELOAD-REFUSED");
        assert!(
            foreign.what.contains("/bin/true cannot take over"),
            "{foreign}"
        );
        let failing = ask(Path::new("/bin/false")).await;
        assert!(failing.what.contains("exit status: 1"), "{failing}");
    }
}
