//! What `status` and `peers` say, from what the parts know.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hepto_mesh::core::{self, AnchorState, GossipState};
use hepto_mesh::driver::Report;
use hepto_net::{Shaped, Tuning, UplinkState};
use hepto_tunnel::{Counters, Offload, PeerReport};
use ipnet::IpNet;

use super::life::Life;
use super::{limits, pause};
use crate::config::{Config, FirewallMode, Mode};
use crate::status::{
    AnchorStatus, HostLinkStatus, MeshStatus, NetworkStatus, PeerStatus, Problem, Status,
    UplinkStatus,
};

/// Routers answer who asks within half a second (RFC 4861 §6.2.6), after duplicate address detection, and before another.
const ROUTERS: Duration = Duration::from_secs(10);

impl Life<'_> {
    /// The whole report. `report` is what the mesh's thread answered, `shaped` what the kernel counted.
    pub(super) fn status(&self, report: &Report, shaped: &Shaped) -> Status {
        let mesh = &report.core;
        let k3s = self.workload.report(self.config);
        let uplink = uplink(self.config, self.uplink);
        let problems = self.problems(report, &uplink);
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            cluster: self.config.cluster.name.to_string(),
            node: self.config.node.name.to_string(),
            role: if self.config.is_master() {
                "master"
            } else {
                "agent"
            }
            .into(),
            pid: std::process::id(),
            uptime_s: self.started.elapsed().as_secs(),
            on_trial: self.manager.is_guarded(),
            ready: uplink.state == "up" && k3s.as_ref().is_none_or(|k3s| k3s.ready),
            network: NetworkStatus {
                namespace: self.config.namespace(),
                uplink,
                addresses: self.uplink_addresses(),
                firewall: if self.config.network.firewall == FirewallMode::On {
                    "on"
                } else {
                    "off"
                }
                .into(),
                tune_host: self.network.tuning().as_ref().map(tuning),
                host_link: self.network.host_link().map(|link| HostLinkStatus {
                    link: link.name.clone(),
                    host: link.host.clone(),
                    node: link.node.clone(),
                }),
            },
            mesh: MeshStatus {
                addresses: mesh.addresses.clone(),
                port: self.config.mesh.port,
                mtu: self.config.tunnel_mtu(),
                offload: offload(self.tunnel.offload()),
                members: mesh.members.len() + 1,
                reachable: mesh.members.iter().filter(|member| member.live).count() + 1,
                anchors: mesh.anchors.iter().map(anchor).collect(),
                refused: refused(report, &self.tunnel.counters()),
            },
            k3s,
            limits: limits::status(self.config, self.state.run_directory(), shaped),
            snapshot: self.snapshots.report(self.config),
            problems,
        }
    }

    /// Those of the config, and what routers gave: always with a prefix of 64 bits (RFC 4862).
    fn uplink_addresses(&self) -> Vec<IpNet> {
        let network = &self.config.network;
        let written = |address: &IpAddr| network.addresses.iter().any(|net| net.addr() == *address);
        let given = self
            .usable
            .iter()
            .filter(|address| address.is_ipv6() && !written(address));
        let given = given.filter_map(|address| IpNet::new(*address, 64).ok());
        network.addresses.iter().copied().chain(given).collect()
    }

    fn problems(&self, report: &Report, uplink: &UplinkStatus) -> Vec<Problem> {
        let mut problems: Vec<Problem> = self
            .notices
            .values()
            .map(|notice| Problem {
                code: notice.code().into(),
                what: notice.to_string(),
                fix: notice.fix(),
            })
            .collect();
        problems.extend(otherwise(&report.core.members, self.config.tunnel_mtu()));
        problems.extend(self.duplicates.iter().map(|address| Problem {
            code: "E-NET-ADDR-DUP".into(),
            what: format!("{address} is in use by another machine on {}'s network", uplink.parent),
            fix: Some("give this node another address in network.addresses, or take it from the other machine".into()),
        }));
        let unlinked = self.config.network.host_link && self.network.host_link().is_none();
        problems.extend(unlinked.then(|| Problem {
            code: "E-NET-HOST-LINK".into(),
            what: "there is no link between host and node".into(),
            fix: Some("see the node's log for the reason, or set network.host_link = false".into()),
        }));
        problems.extend(self.workload.unlimited().map(|error| Problem {
            code: error.code().into(),
            what: error.to_string(),
            fix: error.fix(),
        }));
        problems.extend(self.metrics.problems());
        problems.extend(self.snapshots.problems(self.config));
        problems.extend(report.disk.iter().map(|disk| Problem {
            code: disk.code.into(),
            what: disk.what.clone(),
            fix: Some(disk.fix.into()),
        }));
        problems.extend(self.workload.problem());
        problems.extend(
            self.network
                .tuning()
                .and_then(|tuning| untuned(&uplink.parent, &tuning)),
        );
        problems.extend(self.put_back.map(|why| Problem {
            code: "W-RELOAD-BACK".into(),
            what: format!("{why}; the program from before that reload runs on"),
            fix: Some(format!(
                "read the node's log; install a hepto-node that works as {}, and reload: what lies there now runs at the \
                 next start",
                self.reload.program().display()
            )),
        }));
        if self.workload.is_drained() {
            problems.push(Problem {
                code: "W-NODE-DRAINED".into(),
                what: "the node is drained: no new pods come".into(),
                fix: Some("hepto-node uncordon lets them come again".into()),
            });
        }
        problems.extend(self.workload.paused().map(|since| Problem {
            code: "W-NODE-PAUSED".into(),
            what: format!(
                "the node is paused since {}: no pods run",
                pause::moment(since)
            ),
            fix: Some("hepto-node resume".into()),
        }));
        let served = self.usable.iter().any(IpAddr::is_ipv6);
        if self.config.network.auto
            && !served
            && uplink.state == "up"
            && self.started.elapsed() > ROUTERS
        {
            problems.push(Problem {
                code: "W-NET-AUTO".into(),
                what: format!("no router on {}'s network gives the node an IPv6 address", uplink.parent),
                fix: Some("turn on IPv6 with router advertisements in your router, or write the node's addresses into network.addresses".into()),
            });
        }
        match uplink.state.as_str() {
            "waiting" => problems.push(Problem {
                code: "W-NET-PARENT-ABSENT".into(),
                what: format!("the host has no interface {}", uplink.parent),
                fix: Some("plug it in, or correct network.interface; the node takes it up as soon as it appears".into()),
            }),
            "down" => problems.push(Problem {
                code: "W-NET-PARENT-DOWN".into(),
                what: format!("the host's interface {} is down", uplink.parent),
                fix: Some(format!("check the cable; ip link set {} up", uplink.parent)),
            }),
            _ => {}
        }
        problems
    }

    /// The other nodes, as this one reaches them.
    pub(super) fn peer_statuses(&self, report: &Report) -> Vec<PeerStatus> {
        let tunnel: BTreeMap<[u8; 32], PeerReport> = self
            .tunnel
            .peers()
            .into_iter()
            .map(|peer| (peer.public_key, peer))
            .collect();
        let status = |member: &core::Member| {
            let peer = tunnel.get(&member.public_key);
            let quality = self.qualities.of(&member.public_key);
            PeerStatus {
                name: member.name.to_string(),
                addresses: member.addresses.clone(),
                public_key: STANDARD.encode(member.public_key),
                endpoint: peer.and_then(|peer| peer.endpoint),
                endpoints: member.endpoints.iter().map(|it| it.address).collect(),
                handshake_age_s: peer
                    .and_then(|peer| peer.last_handshake)
                    .map(|age| age.as_secs()),
                session: member.live,
                rtt_ms: quality.rtt.map(|rtt| rtt.as_micros() as f64 / 1e3),
                loss_percent: quality.loss.map(|loss| (loss * 1e3).round() / 10.0),
                mtu: member.mtu,
                rx_bytes: peer.map_or(0, |peer| peer.rx_bytes),
                tx_bytes: peer.map_or(0, |peer| peer.tx_bytes),
                rx_bits_s: quality.rx_bits_s,
                tx_bits_s: quality.tx_bits_s,
                gossip: match member.gossip {
                    GossipState::Alive => "alive",
                    GossipState::Suspect => "suspect",
                    GossipState::Absent => "absent",
                }
                .into(),
            }
        };
        report.core.members.iter().map(status).collect()
    }
}

