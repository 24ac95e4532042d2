//! `hepto-node keys generate|derive-agent`.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};
use hepto_mesh::key::{ClusterKey, KeyError, OverlayKey};
use hepto_mesh::name::ClusterName;
use zeroize::Zeroizing;

use crate::fault::Fault;
use crate::secret::{self, SystemRandom};
use crate::snapshot::age::Identity;

/// What can be done with keys.
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Make a key: the mesh's and the cluster's are 32 letters and digits, the operator's a pair of the age format
    Generate {
        /// Which key
        kind: KeyKind,
        /// Where to write it (mode 0600); printed when absent
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Derive the agents' key from the cluster key: all that nodes other than the master need
    DeriveAgent {
        /// The cluster's name: each cluster's agents have a key of their own
        #[arg(long, value_name = "NAME")]
        cluster: ClusterName,
        /// The file with the cluster key
        #[arg(long, value_name = "FILE")]
        from: PathBuf,
        /// Where to write it (mode 0600); printed when absent
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

/// The keys that are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KeyKind {
    /// Secures the mesh
    Overlay,
    /// Secures the first access of k3s agents to the master
    Cluster,
    /// Opens snapshots: the operator's alone, kept away from all nodes
    Operator,
}

/// Does one of the commands above.
pub fn run(command: KeysCommand) -> anyhow::Result<ExitCode> {
    match command {
        KeysCommand::Generate {
            kind: KeyKind::Overlay,
            out,
        } => give(&OverlayKey::generate(&mut SystemRandom), out),
        KeysCommand::Generate {
            kind: KeyKind::Cluster,
            out,
        } => give(&ClusterKey::generate(&mut SystemRandom), out),
        KeysCommand::Generate {
            kind: KeyKind::Operator,
            out,
        } => operator(out),
        KeysCommand::DeriveAgent { cluster, from, out } => {
            let key = secret::read(&from).map_err(Fault::from)?;
            let key: ClusterKey = key
                .parse()
                .map_err(|error: KeyError| Fault::new(error.code(), error.to_string()))?;
            give(key.agent(&cluster).expose(), out)
        }
    }
}

/// The secret goes into the file, or to standard output without one; the public half is printed, so that it can be
/// written into the master's config.
fn operator(out: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    let key = Identity::generate(&mut SystemRandom);
    let public = key.recipient();
    let text = Zeroizing::new(format!("# public key: {public}\n{}", *key.expose()));
    let has_file = out.is_some();
    give(&text, out)?;
    if has_file {
        writeln!(io::stdout(), "recipient = \"{public}\"")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn give(key: &str, out: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    match out {
        Some(path) => secret::write_new(&path, key).map_err(Fault::from)?,
        None => {
            let mut output = io::stdout().lock();
            output.write_all(key.as_bytes())?;
            output.write_all(b"\n")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
