//! `hepto-node mtu`: how much a packet to each other node holds, and which MTU the cluster could agree on.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;

use super::{Target, ping, print, show};
use crate::config;
use crate::control::{Answer, Ask};
use crate::fault::{Exit, Fault};
use crate::state::Record;
use crate::status::figure::table;
use crate::survey::{Measured, Survey, survey};
use crate::target;

/// What `mtu` takes.
#[derive(Debug, Args)]
pub struct MtuArgs {
    /// The other nodes that are asked; without any, all of them
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub target: Target,
}

/// Measures from the running node, in up to half a minute.
///
/// # Errors
/// `E-PING-NAME`, `E-MTU-ALONE` (exit code 3), `E-MTU-SILENT`, or the config's.
pub fn run(args: MtuArgs) -> anyhow::Result<ExitCode> {
    let node = target::running(&args.target)?;
    let Answer::Peers(mut peers) = show::ask(&args.target, Ask::Peers)? else {
        bail!("the node answered another question")
    };
    for name in &args.names {
        if !peers.iter().any(|peer| peer.name == *name) {
            return Err(ping::unknown(name, &node, &peers).into());
        }
    }
    peers.retain(|peer| args.names.is_empty() || args.names.contains(&peer.name));
    if peers.is_empty() {
        return Err(Fault::new("E-MTU-ALONE", "no other node is known yet")
            .fix("hepto-node status says whether an anchor answers")
            .exit(Exit::NotReady)
            .into());
    }
    let Some(record) = Record::read(&node.path) else {
        bail!(
            "the node {} has no record in {}",
            node.name(),
            node.path.display()
        )
    };
    // The key, the port and the MTU; a running node's file was good when it was read.
    let (config, _) = config::read(&record.config).map_err(|report| {
        Fault::new(
            "E-TARGET-CONFIG",
            format!(
                "{} is refused now: {}",
                record.config.display(),
                report
                    .diagnostics
                    .first()
                    .map_or("", |first| first.what.as_str())
            ),
        )
        .fix(format!(
            "hepto-node config check {}",
            record.config.display()
        ))
        .exit(Exit::BadConfig)
    })?;
    let keys = config.cluster.overlay_key.derive(&config.cluster.name);
    let entry = ping::enter(&node)?;
    let found = survey(&keys, &entry, config.mesh.port, config.network.mtu, &peers);
    let text = match args.json {
        true => serde_json::to_string_pretty(&found)? + "\n",
        false => text(&found),
    };
    print(text.as_bytes())?;
    if found.ways.is_empty() {
        return Err(Fault::new("E-MTU-SILENT", "no node answered the questions about its way")
            .fix("hepto-node peers shows whether there are sessions; nodes of an older version answer none")
            .into());
    }
    Ok(ExitCode::SUCCESS)
}

fn text(found: &Survey) -> String {
    let row = |way: &Measured| {
        let mtu = match (way.path_mtu, way.or_more) {
            (Some(bytes), true) => format!("{bytes} or more"),
            (Some(bytes), false) => bytes.to_string(),
            (None, _) => "below 1280".into(),
        };
        [
            way.node.clone(),
            way.family.into(),
            mtu,
            way.bears.map_or("none".into(), |bears| bears.to_string()),
            if way.used { "yes" } else { "no" }.into(),
            way.address.to_string(),
        ]
    };
    let heads = [
        "NODE",
        "FAMILY",
        "PATH MTU",
        "BEARS MTU",
        "IN USE",
        "ADDRESS",
    ];
    let rows = match found.ways.is_empty() {
        true => String::new(),
        false => table(heads, found.ways.iter().map(row)) + "\n",
    };
    rows + &found.advice() + "\n"
}