/// Members whose tunnel has another MTU than ours, all in one sentence.
fn otherwise(members: &[core::Member], mtu: u16) -> Option<Problem> {
    let differ = members
        .iter()
        .filter(|member| member.live && member.mtu != mtu);
    let differ: Vec<String> = differ
        .map(|member| format!("{} has {}", member.name, member.mtu))
        .collect();
    (!differ.is_empty()).then(|| Problem {
        code: "W-MESH-MTU".into(),
        what: format!(
            "the tunnel's MTU is {mtu} here, and another elsewhere: {}",
            differ.join(", ")
        ),
        fix: Some(
            "give network.mtu the same value in the config of every node, then hepto-node reload"
                .into(),
        ),
    })
}

fn uplink(config: &Config, state: UplinkState) -> UplinkStatus {
    UplinkStatus {
        kind: match config.network.mode {
            Mode::Ipvlan => "ipvlan",
            Mode::Macvlan => "macvlan",
        }
        .into(),
        parent: config.network.interface.clone(),
        state: match state {
            UplinkState::Up {
                parent_up: true, ..
            } => "up",
            UplinkState::Up {
                parent_up: false, ..
            } => "down",
            UplinkState::WaitingForParent => "waiting",
        }
        .into(),
    }
}

fn tuning(tuning: &Tuning) -> String {
    match tuning {
        Tuning::Absent => "absent",
        Tuning::Off => "off",
        Tuning::Owner => "owner",
        Tuning::Unheld | Tuning::On => "on",
        Tuning::Refused(_) => "refused",
    }
    .into()
}

