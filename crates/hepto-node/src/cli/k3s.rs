//! `hepto-node k3s fetch`: k3s is brought before a node needs it.

use std::io::IsTerminal;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use indicatif::{ProgressBar, ProgressStyle};

use crate::config::Config;
use crate::fault::{Exit, Fault};
use crate::k3s::acquire::{Acquired, Cancel, Error, Order, Stage, acquire, pause};
use crate::node;

/// How often in a row a download that is cut is gone on with.
const TRIES: u32 = 5;

/// What can be done with a node's k3s.
#[derive(Debug, Subcommand)]
pub enum K3sCommand {
    /// Bring the k3s of a config to this machine, check its digest, start nothing
    Fetch {
        /// The node's config file
        #[arg(long, short, value_name = "FILE")]
        config: PathBuf,
    },
}

/// Does one of the commands above.
pub fn run(command: K3sCommand) -> anyhow::Result<ExitCode> {
    let K3sCommand::Fetch { config } = command;
    let Some((config, _)) = super::config::read(&config) else {
        return Ok(Exit::BadConfig.into());
    };
    let Some(order) = node::order(&config) else {
        say("k3s is not enabled in this config: there is nothing to fetch");
        return Ok(ExitCode::SUCCESS);
    };
    make_directory(&config)?;
    let acquired = fetch(&order)?;
    println!("{}", acquired.path.display());
    say(&format!(
        "{} is there, SHA-256 {}",
        acquired.name, acquired.digest
    ));
    if let Some(images) = &acquired.images {
        say(&format!("its images are there, SHA-256 {}", images.digest));
    }
    Ok(ExitCode::SUCCESS)
}

/// The node may never have run.
fn make_directory(config: &Config) -> Result<(), Fault> {
    let directory = config.node_directory();
    let mut builder = std::fs::DirBuilder::new();
    let made = builder.recursive(true).mode(0o700).create(&directory);
    made.map_err(|error| {
        let what = format!("cannot make {}: {error}", directory.display());
        Fault::new("E-STORAGE", what).fix("run it as root; check node.storage and its disk")
    })
}

fn fetch(order: &Order) -> Result<Acquired, Fault> {
    let shown = Shown::new();
    let (cancel, mut failures) = (Cancel::default(), 0);
    loop {
        match acquire(order, &cancel, &|stage| shown.tell(&stage)) {
            Err(error) if error.came_further() && failures + 1 < TRIES => {
                failures += 1;
                again(&shown, &error, failures);
            }
            result => {
                shown.done();
                return Ok(result?);
            }
        }
    }
}

fn again(shown: &Shown, error: &Error, failures: u32) {
    let pause = pause(failures - 1, true);
    shown.say(&format!("{error}; gone on with in {} s", pause.as_secs()));
    std::thread::sleep(pause);
}

/// Standard output is the path's alone.
fn say(line: &str) {
    eprintln!("{line}");
}

/// A bar on a terminal; elsewhere a line for each step and each tenth of a download.
struct Shown {
    bar: Option<ProgressBar>,
    said: std::cell::RefCell<String>,
}

impl Shown {
    fn new() -> Shown {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template(
                "{spinner} {msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}",
            ) {
                bar.set_style(style);
            }
            bar
        });
        Shown {
            bar,
            said: std::cell::RefCell::default(),
        }
    }

    fn tell(&self, stage: &Stage) {
        let words = stage.to_string();
        match (&self.bar, stage) {
            (Some(bar), Stage::Downloading(progress)) => {
                bar.set_message(progress.file.clone());
                bar.set_length(progress.total.unwrap_or(progress.done));
                bar.set_position(progress.done);
            }
            (Some(bar), _) => bar.set_message(words),
            (None, Stage::Downloading(progress)) => {
                let tenth = progress.percent().map_or(0, |percent| percent / 10);
                self.once(format!("{}{tenth}", progress.file), &words);
            }
            (None, _) => self.once(words.clone(), &words),
        }
    }

    fn once(&self, key: String, words: &str) {
        if self.said.replace(key.clone()) != key {
            say(words);
        }
    }

    fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            None => say(line),
        }
    }

    fn done(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
