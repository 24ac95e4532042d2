//! `hepto-node ping`: whether another node answers through the tunnel, over both families, and by which way.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::Args;
use hepto_net::echo::{Echo, echo};
use hepto_net::{Entry, address, namespace};
use schemars::JsonSchema;
use serde::Serialize;

use super::{Target, print, show};
use crate::control::{Answer, Ask};
use crate::fault::{Exit, Fault};
use crate::status::PeerStatus;
use crate::target::{self, RunDirectory};

/// From one round to the next.
const EVERY: Duration = Duration::from_secs(1);
/// An answer that takes longer is lost.
const PATIENCE: Duration = Duration::from_secs(1);
/// Names that are offered in place of one that nobody has.
const OFFERED: usize = 3;

/// What `ping` takes.
#[derive(Debug, Args)]
pub struct PingArgs {
    /// The other node's name
    pub name: String,
    /// How often each of its addresses is asked
    #[arg(long, short = 'c', value_name = "N", default_value = "3", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub count: u32,
    /// Print JSON when all are asked
    #[arg(long)]
    pub json: bool,
    /// The node's config file
    // Without the `-c` that it has elsewhere: here that is the count, as it is for every ping.
    #[arg(long, value_name = "FILE", conflicts_with = "node")]
    pub config: Option<PathBuf>,
    /// The running node, `CLUSTER.NODE` or `NODE`; not needed where only one runs
    #[arg(long, short, value_name = "NAME", id = "node")]
    pub from: Option<String>,
}

impl PingArgs {
    fn target(&self) -> Target {
        Target {
            config: self.config.clone(),
            node: self.from.clone(),
        }
    }
}

/// What it came to.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Pinged {
    /// The other node.
    pub node: String,
    /// Where its packets go, outside the tunnel.
    pub endpoint: Option<SocketAddr>,
    /// `ipv4` or `ipv6`: what carries the tunnel.
    pub carried_by: Option<&'static str>,
    /// Seconds since the last handshake.
    pub handshake_age_s: Option<u64>,
    /// For each of its overlay addresses.
    pub addresses: Vec<Tally>,
}

/// The answers of one overlay address.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Tally {
    /// The address.
    pub address: IpAddr,
    /// How often it was asked.
    pub asked: u32,
    /// How often it answered within a second.
    pub answered: u32,
    /// The shortest round trip, milliseconds; `null` without an answer, as the others.
    pub min_ms: Option<f64>,
    /// The mean.
    pub mean_ms: Option<f64>,
    /// The longest.
    pub max_ms: Option<f64>,
}

/// Asks, says each answer as it comes, and sums up.
///
/// # Errors
/// `E-PING-NAME`, `E-PING-SESSION` (exit code 3) or `E-PING-SILENT`.
pub fn run(args: PingArgs) -> anyhow::Result<ExitCode> {
    let node = target::resolve(&args.target())?;
    let mut peer = find(&args, &node)?;
    let entry = enter(&node)?;
    let mut times: Vec<(IpAddr, Vec<Option<Duration>>)> =
        (peer.addresses.iter().map(|address| (*address, Vec::new()))).collect();
    for round in 0..args.count {
        let began = Instant::now();
        if round > 0 {
            // The way may change meanwhile.
            peer = find(&args, &node)?;
        }
        for (address, times) in &mut times {
            let took = ask(&entry, *address)?;
            if !args.json {
                print(format!("{}\n", line(&peer, *address, took)).as_bytes())?;
            }
            times.push(took);
        }
        if round + 1 < args.count {
            thread::sleep(EVERY.saturating_sub(began.elapsed()));
        }
    }
    let pinged = sum_up(&peer, &times);
    let text = match args.json {
        true => serde_json::to_string_pretty(&pinged)? + "\n",
        false => pinged.text(),
    };
    print(text.as_bytes())?;
    if pinged.addresses.iter().all(|tally| tally.answered == 0) {
        return Err(silent(&peer).into());
    }
    Ok(ExitCode::SUCCESS)
}

/// The node that is meant, if it can be asked.
fn find(args: &PingArgs, node: &RunDirectory) -> anyhow::Result<PeerStatus> {
    let Answer::Peers(peers) = show::ask(&args.target(), Ask::Peers)? else {
        bail!("the node answered another question")
    };
    let Some(peer) = peers.iter().find(|peer| peer.name == args.name) else {
        return Err(unknown(&args.name, node, &peers).into());
    };
    if !peer.session {
        let what = match peer.handshake_age_s {
            Some(age) => format!(
                "the session with {} is over, {age} s after its last handshake",
                peer.name
            ),
            None => format!("there is no session with {} yet", peer.name),
        };
        return Err(Fault::new("E-PING-SESSION", what)
            .fix("check that it runs; hepto-node status says whether an anchor answers, here and there")
            .exit(Exit::NotReady)
            .into());
    }
    Ok(peer.clone())
}

/// The refusal of a name that no other node has.
pub(super) fn unknown(name: &str, node: &RunDirectory, peers: &[PeerStatus]) -> Fault {
    if name == node.node {
        return Fault::new("E-PING-NAME", format!("{name} is this node itself"))
            .fix("name another one: hepto-node peers lists them");
    }
    let mut names: Vec<&str> = peers.iter().map(|peer| peer.name.as_str()).collect();
    names.sort_by(|a, b| {
        let like = |other: &str| strsim::jaro_winkler(name, other);
        like(b).total_cmp(&like(a))
    });
    names.truncate(OFFERED);
    let fix = match names.is_empty() {
        true => "no other node is known yet; hepto-node status says whether an anchor answers"
            .to_owned(),
        false => format!(
            "the nearest names are {}; hepto-node peers lists all",
            names.join(", ")
        ),
    };
    Fault::new("E-PING-NAME", format!("no node {name} is known")).fix(fix)
}