/// What the owner asked for and his interface does not do.
fn untuned(parent: &str, tuning: &Tuning) -> Option<Problem> {
    let why = match tuning {
        Tuning::Absent => "it, or this kernel, has no such feature (Linux 5.12 brought it)",
        Tuning::Refused(why) => why,
        Tuning::Off | Tuning::Owner | Tuning::Unheld | Tuning::On => return None,
    };
    Some(Problem {
        code: "W-NET-TUNE".into(),
        what: format!("rx-udp-gro-forwarding of {parent} cannot be turned on: {why}"),
        fix: Some("the tunnel is slower, nothing else; set network.tune_host = false".into()),
    })
}

fn offload(offload: Offload) -> Vec<String> {
    let rungs = [
        ("tso", offload.tso),
        ("uso", offload.uso),
        ("udp_segment", offload.udp_segment),
        ("udp_gro", offload.udp_gro),
    ];
    let used = rungs.into_iter().filter(|(_, used)| *used);
    used.map(|(name, _)| name.to_owned()).collect()
}

fn anchor(report: &core::AnchorReport) -> AnchorStatus {
    let (answers, state) = match report.state {
        AnchorState::Answers => (Some(true), "answers"),
        AnchorState::Silent => (Some(false), "does not answer"),
        AnchorState::Unresolved => (Some(false), "has no address: its name does not resolve"),
        AnchorState::Unasked => (Some(false), "was not asked yet"),
        AnchorState::Myself => (None, "is this node"),
    };
    AnchorStatus {
        anchor: report.anchor.to_string(),
        answers,
        state: state.into(),
    }
}

/// What was refused, by reason; reasons with none are left out.
fn refused(report: &Report, tunnel: &Counters) -> BTreeMap<String, u64> {
    let (counters, inbox) = (&report.core.counters, &report.inbox);
    let all = [
        ("mesh_garbage", inbox.garbage),
        ("mesh_foreign_key", inbox.foreign_key),
        (
            "mesh_queue_full",
            inbox.peers_dropped + inbox.others_dropped,
        ),
        ("mesh_undecryptable", counters.undecryptable),
        ("mesh_malformed", counters.malformed),
        ("mesh_replayed", counters.replayed),
        ("mesh_unasked", counters.unasked),
        ("mesh_bad_token", counters.bad_token),
        ("mesh_limited", counters.limited),
        ("mesh_records_bad", counters.records_bad),
        ("mesh_records_refused", counters.records_refused),
        ("mesh_statements_refused", counters.statements_refused),
        ("tunnel_no_peer", tunnel.no_peer),
        ("tunnel_no_session", tunnel.no_session),
        ("tunnel_unroutable", tunnel.unroutable),
        ("tunnel_spoofed", tunnel.spoofed),
        ("tunnel_malformed", tunnel.malformed),
        ("tunnel_unauthentic", tunnel.unauthentic),
        ("tunnel_unknown_session", tunnel.unknown_session),
        ("tunnel_handshakes_refused", tunnel.handshakes_refused),
        ("tunnel_rate_limited", tunnel.rate_limited),
    ];
    all.into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(reason, count)| (reason.to_string(), count))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every link of a kernel since Linux 5.12 has the feature, so no link here can show it.
    #[test]
    fn a_parent_that_cannot_be_tuned_is_told_of() {
        for (state, word, why) in [
            (Tuning::Absent, "absent", "has no such feature"),
            (Tuning::Refused("not today".into()), "refused", "not today"),
        ] {
            assert_eq!(tuning(&state), word);
            let problem = untuned("eth0", &state).expect("a problem");
            assert_eq!(problem.code, "W-NET-TUNE");
            assert!(problem.what.contains("eth0") && problem.what.contains(why));
            assert!(
                problem
                    .fix
                    .is_some_and(|fix| fix.contains("network.tune_host"))
            );
        }
        for state in [Tuning::Off, Tuning::Owner, Tuning::Unheld, Tuning::On] {
            assert!(untuned("eth0", &state).is_none());
        }
    }
}
