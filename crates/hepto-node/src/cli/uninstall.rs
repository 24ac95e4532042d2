//! `hepto-node uninstall`.

use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::{Target, stop};
use crate::fault::{Exit, Fault};
use crate::state::Record;
use crate::target::{self, RunDirectory};
use crate::uninstall::{Outline, Plan, Wish, plan};

/// What `uninstall` takes.
#[derive(Debug, Args)]
pub struct UninstallArgs {
    #[command(flatten)]
    pub target: Target,
    /// Also the node's data and identity, its config and its keys
    #[arg(long)]
    pub purge: bool,
    /// A file or folder that stays, with all in it
    #[arg(long, value_name = "PATH", num_args = 1.., requires = "purge")]
    pub keep_data: Vec<PathBuf>,
    /// Show what would be removed, and remove nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

/// Shows what goes, asks, and removes it.
pub fn run(args: UninstallArgs) -> anyhow::Result<ExitCode> {
    let outline = Outline::read(&config(&args.target)?)?;
    if !rustix::process::geteuid().is_root() {
        return Err(
            Fault::new("E-UNINSTALL-ROOT", "only root uninstalls a node")
                .fix("run it as root")
                .exit(Exit::NoPermission)
                .into(),
        );
    }
    let node = RunDirectory::new(&outline.cluster, &outline.node);
    let wish = Wish {
        purge: args.purge,
        keep: args.keep_data,
    };
    let plan = plan(&outline, &wish)?;
    show(&node, &plan);
    if args.dry_run {
        return Ok(ExitCode::SUCCESS);
    }
    if !args.yes && !confirmed(&outline.node)? {
        eprintln!("nothing was removed");
        return Ok(Exit::Failed.into());
    }
    plan.disable()?;
    stop::stop(&node)?;
    plan.carry_out()?;
    eprintln!("{} is uninstalled", node.name());
    Ok(ExitCode::SUCCESS)
}

/// The config file that is meant: named, or the one with which a node runs.
fn config(target: &Target) -> Result<PathBuf, Fault> {
    if let Some(config) = &target.config {
        return Ok(config.clone());
    }
    let node = target::resolve(target)?;
    Record::read(&node.path)
        .map(|record| record.config)
        .ok_or_else(|| {
            let what = format!("{} left no record of its config file", node.name());
            Fault::new("E-TARGET-CONFIG", what)
                .fix("name it: --config FILE")
                .exit(Exit::Usage)
        })
}

fn show(node: &RunDirectory, plan: &Plan) {
    println!("{}: this is removed", node.name());
    for item in &plan.items {
        println!("  {item}");
    }
    if !plan.kept.is_empty() {
        println!("this stays");
    }
    for (path, reason) in &plan.kept {
        println!("  {} ({reason})", path.display());
    }
}

/// Whether the person at the terminal types the node's name.
fn confirmed(node: &str) -> anyhow::Result<bool> {
    let input = std::io::stdin();
    if !input.is_terminal() {
        return Err(
            Fault::new("E-UNINSTALL-ASK", "there is no terminal on which to ask")
                .fix("look with --dry-run, then say --yes")
                .exit(Exit::Usage)
                .into(),
        );
    }
    eprint!("Type the node's name to remove it: ");
    std::io::stderr().flush()?;
    let mut line = String::new();
    input.lock().read_line(&mut line)?;
    Ok(line.trim() == node)
}
