//! What strangers may reach of the node: by the uplink, and by the pair between host and node, where the host is a
//! neighbour like any other. Linux answers for every address on every link, and forwards what it is handed: without
//! these rules a neighbour on the uplink's network reaches pods, Services and the mesh of the whole cluster.
//!
//! The rules are stated once, in [`rules`], and written down in two dialects: nftables' JSON, and iptables' restore
//! format for hosts without nft. In both a ruleset carries its digest, by which it is known again.

mod iptables;
mod nft;

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

use blake2::{Blake2s256, Digest};
use ipnet::IpNet;

use crate::error::Error;
use crate::settings::{Firewall, HOST_LINK, OpenPort, Overlay, Proto, UPLINK};

/// The name of the table, of the family `inet`.
pub(crate) const TABLE: &str = "hepto";

/// A ruleset in the kernel, known by its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded(String);

impl Loaded {
    /// A ruleset of this digest.
    #[cfg(test)]
    pub(crate) fn of(digest: &str) -> Loaded {
        Loaded(digest.into())
    }

    /// Rules of ours that are not the wanted ones, or no longer all of them.
    fn other() -> Loaded {
        Loaded("other".into())
    }
}

/// The node's rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ruleset {
    rules: Vec<Rule>,
    digest: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    chain: Chain,
    matches: Vec<Match>,
    verdict: Verdict,
    /// Shown beside the rule by `nft list table inet hepto`.
    why: &'static str,
}

impl Rule {
    fn new(chain: Chain, matches: Vec<Match>, verdict: Verdict, why: &'static str) -> Rule {
        Rule {
            chain,
            matches,
            verdict,
            why,
        }
    }
}

/// The links by which strangers come.
const OUTSIDE: [&str; 2] = [UPLINK, HOST_LINK];

/// Said of two rules each.
const GOSSIP: &str = "gossip is for nodes alone";
const SNAPSHOTS: &str = "snapshots are for nodes alone";

/// A port on the overlay's addresses that nodes alone may reach, and why.
type NodesOnly = (u16, &'static str);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Chain {
    /// Before connection tracking, and before anything is translated.
    Prerouting,
    /// The same for what the node itself sends.
    Output,
    /// To the node itself.
    Input,
    /// Through the node; translated destinations are in place.
    Forward,
    /// Just before sources are translated.
    Postrouting,
}

const CHAINS: [Chain; 5] = [
    Chain::Prerouting,
    Chain::Output,
    Chain::Input,
    Chain::Forward,
    Chain::Postrouting,
];

