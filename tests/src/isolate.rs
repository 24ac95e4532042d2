//! Each test in a process of its own, with mounts, network and process ids that end with it.

use std::any::type_name;
use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::unistd::geteuid;

use crate::{inventory, patience, stand_in};

/// The directory of the test that this process was started for; unset outside.
const INSIDE: &str = "HEPTO_LAB";

/// Runs a test with a minute to spare; see [`isolated_for`].
///
/// # Panics
/// When the test does, when it takes too long, and when this is not root.
pub fn isolated<F: FnOnce()>(body: F) {
    isolated_for(Duration::from_secs(60), body);
}

/// Runs `body`, a closure written in the test's own function, in a new process whose mounts, network
/// and process ids are its own, with an empty `/run`; kills it after [`patience`] of `limit`. What it printed is
/// shown when it fails.
///
/// # Panics
/// When the test does, when it takes too long, and when this is not root.
pub fn isolated_for<F: FnOnce()>(limit: Duration, body: F) {
    match env::var_os(INSIDE) {
        Some(directory) => {
            settle(Path::new(&directory));
            body();
        }
        None => outside(test_name::<F>(), patience(limit)),
    }
}

/// The directory for this test's files, in memory; gone at its end.
///
/// # Panics
/// Outside of [`isolated`].
#[must_use]
pub fn directory() -> PathBuf {
    env::var_os(INSIDE)
        .expect("a lab lives inside `isolated`")
        .into()
}

/// The name of this test's cluster, by which its cgroups are told from those of other tests, which
/// share the machine's cgroup file systems.
pub(crate) fn cluster() -> String {
    let directory = directory();
    let suffix = directory
        .extension()
        .expect("the directory was named by `outside`")
        .to_string_lossy()
        .into_owned();
    format!("t{}", suffix.to_lowercase())
}

/// What libtest calls the test whose function the closure `F` was written in.
fn test_name<F>() -> &'static str {
    let path = type_name::<F>().trim_end_matches("::{{closure}}");
    path.split_once("::").map_or(path, |(_crate, name)| name)
}

fn outside(name: &str, limit: Duration) {
    assert!(
        geteuid().is_root(),
        "this test builds network namespaces and needs root: sudo -E cargo test"
    );
    let directory = tempfile::Builder::new()
        .prefix("hepto-lab.")
        .rand_bytes(8)
        .tempdir()
        .expect("a temporary directory");
    let log = directory.path().join("log");
    let mut child = start(name, directory.path(), &log);
    let status = wait(&mut child, limit);
    let cgroups = inventory::remove_cgroups(&format!("t{}", suffix(directory.path())));
    let ended = match status {
        Some(status) if status.success() && cgroups.is_empty() => return,
        Some(status) if status.success() => format!("{name} left cgroups behind: {cgroups:?}"),
        Some(status) => format!("{name} failed ({status})"),
        None => format!("{name} was ended after {} s", limit.as_secs()),
    };
    let output = fs::read(&log).unwrap_or_default();
    panic!("{ended}\n{}", String::from_utf8_lossy(&output));
}

fn suffix(directory: &Path) -> String {
    directory
        .extension()
        .unwrap_or_default()
        .to_string_lossy()
        .to_lowercase()
}

fn start(name: &str, directory: &Path, log: &Path) -> Child {
    let log = File::create(log).expect("a log file for the test");
    let test = env::current_exe().expect("the test's own path");
    Command::new("unshare")
        .args([
            "--mount",
            "--net",
            "--pid",
            "--fork",
            "--kill-child=SIGKILL",
            "--mount-proc",
            "--",
        ])
        // A shell as the first process: it collects orphans, as any host's init does.
        .args(["sh", "-c", "\"$@\"; exit $?", "sh"])
        .arg(test)
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, directory)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a second descriptor"))
        .stderr(log)
        .spawn()
        .expect("`unshare` of util-linux starts")
}

/// Waits for the test's end; after `limit`, ends it with all that it started.
fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let end = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().expect("the child is ours") {
            return Some(status);
        }
        if Instant::now() > end {
            // It may have ended just now.
            child.kill().ok();
            child.wait().expect("the child is ours");
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The inside of the new process: an empty `/run`, and the test's files and its k3s in memory.
fn settle(directory: &Path) {
    for path in [Path::new("/run"), Path::new(stand_in::PLACE), directory] {
        mount(
            Some("tmpfs"),
            path,
            Some("tmpfs"),
            MsFlags::empty(),
            Some("mode=755"),
        )
        .unwrap_or_else(|errno| panic!("cannot mount a tmpfs on {}: {errno}", path.display()));
    }
}
