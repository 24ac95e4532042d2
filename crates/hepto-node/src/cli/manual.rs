//! `hepto-node man` and `hepto-node completions`: what the command line says of itself, for `man` and for shells.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Command};
use clap_complete::Shell;
use clap_mangen::Man;

use super::print;

/// What `man` takes.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Write a page for each command into this directory, as `man1` needs them
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// What `completions` takes.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Prints the manual page, or writes all pages into a directory.
///
/// # Errors
/// When the directory cannot be made or written.
pub fn man(command: Command, args: ManArgs) -> anyhow::Result<ExitCode> {
    match args.out {
        Some(folder) => {
            write_pages(command, &folder)
                .with_context(|| format!("cannot write manual pages to {}", folder.display()))?;
        }
        None => {
            let mut page = Vec::new();
            Man::new(command).render(&mut page)?;
            print(&page)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// One page a command: `hepto-node.1`, `hepto-node-status.1`, `hepto-node-config-check.1`.
fn write_pages(command: Command, folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    clap_mangen::generate_to(command.disable_help_subcommand(true), folder)
}

/// Prints the completions for a shell.
///
/// # Errors
/// When standard output cannot be written.
pub fn completions(mut command: Command, args: &CompletionsArgs) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    let name = command.get_name().to_owned();
    clap_complete::generate(args.shell, &mut command, name, &mut script);
    print(&script)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, ValueEnum};

    #[test]
    fn every_shown_command_has_a_page_and_no_hidden_one() {
        let folder = tempfile::tempdir().expect("a directory");
        write_pages(crate::cli::Cli::command(), folder.path()).expect("pages");
        let page = |name: &str| folder.path().join(format!("hepto-node{name}.1")).exists();
        assert!(page("") && page("-status") && page("-config-check"));
        assert!(!page("-sandbox") && !page("-init"), "they are our own");
    }

    #[test]
    fn every_shell_has_completions_that_know_the_commands() {
        for shell in Shell::value_variants() {
            let mut script = Vec::new();
            clap_complete::generate(
                *shell,
                &mut crate::cli::Cli::command(),
                "hepto-node",
                &mut script,
            );
            let script = String::from_utf8(script).expect("text");
            assert!(script.contains("import-inventory"), "{shell}");
        }
    }
}
