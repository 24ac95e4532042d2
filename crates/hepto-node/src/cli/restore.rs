//! `hepto-node restore`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use crate::config::{self, Config};
use crate::control::{Answer, Ask, Client};
use crate::fault::{Exit, Fault};
use crate::secret;
use crate::snapshot::age::Identity;
use crate::snapshot::restore;
use crate::target::{self, RunDirectory};

/// What `restore` takes.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("source").required(true))]
pub struct RestoreArgs {
    /// The master's config file, as it is to be on this machine
    #[arg(long, short, value_name = "FILE")]
    pub config: PathBuf,
    /// The snapshot
    #[arg(long, value_name = "FILE", group = "source")]
    pub from: Option<PathBuf>,
    /// The newest one that this agent keeps, a node of the same cluster on this machine
    #[arg(long, value_name = "NODE", group = "source")]
    pub from_agent: Option<String>,
    /// The operator's key: hepto-node keys generate operator --out FILE
    #[arg(long, value_name = "FILE")]
    pub identity: PathBuf,
    /// Move a storage that is there aside; without it only an empty place is taken
    #[arg(long)]
    pub force: bool,
    /// Take key files that are missing here out of the snapshot, which must then never have been in others' hands
    #[arg(long, conflicts_with = "from_agent")]
    pub unproved: bool,
    /// Restore although the old master is still seen in the mesh
    #[arg(long)]
    pub old_is_gone: bool,
}

/// Brings a master up here.
pub fn run(args: RestoreArgs) -> anyhow::Result<ExitCode> {
    if !rustix::process::geteuid().is_root() {
        let fault = Fault::new("E-RESTORE-ROOT", "a node's storage is root's");
        return Err(fault.fix("run it as root").exit(Exit::NoPermission).into());
    }
    let key = restore::operator_key(&args.identity)?;
    let written = match (&args.from, args.unproved) {
        (Some(file), true) => missing_keys(&args.config, file, &key)?,
        _ => Vec::new(),
    };
    let restored = work(&args, &key);
    if restored.is_err() {
        // As before: they came out of a snapshot that was not restored.
        for path in written {
            let _ = fs::remove_file(path);
        }
    }
    restored
}

fn work(args: &RestoreArgs, key: &Identity) -> anyhow::Result<ExitCode> {
    let Some((config, _)) = super::config::read(&args.config) else {
        return Ok(Exit::BadConfig.into());
    };
    let file = match (&args.from, &args.from_agent) {
        (Some(file), _) => file.clone(),
        (None, Some(agent)) => restore::of_agent(&config, agent)?,
        (None, None) => anyhow::bail!("neither --from nor --from-agent"),
    };
    if !args.old_is_gone
        && let Some(witness) = witness(&config)
    {
        let what = format!("{witness} still sees {} in the mesh", config.node.name);
        return Err(Fault::new("E-RESTORE-ALIVE", what)
            .fix(
                "stop the old one, wait ten seconds, try again: two nodes of one identity would fight over it; --old-is-gone \
                 where you know better",
            )
            .into());
    }
    let restored = restore::restore(&config, &file, key, args.force)?;
    let head = &restored.head;
    eprintln!(
        "{} of {} is restored as it was at {}, with the identity {}",
        head.node, head.cluster, head.made, head.identity
    );
    if let Some(aside) = &restored.aside {
        eprintln!("what was there before lies in {}", aside.display());
    }
    if restored.other_overlay_key {
        let code = "W-RESTORE-OVERLAY-KEY";
        eprintln!(
            "warning: [{code}] the snapshot was made with another overlay key than this config's"
        );
    }
    eprintln!(
        "next: see that the old machine never starts it again; then hepto-node run --config {}",
        secret::quote(&args.config)
    );
    Ok(ExitCode::SUCCESS)
}

/// A node of the cluster on this machine that sees the master alive now.
fn witness(config: &Config) -> Option<String> {
    let sees = |run: &RunDirectory| {
        let Ok(Answer::Peers(peers)) = Client::connect(&run.path).ok()?.ask(Ask::Peers) else {
            return None;
        };
        // A session outlives its peer by minutes; gossip knows in seconds.
        let alive = peers.iter().any(|peer| {
            peer.name == config.node.name.as_str() && peer.session && peer.gossip == "alive"
        });
        alive.then(|| run.name())
    };
    let of_cluster = |run: &RunDirectory| run.cluster == config.cluster.name.as_str();
    target::every()
        .iter()
        .filter(|run| of_cluster(run))
        .find_map(sees)
}

/// Writes the key files that the config names and this machine lacks; gives their paths.
fn missing_keys(config: &Path, file: &Path, key: &Identity) -> Result<Vec<PathBuf>, Fault> {
    let named = config::key_files(config).map_err(|why| {
        Fault::new("E-CONFIG-READ", why)
            .fix("`hepto-node config check FILE` shows what is wrong with it")
            .exit(Exit::BadConfig)
    })?;
    let missing = |path: &Option<PathBuf>| path.clone().filter(|path| !path.exists());
    let (overlay, cluster) = (missing(&named.0), missing(&named.1));
    if overlay.is_none() && cluster.is_none() {
        return Ok(Vec::new());
    }
    let contents = restore::examine(file, key, None)?;
    let mut written = Vec::new();
    for (path, text) in [
        (overlay, contents.overlay_key),
        (cluster, contents.cluster_key),
    ] {
        let Some(path) = path else { continue };
        if let Err(error) = secret::write_new(&path, &text) {
            for path in written {
                // As before; the first error is the one to report.
                let _ = fs::remove_file::<PathBuf>(path);
            }
            return Err(error.into());
        }
        written.push(path);
    }
    Ok(written)
}
