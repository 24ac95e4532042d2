//! `[cluster]`: names, anchors and keys.

use std::net::{IpAddr, Ipv6Addr};
use std::ops::Range;
use std::path::PathBuf;
use std::str::FromStr;

use hepto_mesh::address::Prefixes;
use hepto_mesh::key::{AgentKey, ClusterKey, KeyError, OverlayKey};
use hepto_mesh::name::{ClusterName, NameError, NodeName};
use zeroize::Zeroizing;

use super::network::is_reachable;
use super::{Checking, Diagnostic, Refused, from_sentence, k3s, refuse_inner};
use crate::config::file::{ClusterSection, K3sSection, Text};
use crate::config::{Anchor, ClusterSecret, KeyFiles};
use crate::secret::{self, quote};

/// The mesh port of an anchor that names none: never this node's own, which may differ.
pub const DEFAULT_PORT: u16 = 51820;

/// The longest DNS name (RFC 1035 §3.1), bytes.
const LONGEST_HOST: usize = 253;

/// Whose cluster this is.
pub(super) struct Identity {
    pub(super) name: ClusterName,
    pub(super) master: NodeName,
}

pub(super) fn identity(file: &ClusterSection, checking: &mut Checking<'_>) -> Option<Identity> {
    let name = checking.required("cluster", "name", file.name.as_ref());
    let name = name.and_then(|text| checking.parse(text, NameError::code));
    let master = checking.required("cluster", "master", file.master.as_ref());
    let master = master.and_then(|text| checking.parse(text, NameError::code));
    Some(Identity {
        name: name?,
        master: master?,
    })
}

pub(super) fn anchors(
    file: &ClusterSection,
    identity: Option<&Identity>,
    own_name: Option<&NodeName>,
    checking: &mut Checking<'_>,
) -> Vec<Anchor> {
    let texts = file.anchors.as_deref().unwrap_or_default();
    let alone = texts.is_empty() && !checking.was_wrong("cluster", "anchors");
    if alone
        && identity.is_some_and(|identity| own_name.is_some_and(|name| *name != identity.master))
    {
        let what = "this node has no anchors: it waits until another node finds it";
        let found = Diagnostic::warning("W-MESH-ANCHORS", what).at(checking.section("cluster"));
        checking.report(found.fix("name two nodes with stable addresses: anchors = [\"2001:db8:2::1\", \"sleepy.example.org\"]"));
    }
    let mut anchors: Vec<Anchor> = Vec::new();
    for text in texts {
        match anchor(text.get_ref()) {
            Ok(anchor) if anchors.contains(&anchor) => {
                let found = Diagnostic::warning(
                    "W-MESH-ANCHOR-DUP",
                    format!("the anchor {} stands here twice", text.get_ref()),
                );
                checking.report(found.at(text.span()).fix("remove one of them"));
            }
            Ok(anchor) => anchors.push(anchor),
            Err(refused) => checking.report(refused.report("E-MESH-ANCHOR", text)),
        }
    }
    anchors
}

/// `host`, `host:port`, `v4`, `v4:port`, `v6`, `[v6]` or `[v6]:port`.
fn anchor(written: &str) -> Result<Anchor, Refused> {
    let (host, port) = split_port(written)?;
    let port = match port.map(str::parse) {
        None => DEFAULT_PORT,
        Some(Ok(port)) if port != 0 => port,
        Some(_) => {
            return Err(Refused {
                what: format!(
                    "the port of the anchor \"{written}\" is not a number from 1 to 65535"
                ),
                fix: format!("write \"{host}\" alone for port {DEFAULT_PORT}"),
            });
        }
    };
    match host.parse::<IpAddr>() {
        Ok(address) if !is_reachable(address) => Err(Refused {
            what: format!("the anchor {address} cannot be reached from another machine"),
            fix: "write an address that is reachable from every node".to_owned(),
        }),
        Err(_) if !is_host_name(host) => Err(Refused {
            what: format!("the anchor \"{written}\" is neither an address nor a name"),
            fix: "write an address or a name of the DNS, as in \"2001:db8:2::1\" or \"sleepy.example.org\""
                .to_owned(),
        }),
        _ => Ok(Anchor { host: host.to_owned(), port }),
    }
}

