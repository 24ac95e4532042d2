//! What goes wrong on purpose. A control file holds one word a line, with a node's name after it if only that node
//! is meant; it is `stand-in.control` in the data folder, or lies beside the binary as `<binary>.control`. It is read
//! again ten times a second.
//!
//! | word | effect |
//! |---|---|
//! | `crash` | ends with 1, once: the word is struck out first |
//! | `crash-loop` | ends with 1 at every start |
//! | `hang` | answers nothing, and says no READY, while the word stands |
//! | `ignore-term` | does not end at SIGTERM |
//! | `leave-children` | starts a pod under a shim, which outlive k3s |

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::SigSet;

use crate::config::Config;

/// Set while `ignore-term` stands.
static STUBBORN: AtomicBool = AtomicBool::new(false);

/// The misbehaviour that is asked for.
#[derive(Debug, Clone)]
pub struct Control {
    hung: Arc<AtomicBool>,
}

impl Control {
    /// Reads the files, and goes on reading them.
    pub fn watch(config: &Config) -> anyhow::Result<Control> {
        let beside = std::env::current_exe().context("the binary's own path")?;
        let mut beside = beside.into_os_string();
        beside.push(".control");
        let files = [config.data.join("stand-in.control"), PathBuf::from(beside)];
        let control = Control {
            hung: Arc::new(AtomicBool::new(false)),
        };
        let (watcher, config) = (control.clone(), config.clone());
        let mut children = false;
        watcher.obey(&config, &files, &mut children)?;
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(Duration::from_millis(100));
                if let Err(error) = watcher.obey(&config, &files, &mut children) {
                    eprintln!("control: {error:#}");
                }
            }
        });
        Ok(control)
    }

    /// Returns when `hang` does not stand.
    pub fn wait_while_hung(&self) {
        while self.hung.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn obey(&self, config: &Config, files: &[PathBuf], children: &mut bool) -> anyhow::Result<()> {
        let stands = |word: &str| {
            files
                .iter()
                .any(|file| line_of(file, word, &config.node).is_some())
        };
        for file in files {
            if let Some(line) = line_of(file, "crash", &config.node) {
                strike(file, &line)?;
                eprintln!("crash: as told");
                std::process::exit(1);
            }
        }
        if stands("crash-loop") {
            eprintln!("crash-loop: as told");
            std::process::exit(1);
        }
        self.hung.store(stands("hang"), Ordering::Relaxed);
        STUBBORN.store(stands("ignore-term"), Ordering::Relaxed);
        if stands("leave-children") && !std::mem::replace(children, true) {
            crate::pod::start(&config.data)?;
        }
        Ok(())
    }
}

/// Ends the process at SIGTERM, unless told to ignore it.
pub fn supervise_signal(terminate: &SigSet) {
    while terminate.wait().is_ok() {
        if STUBBORN.load(Ordering::Relaxed) {
            eprintln!("SIGTERM: ignored, as told");
        } else {
            eprintln!("SIGTERM: ends");
            std::process::exit(0);
        }
    }
}

/// The line of `file` that asks `node` for `word`.
fn line_of(file: &Path, word: &str, node: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let asks = |line: &&str| {
        let mut words = line.split_whitespace();
        words.next() == Some(word) && words.next().is_none_or(|name| name == node)
    };
    text.lines().find(asks).map(str::to_owned)
}

fn strike(file: &Path, line: &str) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(file)?;
    let rest: String = text
        .lines()
        .filter(|other| *other != line)
        .flat_map(|other| [other, "\n"])
        .collect();
    std::fs::write(file, rest).with_context(|| format!("strike {line:?} out of {}", file.display()))
}
