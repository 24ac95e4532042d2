//! What the demo is doing: a moving line on a terminal, plain lines elsewhere.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};

/// The place where steps are told.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Chosen by what standard error is.
    pub fn new() -> Progress {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) =
                ProgressStyle::with_template("{spinner} {msg} {wide_bar} {pos}/{len}")
            {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Progress { bar }
    }

    /// Begins a step of so many parts.
    pub fn step(&self, what: &str, parts: usize) {
        match &self.bar {
            Some(bar) => {
                bar.set_length(parts as u64);
                bar.set_position(0);
                bar.set_message(what.to_owned());
            }
            None => say(what),
        }
    }

    /// One part of the step is done.
    pub fn part(&self, what: &str) {
        match &self.bar {
            Some(bar) => bar.inc(1),
            None => say(&format!("  {what}")),
        }
    }

    /// All steps are done: the line goes.
    pub fn done(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A line on standard error. That nobody reads it is no reason to stop, least of all while cleaning up.
pub fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// A line on standard output.
///
/// # Errors
/// When nobody reads it: what is shown is what the demo is for.
pub fn tell(line: &str) -> anyhow::Result<()> {
    writeln!(io::stdout(), "{line}").context("cannot write to standard output")
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.done();
    }
}