/// Host and port as they are written: IPv6 addresses have colons of their own.
fn split_port(written: &str) -> Result<(&str, Option<&str>), Refused> {
    if let Some(rest) = written.strip_prefix('[') {
        return match rest.split_once(']') {
            Some((host, "")) => Ok((host, None)),
            Some((host, port)) => Ok((host, Some(port.strip_prefix(':').unwrap_or(port)))),
            None => Err(Refused {
                what: format!("the anchor \"{written}\" lacks a closing bracket"),
                fix: format!("write \"{written}]\""),
            }),
        };
    }
    if written.parse::<Ipv6Addr>().is_ok() || written.contains('/') {
        return Ok((written, None));
    }
    let Some((host, port)) = written.rsplit_once(':') else {
        return Ok((written, None));
    };
    if !host.contains(':') {
        return Ok((host, Some(port)));
    }
    Err(Refused {
        what: format!("the anchor \"{written}\" is not an IPv6 address"),
        fix: match host.parse::<Ipv6Addr>() {
            Ok(_) => format!("an IPv6 address with a port needs brackets: \"[{host}]:{port}\""),
            Err(_) => "write an address or a name, as in \"2001:db8:2::1\"".to_owned(),
        },
    })
}

/// A DNS name (RFC 1123 §2.1) whose last label is no number: that would be a mistyped IPv4 address.
fn is_host_name(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let label = |label: &str| {
        let inner = |c: char| c.is_ascii_alphanumeric() || c == '-';
        (1..=63).contains(&label.len())
            && label.chars().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = host.rsplit('.').next().unwrap_or_default();
    host.len() <= LONGEST_HOST && host.split('.').all(label) && last.parse::<u64>().is_err()
}

/// Refuses anchors inside the overlay.
pub(super) fn outside_overlay(
    file: &ClusterSection,
    prefixes: &Prefixes,
    checking: &mut Checking<'_>,
) {
    let address =
        |text: &Text| Some((anchor(text.get_ref()).ok()?.host.parse().ok()?, text.span()));
    let found: Vec<(IpAddr, Range<usize>)> =
        file.anchors.iter().flatten().filter_map(address).collect();
    refuse_inner(checking, prefixes, &found, "an anchor");
}

/// What the key files hold.
pub(super) struct Keys {
    pub(super) overlay: OverlayKey,
    pub(super) cluster: Option<ClusterSecret>,
    pub(super) files: KeyFiles,
}

pub(super) fn keys(
    file: &ClusterSection,
    k3s: &K3sSection,
    identity: Option<&Identity>,
    own_name: Option<&NodeName>,
    checking: &mut Checking<'_>,
) -> Option<Keys> {
    let overlay_file = checking.required(
        "cluster",
        "overlay_key_file",
        file.overlay_key_file.as_ref(),
    );
    let (overlay_path, overlay) = key_file(overlay_file, "overlay", checking).unzip();
    let (cluster_path, cluster) =
        key_file(file.cluster_key_file.as_ref(), "cluster", checking).unzip();
    let (agent_path, agent) = key_file(file.agent_key_file.as_ref(), "agent", checking).unzip();
    if let (Some(overlay), Some(cluster), Some(place)) =
        (&overlay, &cluster, &file.cluster_key_file)
        && overlay == cluster
    {
        let found = Diagnostic::error(
            "E-KEY-SAME",
            "the overlay key and the cluster key are the same",
        )
        .at(place.span());
        checking
            .report(found.fix("make each by itself: hepto-node keys generate cluster --out FILE"));
    }
    let overlay = parse_key(overlay, file.overlay_key_file.as_ref(), checking);
    let cluster: Option<ClusterKey> = parse_key(cluster, file.cluster_key_file.as_ref(), checking);
    let agent: Option<AgentKey> = parse_key(agent, file.agent_key_file.as_ref(), checking);

    let is_master = identity
        .zip(own_name)
        .map(|(identity, name)| identity.master == *name);
    let secret = match (k3s::is_enabled(k3s), is_master) {
        (true, Some(true)) => {
            master_needs_cluster_key(file, checking);
            cluster.map(ClusterSecret::Master)
        }
        (true, Some(false)) => {
            agent_needs_one_key(file, checking);
            let derived = cluster
                .zip(identity)
                .map(|(key, identity)| key.agent(&identity.name));
            agent.or(derived).map(ClusterSecret::Agent)
        }
        _ => None,
    };
    let files = KeyFiles {
        overlay: overlay_path?,
        cluster: cluster_path,
        agent: agent_path,
    };
    Some(Keys {
        overlay: overlay?,
        cluster: secret,
        files,
    })
}

fn master_needs_cluster_key(file: &ClusterSection, checking: &mut Checking<'_>) {
    if let Some(text) = &file.agent_key_file {
        let what = "this node is the master, and the master needs the cluster key, not the agents'";
        let found = Diagnostic::error("E-KEY-ROLE", what).at(text.span());
        checking.report(
            found.fix("remove `agent_key_file`: the agents' key follows from the cluster key"),
        );
    }
    checking.required(
        "cluster",
        "cluster_key_file",
        file.cluster_key_file.as_ref(),
    );
}

fn agent_needs_one_key(file: &ClusterSection, checking: &mut Checking<'_>) {
    match (&file.cluster_key_file, &file.agent_key_file) {
        (Some(cluster), Some(agent)) => {
            let found = Diagnostic::error("E-KEY-BOTH", "this node has two keys for k3s")
                .at(cluster.span());
            let found = found.beside(agent.span(), "enough for a node that is not the master");
            checking.report(found.fix("remove `cluster_key_file`, and the file from this machine"));
        }
        (Some(cluster), None) => {
            let what = "this node is not the master and holds the cluster key: who steals it can command the cluster";
            let found = Diagnostic::warning("W-KEY-CLUSTER", what).at(cluster.span());
            checking
                .report(found.fix("`agent_key_file` with the agents' key alone is enough here"));
        }
        (None, Some(_)) => {}
        (None, None) => {
            checking.required("cluster", "agent_key_file", file.agent_key_file.as_ref());
        }
    }
}

fn key_file(
    text: Option<&Text>,
    purpose: &str,
    checking: &mut Checking<'_>,
) -> Option<(PathBuf, Zeroizing<String>)> {
    let text = text?;
    if !text.get_ref().contains('/') {
        // Somebody may have written the key itself.
        checking.secrets.push(text.span());
        let what = format!("`{purpose}_key_file` is not the path of a file");
        let found = Diagnostic::error("E-PATH-RELATIVE", what).at(text.span());
        checking.report(found.fix(
            "put the key into a file of mode 0600 and write the file's whole path, beginning with /",
        ));
        return None;
    }
    let path = checking.path(text, &format!("{purpose}_key_file"))?;
    checking.machine?;
    match secret::read(&path) {
        Ok(key) => Some((path, key)),
        Err(error) => {
            let found = Diagnostic::error(error.code(), error.to_string()).at(text.span());
            let fix = error.fix().or_else(|| match (&error, purpose) {
                (secret::Error::Absent(_), "agent") => Some(
                    "make it where the cluster key is, and copy it here: \
                     hepto-node keys derive-agent --cluster NAME --from FILE"
                        .to_owned(),
                ),
                (secret::Error::Absent(path), _) => Some(format!(
                    "copy it from another node; for a new cluster: hepto-node keys generate {purpose} --out {}",
                    quote(path)
                )),
                _ => None,
            });
            checking.report(match fix {
                Some(fix) => found.fix(fix),
                None => found,
            });
            None
        }
    }
}

fn parse_key<T: FromStr<Err = KeyError>>(
    key: Option<Zeroizing<String>>,
    place: Option<&Text>,
    checking: &mut Checking<'_>,
) -> Option<T> {
    match key?.parse() {
        Ok(key) => Some(key),
        Err(error) => {
            let found = from_sentence(error.code(), &error.to_string());
            checking.report(found.at(place?.span()));
            None
        }
    }
}
