//! `hepto-node keys generate`.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};
use hepto_mesh::key::{ClusterKey, OverlayKey};

use crate::fault::Fault;
use crate::secret::{self, SystemRandom};

/// What can be done with keys.
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Make a key of 32 letters and digits
    Generate {
        /// Which of the two keys
        kind: KeyKind,
        /// Where to write it (mode 0600); printed when absent
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

/// The cluster's two keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KeyKind {
    /// Secures the mesh
    Overlay,
    /// Secures the first access of k3s agents to the master
    Cluster,
}

/// Does one of the commands above.
pub fn run(command: KeysCommand) -> anyhow::Result<ExitCode> {
    let KeysCommand::Generate { kind, out } = command;
    let key = match kind {
        KeyKind::Overlay => OverlayKey::generate(&mut SystemRandom),
        KeyKind::Cluster => ClusterKey::generate(&mut SystemRandom),
    };
    match out {
        Some(path) => secret::write_new(&path, &key).map_err(Fault::from)?,
        None => {
            let mut output = io::stdout().lock();
            output.write_all(key.as_bytes())?;
            output.write_all(b"\n")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