/// The door to the node's network.
pub(super) fn enter(node: &RunDirectory) -> anyhow::Result<Entry> {
    let marker = address::marker(&node.cluster, &node.node);
    let name = node.namespace();
    let name = name.file_name().unwrap_or_default().to_string_lossy();
    let entry = namespace::find(&name, &marker).map_err(Fault::from)?;
    entry.ok_or_else(|| {
        let what = format!("the node {} has no network", node.name());
        Fault::new("E-EXEC-NO-NETWORK", what)
            .fix("start it: hepto-node run --config FILE")
            .into()
    })
}

/// One echo; `None`: no answer in time, or no way there.
fn ask(entry: &Entry, to: IpAddr) -> anyhow::Result<Option<Duration>> {
    let request = Echo {
        patience: PATIENCE,
        ..Echo::new(to)
    };
    Ok(entry.run(move || echo(request))?.ok())
}

fn line(peer: &PeerStatus, address: IpAddr, took: Option<Duration>) -> String {
    let way = way(peer);
    match took {
        Some(took) => format!(
            "{} {address} {way}: {:.2} ms",
            peer.name,
            milliseconds(took)
        ),
        None => format!("{} {address} {way}: no answer within a second", peer.name),
    }
}

fn way(peer: &PeerStatus) -> String {
    match peer.endpoint {
        Some(endpoint) => format!("by {endpoint}"),
        None => "by no known endpoint".to_owned(),
    }
}

fn silent(peer: &PeerStatus) -> Fault {
    let age = peer.handshake_age_s.unwrap_or_default();
    let what = format!(
        "{} does not answer through the tunnel {}, though there was a handshake {age} s ago",
        peer.name,
        way(peer)
    );
    Fault::new("E-PING-SILENT", what)
        .fix("its machine or line went down lately, or its node was stopped: the session ends by itself, and comes back with it")
}

fn sum_up(peer: &PeerStatus, times: &[(IpAddr, Vec<Option<Duration>>)]) -> Pinged {
    let tally = |(address, times): &(IpAddr, Vec<Option<Duration>>)| {
        let heard: Vec<f64> = times
            .iter()
            .flatten()
            .map(|took| milliseconds(*took))
            .collect();
        let some = |value: f64| (!heard.is_empty()).then_some(value);
        Tally {
            address: *address,
            asked: times.len() as u32,
            answered: heard.len() as u32,
            min_ms: some(heard.iter().copied().fold(f64::INFINITY, f64::min)),
            mean_ms: some(heard.iter().sum::<f64>() / heard.len() as f64),
            max_ms: some(heard.iter().copied().fold(0.0, f64::max)),
        }
    };
    Pinged {
        node: peer.name.clone(),
        endpoint: peer.endpoint,
        carried_by: peer.endpoint.map(|endpoint| match endpoint {
            SocketAddr::V4(_) => "ipv4",
            SocketAddr::V6(_) => "ipv6",
        }),
        handshake_age_s: peer.handshake_age_s,
        addresses: times.iter().map(tally).collect(),
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1e3
}

impl Pinged {
    fn text(&self) -> String {
        let line = |tally: &Tally| {
            let times = match (tally.min_ms, tally.mean_ms, tally.max_ms) {
                (Some(min), Some(mean), Some(max)) => {
                    format!(", {min:.2} to {max:.2} ms, {mean:.2} ms in the mean")
                }
                _ => String::new(),
            };
            let (asked, answered) = (tally.asked, tally.answered);
            let lost = 100 * (asked - answered) / asked.max(1);
            format!(
                "{}: {answered} of {asked} answered, {lost} % lost{times}\n",
                tally.address
            )
        };
        self.addresses.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::tests::peer;

    #[test]
    fn the_nearest_names_are_offered() {
        let named = |name: &str| PeerStatus {
            name: name.into(),
            ..peer()
        };
        let peers = ["bashful", "doc", "dopey", "sleepy", "sneezy"].map(named);
        let node = RunDirectory::new("acides", "grumpy");
        let fault = unknown("sleppy", &node, &peers);
        let fix = fault.fix.expect("a fix");
        assert!(fix.starts_with("the nearest names are sleepy, "), "{fix}");
        assert!(!fix.contains("bashful"), "{fix}");
        assert!(unknown("grumpy", &node, &peers).what.contains("itself"));
        let alone = unknown("sleepy", &node, &[]).fix.expect("a fix");
        assert!(alone.contains("no other node"), "{alone}");
    }

    #[test]
    fn answers_are_summed_up_for_each_address() {
        let ms = Duration::from_millis;
        let address = |text: &str| text.parse().expect("an address");
        let times = [
            (address("10.44.0.7"), vec![Some(ms(2)), None, Some(ms(4))]),
            (address("fd00::7"), vec![None]),
        ];
        let pinged = sum_up(&peer(), &times);
        assert_eq!(pinged.carried_by, Some("ipv4"));
        assert_eq!(
            pinged.text(),
            "10.44.0.7: 2 of 3 answered, 33 % lost, 2.00 to 4.00 ms, 3.00 ms in the mean\n\
             fd00::7: 0 of 1 answered, 100 % lost\n"
        );
        assert_eq!(pinged.addresses[1].mean_ms, None);
    }
}