#[derive(Debug, Clone, PartialEq, Eq)]
enum Match {
    From(String),
    /// From a link to the outside.
    FromOutside,
    /// To a link to the outside.
    ToOutside,
    /// Of one family.
    Source(Vec<IpNet>),
    /// Of one family.
    Destination(Vec<IpNet>),
    SourcePort(Proto, u16),
    DestinationPort(Proto, u16),
    /// TCP and UDP.
    AnyDestinationPort(u16),
    /// Of a known connection, or an error about one.
    Known,
    /// The destination was translated: NodePort, hostPort, LoadBalancer.
    Translated,
    Icmp(&'static [u8]),
    Icmpv6(&'static [u8]),
    HopLimit(u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Done with this chain; other tables still have their say.
    Accept,
    Drop,
    /// Not for connection tracking.
    Untracked,
}

/// Echo, and errors that path MTU discovery and applications need (RFC 792).
const ICMP: &[u8] = &[0, 3, 8, 11, 12];
/// Errors and echo (RFC 4443).
const ICMPV6: &[u8] = &[1, 2, 3, 4, 128, 129];
/// Router advertisement, neighbour solicitation and advertisement: never forwarded, so at hop limit 255 (RFC 4861).
const NEIGHBOURS: &[u8] = &[134, 135, 136];
/// Multicast listener query (RFC 2710): unanswered, a snooping switch takes the node's solicited-node groups away, and
/// neighbours no longer find it.
const LISTENERS: &[u8] = &[130];

/// The rules for these settings; none when the operator has a firewall of his own.
pub(crate) fn rules(firewall: &Firewall, overlay: &Overlay) -> Option<Ruleset> {
    let Firewall::On {
        mesh_port,
        gossip_port,
        snapshot_port,
        open,
    } = firewall
    else {
        return None;
    };
    let nodes_only = [(*gossip_port, GOSSIP), (*snapshot_port, SNAPSHOTS)];
    let mut rules = Vec::new();
    prerouting(&mut rules, *mesh_port, &overlay.own);
    input(&mut rules, *mesh_port, &nodes_only, &overlay.link);
    strangers(&mut rules, open);
    forward(&mut rules, &nodes_only, overlay);
    postrouting(&mut rules, &overlay.own);
    let digest = Blake2s256::digest(format!("{rules:?}"));
    let digest = digest[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Some(Ruleset { rules, digest })
}

impl Ruleset {
    pub fn loaded(&self) -> Loaded {
        Loaded(self.digest.clone())
    }
}

fn prerouting(rules: &mut Vec<Rule>, mesh_port: u16, own: &[IpNet]) {
    use Match::{Destination, DestinationPort, FromOutside, Source, SourcePort, ToOutside};
    let mut rule =
        |chain, matches, verdict, why| rules.push(Rule::new(chain, matches, verdict, why));
    for nets in by_family(own) {
        let from = vec![FromOutside, Source(nets.clone())];
        let to = vec![FromOutside, Destination(nets)];
        rule(
            Chain::Prerouting,
            from,
            Verdict::Drop,
            "the cluster's own addresses never come from outside",
        );
        rule(
            Chain::Prerouting,
            to,
            Verdict::Drop,
            "the cluster's own addresses are not reached from outside",
        );
    }
    // A flood from invented sources would fill connection tracking, on which Services depend.
    let incoming = vec![FromOutside, DestinationPort(Proto::Udp, mesh_port)];
    let outgoing = vec![ToOutside, SourcePort(Proto::Udp, mesh_port)];
    rule(
        Chain::Prerouting,
        incoming,
        Verdict::Untracked,
        "the mesh is not tracked",
    );
    rule(
        Chain::Output,
        outgoing,
        Verdict::Untracked,
        "the mesh is not tracked",
    );
}

fn input(rules: &mut Vec<Rule>, mesh_port: u16, nodes_only: &[NodesOnly], overlay: &str) {
    use Match::{AnyDestinationPort, DestinationPort, From, FromOutside};
    let mut rule =
        |matches, verdict, why| rules.push(Rule::new(Chain::Input, matches, verdict, why));
    // The mesh's own packets are the most: they are judged first.
    let mesh = vec![FromOutside, DestinationPort(Proto::Udp, mesh_port)];
    rule(mesh, Verdict::Accept, "the mesh");
    rule(vec![From("lo".into())], Verdict::Accept, "the node itself");
    rule(vec![From(overlay.into())], Verdict::Accept, "other nodes");
    for (port, why) in nodes_only {
        rule(vec![AnyDestinationPort(*port)], Verdict::Drop, why);
    }
}

/// The rest of the input. What comes from elsewhere, as from pods, is accepted at the chain's end.
fn strangers(rules: &mut Vec<Rule>, open: &[OpenPort]) {
    use Match::{DestinationPort, HopLimit, Icmp, Icmpv6, Known, Source, SourcePort, Translated};
    let mut accept =
        |matches, why| rules.push(Rule::new(Chain::Input, matches, Verdict::Accept, why));
    let link_local = || Source(vec!["fe80::/10".parse().expect("a valid prefix")]);
    let (from, to) = (
        |port| SourcePort(Proto::Udp, port),
        |port| DestinationPort(Proto::Udp, port),
    );
    accept(vec![Known], "answers");
    accept(vec![Translated], "NodePort, hostPort, LoadBalancer");
    accept(vec![Icmp(ICMP)], "echo and errors");
    accept(vec![Icmpv6(ICMPV6)], "echo and errors");
    accept(
        vec![Icmpv6(NEIGHBOURS), HopLimit(255)],
        "neighbours and routers",
    );
    accept(
        vec![Icmpv6(LISTENERS), link_local()],
        "switches that ask who listens",
    );
    accept(vec![from(67), to(68)], "DHCP answers");
    accept(vec![link_local(), from(547), to(546)], "DHCPv6 answers");
    let mut open = open.to_vec();
    open.sort_unstable();
    open.dedup();
    for OpenPort { proto, port } in open {
        accept(vec![DestinationPort(proto, port)], "network.open");
    }
    let rest = Rule::new(
        Chain::Input,
        vec![Match::FromOutside],
        Verdict::Drop,
        "the rest",
    );
    rules.push(rest);
}

fn forward(rules: &mut Vec<Rule>, nodes_only: &[NodesOnly], overlay: &Overlay) {
    use Match::{AnyDestinationPort, Destination, FromOutside, Known, Translated};
    use Verdict::{Accept, Drop};
    let mut rule =
        |matches, verdict, why| rules.push(Rule::new(Chain::Forward, matches, verdict, why));
    // At the sender: where it arrives, a pod's packet has its node's address.
    let nodes: Vec<IpNet> = overlay.addresses.iter().map(IpNet::trunc).collect();
    for nets in by_family(&nodes) {
        for (port, why) in nodes_only {
            let matches = vec![Destination(nets.clone()), AnyDestinationPort(*port)];
            rule(matches, Drop, why);
        }
    }
    rule(vec![Known], Accept, "answers");
    rule(vec![Translated], Accept, "NodePort, hostPort, LoadBalancer");
    // Not only new connections: what is not tracked is not new.
    rule(
        vec![FromOutside],
        Drop,
        "the node is no router for its neighbours",
    );
}

fn postrouting(rules: &mut Vec<Rule>, own: &[IpNet]) {
    for nets in by_family(own) {
        let matches = vec![Match::ToOutside, Match::Destination(nets)];
        let why = "nothing for the cluster leaves in clear text when a route is missing";
        rules.push(Rule::new(Chain::Postrouting, matches, Verdict::Drop, why));
    }
}

/// The prefixes of each family that has some, without those that lie in others: a set of intervals must not overlap.
fn by_family(nets: &[IpNet]) -> Vec<Vec<IpNet>> {
    let (v4, v6): (Vec<IpNet>, Vec<IpNet>) = IpNet::aggregate(&nets.to_vec())
        .into_iter()
        .partition(|net| net.addr().is_ipv4());
    [v4, v6]
        .into_iter()
        .filter(|nets| !nets.is_empty())
        .collect()
}

/// The host's tools, found once. They run on a thread inside the namespace.
#[derive(Debug, Clone)]
pub(crate) struct Tools {
    nft: Option<PathBuf>,
    iptables: Option<iptables::Programs>,
}

impl Tools {
    /// Looks in `PATH` and, since services often have a short one, in the usual folders of administrators' programs.
    pub fn find() -> Tools {
        let path = env::var_os("PATH").unwrap_or_default();
        let folders: Vec<PathBuf> = env::split_paths(&path)
            .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
            .collect();
        Tools {
            nft: program(&folders, "nft"),
            iptables: iptables::Programs::find(&folders),
        }
    }

    /// Loads the rules in place of those there, in one go, so that the uplink is never open meanwhile. Falls back to
    /// iptables where nft is absent or the kernel does not take its rules.
    pub fn load(&self, ruleset: &Ruleset) -> Result<(), Error> {
        let nft = self.nft.as_deref().map(|nft| nft::load(nft, ruleset));
        match (nft, &self.iptables) {
            (Some(Ok(())), None) => Ok(()),
            // Those of a run that had no nft; they would have their say, too.
            (Some(Ok(())), Some(iptables)) => match iptables.read(None) {
                Some(_) => iptables.unload(),
                None => Ok(()),
            },
            (Some(Err(error)), None) => Err(error),
            (Some(Err(error)), Some(iptables)) => {
                tracing::warn!(code = "W-NET-NFT", fix = "load the kernel's module nf_tables (modprobe nf_tables) to use nft", %error, "nft refuses, so iptables is used");
                iptables.load(ruleset)
            }
            (None, Some(iptables)) => iptables.load(ruleset),
            (None, None) => Err(Error::NoFirewallTool),
        }
    }

    /// What is loaded, as far as it is ours; compared with what is wanted.
    pub fn read(&self, wanted: Option<&Ruleset>) -> Option<Loaded> {
        let nft = self.nft.as_deref().and_then(|nft| nft::read(nft, wanted));
        nft.or_else(|| {
            self.iptables
                .as_ref()
                .and_then(|iptables| iptables.read(wanted))
        })
    }

    /// Takes our rules away.
    pub fn unload(&self) -> Result<(), Error> {
        if let Some(nft) = &self.nft
            && nft::read(nft, None).is_some()
        {
            nft::unload(nft)?;
        }
        match &self.iptables {
            Some(iptables) if iptables.read(None).is_some() => iptables.unload(),
            _ => Ok(()),
        }
    }
}

fn program(folders: &[PathBuf], name: &str) -> Option<PathBuf> {
    let is_program = |path: &Path| {
        fs::metadata(path)
            .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    folders
        .iter()
        .map(|folder| folder.join(name))
        .find(|path| is_program(path))
}

/// Runs a program with this input; its output, or what it said instead.
fn run(program: &Path, arguments: &[&str], input: &str) -> Result<String, String> {
    let spoken = |error: std::io::Error| format!("{}: {error}", program.display());
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(spoken)?;
    let mut stdin = child.stdin.take().expect("stdin was asked to be a pipe");
    // These programs read all of it before they answer. A broken pipe is explained by what they say.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().map_err(spoken)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(said
        .lines()
        .next()
        .unwrap_or("it failed and said nothing")
        .to_owned())
}

#[cfg(test)]
mod tests;
