//! The k3s that the demo is given: whether it is one, before anything is built, and why it ended, afterwards.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::fault::Fault;
use crate::k3s::binary;

/// How long a k3s may take to tell its version: the real one is large, and a disk may be slow.
const PATIENCE: Duration = Duration::from_secs(20);
/// How many lines of k3s's own log are shown.
const LINES: usize = 12;

/// The whole path of a program that calls itself k3s.
///
/// # Errors
/// There is none, the homes would not see it, or it is another program.
pub fn find(path: &Path) -> Result<PathBuf, Fault> {
    let refused = |what: String| {
        let fault = Fault::new("E-DEMO-K3S", what);
        fault.fix("name a k3s, as in --k3s /usr/local/bin/k3s; without --k3s the demo shows the mesh alone")
    };
    let shown = path.display();
    let found = path
        .canonicalize()
        .map_err(|error| refused(format!("cannot find {shown}: {error}")))?;
    binary::check(&found)?;
    let output = version(&found)
        .map_err(|why| refused(format!("{shown} does not tell its version: {why}")))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let first = said.lines().next().unwrap_or_default();
    if output.status.success() && first.starts_with("k3s version v") {
        return Ok(found);
    }
    let answer = match first {
        "" => format!("it ends with {} and says nothing", output.status),
        line => format!("it says \"{line:.80}\""),
    };
    Err(refused(format!(
        "{shown} is not a k3s: asked for its --version, {answer}"
    )))
}

fn version(program: &Path) -> Result<Output, String> {
    let mut child = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| error.to_string())?;
    let end = Instant::now() + PATIENCE;
    loop {
        match child.try_wait() {
            Ok(Some(_)) => return child.wait_with_output().map_err(|error| error.to_string()),
            Ok(None) if Instant::now() < end => thread::sleep(Duration::from_millis(10)),
            Ok(None) => {
                // It has ended meanwhile, or ends now.
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("it runs on after {} s", PATIENCE.as_secs()));
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// The end of what k3s said in a node, indented.
pub fn last_words(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(LINES)..];
    if last.is_empty() {
        return "it said nothing".to_owned();
    }
    format!("its last words:\n  {}", last.join("\n  "))
}
