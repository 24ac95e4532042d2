//! The sandbox, whole: real namespaces, mounts and cgroups, with a shell in place of k3s.
//!
//! Each test runs in mount, network and pid namespaces of its own, with a tmpfs on each folder that it
//! writes to: all is gone at its end, also after a failure. Cgroups alone are not: they carry a prefix and are
//! removed and, after a test that passed, complained of. Not root is a failure.

mod adoption;
mod ending;
mod exec;
mod host;
mod inside;
mod limits;
// The supervisor's side is no library: it is compiled again for its tests.
#[allow(dead_code, unused_imports)]
#[path = "../../crates/hepto-node/src/sandbox/mod.rs"]
mod sandbox;

use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hepto_tests::patience;

/// A name, and what it does in its own namespaces.
type Test = (&'static str, fn() -> Result<()>);

/// A test that takes longer hangs.
const LONGEST: Duration = Duration::from_secs(120);

const TESTS: &[&[Test]] = &[
    inside::TESTS,
    exec::TESTS,
    adoption::TESTS,
    ending::TESTS,
    limits::TESTS,
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--inside", name] => inside_namespaces(name),
        ["--supervise", node] => adoption::supervise(node),
        ["--list", ..] => return ExitCode::SUCCESS,
        _ => all(arguments.iter().find(|argument| !argument.starts_with('-'))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn all(filter: Option<&String>) -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "these tests make namespaces: run them as root"
    );
    let wanted = |(name, _): &&Test| filter.is_none_or(|filter| name.contains(filter.as_str()));
    let mut failed = Vec::new();
    for (name, _) in TESTS.iter().copied().flatten().filter(wanted) {
        let start = Instant::now();
        match in_namespaces(name) {
            Ok(()) => println!(
                "test {name} ... ok ({:.1} s)",
                start.elapsed().as_secs_f32()
            ),
            Err(error) => {
                println!("test {name} ... FAILED: {error:#}");
                failed.push(*name);
            }
        }
    }
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

/// Runs one test in its namespaces, as this program once more.
fn in_namespaces(name: &str) -> Result<()> {
    let cluster = format!("t{}", std::process::id());
    let mut unshare = Command::new("unshare");
    unshare.args([
        "--mount",
        "--net",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
    ]);
    // That of util-linux 2.36 ignores these two, and hands this down to a shell, which could not wait for them any more.
    unshare
        .args(["env", "--default-signal=INT,TERM"])
        .arg(std::env::current_exe()?)
        .args(["--inside", name])
        .env(host::CLUSTER, &cluster);
    let mut child = unshare.spawn().context("cannot run unshare (util-linux)")?;
    let start = Instant::now();
    let status = loop {
        match child.try_wait()? {
            Some(status) => break status,
            // With it everything in its pid namespace ends.
            None if start.elapsed() > patience(LONGEST) => child.kill()?,
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    let left = host::sweep_cgroups(&cluster)?;
    ensure!(status.success(), "{status}");
    ensure!(left.is_empty(), "cgroups were left: {left:?}");
    Ok(())
}

fn inside_namespaces(name: &str) -> Result<()> {
    let Some((_, test)) = TESTS
        .iter()
        .copied()
        .flatten()
        .find(|(known, _)| *known == name)
    else {
        bail!("no test {name}");
    };
    host::cover()?;
    test()
}
