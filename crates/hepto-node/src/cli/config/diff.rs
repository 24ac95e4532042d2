//! `hepto-node config fingerprint` and `hepto-node config diff`.

use std::path::Path;
use std::process::ExitCode;

use anyhow::bail;

use super::{complain, print};
use crate::cli::{Target, show};
use crate::config::{self, Comparison, Shared, Side};
use crate::control::{Answer, Ask};
use crate::fault::Exit;

/// Prints what the owner of another node can compare his own config with.
pub fn fingerprint(file: &Path) -> anyhow::Result<ExitCode> {
    let Some(shared) = config_of(file) else {
        return Ok(Exit::BadConfig.into());
    };
    for (setting, why) in &shared.missing {
        eprintln!("left out: {setting} ({why})");
    }
    print(&shared.fingerprint()?)
}

/// Says where two nodes differ; 1 when they do, 78 when a file is refused.
pub fn diff(one: &Path, other: Option<&Path>, json: bool) -> anyhow::Result<ExitCode> {
    let Some(mine) = read(one)? else {
        return Ok(Exit::BadConfig.into());
    };
    let comparison = match other {
        None => with_running(one, &mine)?,
        Some(other) => match read(other)? {
            Some(theirs) => {
                let [one, other] = [one, other].map(|file| file.display().to_string());
                Comparison::of((&one, &mine), (&other, &theirs))
            }
            None => return Ok(Exit::BadConfig.into()),
        },
    };
    match json {
        true => print(&(serde_json::to_string_pretty(&comparison)? + "\n"))?,
        false => print(&comparison.text())?,
    };
    Ok(match comparison.agree {
        true => ExitCode::SUCCESS,
        false => Exit::Failed.into(),
    })
}

/// A config, or the fingerprint of one.
fn read(file: &Path) -> anyhow::Result<Option<Shared>> {
    match Shared::read(file)? {
        Some(shared) => Ok(Some(shared)),
        None => Ok(config_of(file)),
    }
}

/// What a config shares, or its errors, on standard error.
fn config_of(file: &Path) -> Option<Shared> {
    config::shared(file)
        .map_err(|report| complain(&report))
        .ok()
}

/// The node of this config, as it runs, and those that it knows. Whom it meets at all has the cluster's name and keys.
fn with_running(file: &Path, mine: &Shared) -> anyhow::Result<Comparison> {
    let target = Target {
        config: Some(file.to_owned()),
        node: None,
    };
    let (Answer::Status(status), Answer::Peers(peers)) = (
        show::ask(&target, Ask::Status)?,
        show::ask(&target, Ask::Peers)?,
    ) else {
        bail!("the node answered another question")
    };
    let side = Side {
        file: file.display().to_string(),
        node: mine.node.clone(),
    };
    let mut comparison = Comparison::new(side, None);
    let mut tunnels = vec![(status.node, status.mesh.mtu)];
    tunnels.extend(peers.into_iter().map(|peer| (peer.name, peer.mtu)));
    for (node, mtu) in tunnels.iter().filter(|(_, mtu)| *mtu > 0) {
        comparison.compare_tunnel(mine, node, *mtu);
    }
    Ok(comparison)
}
