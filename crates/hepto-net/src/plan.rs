//! From what is there and what should be, to the steps between: pure, so that it can be read and tested without a
//! kernel. Carrying out a plan leaves nothing to plan.

mod host_link;
mod step;

use ipnet::IpNet;

use crate::bandwidth::Direction;
use crate::error::Error;
use crate::netlink::is_link_local;
use crate::settings::{Gateway, UNFRAGMENTED, UplinkKind};
use crate::state::{
    Address, Desired, DesiredOverlay, DesiredUplink, Kind, Observed, ObservedLink, Origin, Parent,
    Route, Tuning,
};

pub use step::{Action, PairRoute, Step, Subject};

/// Below this the kernel would drop packets of a bulk transfer that waits for the tunnel.
const OVERLAY_QUEUE: u32 = 1000;

/// The metric of a family's first default route, each further one having the next; and of the pair's routes.
pub(crate) const METRIC: u32 = 100;

/// Why the uplink cannot be made as asked for, seen before anything is tried.
pub fn refuse(desired: &DesiredUplink, observed: &Observed) -> Result<(), Error> {
    let Some(parent) = &observed.parent else {
        return Ok(());
    };
    let name = || desired.parent.clone();
    match desired.mtu {
        Some(mtu) if mtu > parent.link.mtu => {
            return Err(Error::MtuAboveParent {
                mtu,
                parent: name(),
                parent_mtu: parent.link.mtu,
            });
        }
        _ => {}
    }
    if observed.uplink.is_some() {
        return Ok(());
    }
    if let Some(master) = &parent.master {
        return Err(Error::ParentPort {
            parent: name(),
            master: master.clone(),
        });
    }
    match parent.carries {
        Some(other) if other != desired.kind => Err(Error::ParentKind {
            parent: name(),
            kind: desired.kind,
            why: format!("it carries {other} links"),
        }),
        _ => Ok(()),
    }
}

/// The steps from `observed` to `desired`. The overlay comes before the uplink: a fault of the latter, or waiting for
/// it, must not keep the node from its own address.
pub fn plan(desired: &Desired, observed: &Observed) -> Vec<Step> {
    let mut steps = Vec::new();
    namespace(
        &mut Steps {
            steps: &mut steps,
            subject: Subject::Namespace,
        },
        desired,
        observed,
    );
    if let Some(link) = &observed.overlay {
        let mut steps = Steps {
            steps: &mut steps,
            subject: Subject::Overlay,
        };
        sysctls(&mut steps, &desired.overlay.sysctls, observed);
        overlay(&mut steps, &desired.overlay, link);
    }
    if let Some(wanted) = &desired.uplink {
        uplink(
            &mut Steps {
                steps: &mut steps,
                subject: Subject::Uplink,
            },
            wanted,
            observed,
        );
        host_link::host_link(&mut steps, wanted, desired, observed);
        tune(
            &mut Steps {
                steps: &mut steps,
                subject: Subject::Parent,
            },
            wanted,
            observed,
        );
    }
    if desired.uplink.is_some() {
        limits(
            &mut Steps {
                steps: &mut steps,
                subject: Subject::Limits,
            },
            desired,
            observed,
        );
    }
    steps
}

/// Collects steps about one subject.
struct Steps<'a> {
    steps: &'a mut Vec<Step>,
    subject: Subject,
}

impl Steps<'_> {
    fn push(&mut self, action: Action) {
        self.steps.push(Step {
            subject: self.subject,
            action,
        });
    }
}

fn namespace(steps: &mut Steps, desired: &Desired, observed: &Observed) {
    sysctls(steps, &desired.sysctls, observed);
    if !observed.loopback_up {
        steps.push(Action::SetUp);
    }
    match (&desired.firewall, &observed.firewall) {
        (Some(wanted), Some(loaded)) if wanted == loaded => {}
        (Some(_), _) => steps.push(Action::LoadFirewall),
        (None, Some(_)) => steps.push(Action::UnloadFirewall),
        (None, None) => {}
    }
}

/// Those that are there with another value. One that is not there cannot be set either.
fn sysctls(steps: &mut Steps, desired: &[(String, String)], observed: &Observed) {
    for (path, value) in desired {
        if observed
            .sysctls
            .get(path)
            .is_some_and(|found| found != value)
        {
            steps.push(Action::SetSysctl {
                path: path.clone(),
                value: value.clone(),
            });
        }
    }
}

/// Those of the uplink, whose end is theirs too.
fn limits(steps: &mut Steps, desired: &Desired, observed: &Observed) {
    let made = |step: &Step| matches!(step.action, Action::MakeLink { .. });
    let fresh = steps.steps.iter().any(made);
    if observed.uplink.is_none() && !fresh {
        return;
    }
    for direction in Direction::BOTH {
        let found = observed.limits.rates.of(direction).filter(|_| !fresh);
        match desired.rates.of(direction) {
            Some(rate) if found != Some(rate) => steps.push(Action::Shape { direction, rate }),
            None if observed.limits.any(direction) => steps.push(Action::Unshape { direction }),
            _ => {}
        }
    }
}

fn overlay(steps: &mut Steps, desired: &DesiredOverlay, observed: &ObservedLink) {
    if observed.link.mtu != desired.mtu {
        steps.push(Action::SetMtu(desired.mtu));
    }
    if observed.link.txqueuelen < OVERLAY_QUEUE {
        steps.push(Action::SetQueue(OVERLAY_QUEUE));
    }
    if !observed.link.up {
        steps.push(Action::SetUp);
    }
    let superfluous = |address: &Address| !is_link_local(address.net.addr());
    addresses(
        steps,
        &desired.addresses,
        &observed.addresses,
        false,
        superfluous,
    );
}

fn uplink(steps: &mut Steps, desired: &DesiredUplink, observed: &Observed) {
    let parent = observed.parent.as_ref();
    match (kept(desired, observed), parent) {
        (Some(uplink), _) => {
            sysctls(steps, &desired.sysctls, observed);
            if uplink.link.kind == (Kind::Ipvlan { l2: false }) {
                steps.push(Action::SetL2);
            }
            configure(steps, desired, uplink, parent);
        }
        (None, Some(parent)) => {
            if observed.uplink.is_some() {
                steps.push(Action::DeleteLink);
            }
            make(steps, desired, parent);
        }
        // Waiting for the parent.
        (None, None) => {}
    }
}

/// The uplink that is there, unless it has to be made anew.
fn kept<'a>(desired: &DesiredUplink, observed: &'a Observed) -> Option<&'a ObservedLink> {
    let parent = observed.parent.as_ref();
    let uplink = observed.uplink.as_ref()?;
    parent
        .is_none_or(|parent| fits(desired, uplink, parent))
        .then_some(uplink)
}

/// Last: it makes the tunnel faster, and nothing depends on it.
fn tune(steps: &mut Steps, desired: &DesiredUplink, observed: &Observed) {
    let tuning = observed
        .parent
        .as_ref()
        .and_then(|parent| parent.tuning.as_ref());
    if desired.tune && matches!(tuning, Some(Tuning::Off | Tuning::Unheld)) {
        steps.push(Action::Tune {
            parent: desired.parent.clone(),
        });
    }
}

/// Whether the uplink that is there is the one asked for, addresses aside.
fn fits(desired: &DesiredUplink, uplink: &ObservedLink, parent: &Parent) -> bool {
    let kind = match (desired.kind, uplink.link.kind) {
        (UplinkKind::Ipvlan, Kind::Ipvlan { .. }) => true,
        (UplinkKind::Macvlan, Kind::Macvlan { bridge }) => bridge,
        _ => false,
    };
    // On a link of its own kind a new one becomes its sibling, not its child.
    let siblings = matches!(
        (desired.kind, parent.link.kind),
        (UplinkKind::Ipvlan, Kind::Ipvlan { .. }) | (UplinkKind::Macvlan, Kind::Macvlan { .. })
    );
    let lower = if siblings {
        parent.link.lower
    } else {
        Some(parent.link.index)
    };
    kind && uplink.link.lower == lower && (desired.mac.is_none() || uplink.link.mac == desired.mac)
}

fn make(steps: &mut Steps, desired: &DesiredUplink, parent: &Parent) {
    steps.push(Action::MakeLink {
        kind: desired.kind,
        parent: desired.parent.clone(),
        mac: desired.mac,
    });
    for (path, value) in &desired.sysctls {
        steps.push(Action::SetSysctl {
            path: path.clone(),
            value: value.clone(),
        });
    }
    // Fresh: the kernel gives it its parent's MTU.
    let mut link = parent.link.clone();
    (link.up, link.token) = (false, None);
    configure(
        steps,
        desired,
        &ObservedLink {
            link,
            addresses: Vec::new(),
            routes: Vec::new(),
        },
        Some(parent),
    );
}

fn configure(
    steps: &mut Steps,
    desired: &DesiredUplink,
    observed: &ObservedLink,
    parent: Option<&Parent>,
) {
    let mtu = match desired.mtu {
        Some(mtu) if mtu < UNFRAGMENTED.into() => Some(mtu),
        _ => parent.map(|parent| parent.link.mtu),
    };
    if let Some(mtu) = mtu.filter(|mtu| *mtu != observed.link.mtu) {
        steps.push(Action::SetMtu(mtu));
    }
    if let Some(token) = desired
        .auto
        .filter(|token| Some(*token) != observed.link.token)
    {
        steps.push(Action::SetToken(token));
    }
    if !observed.link.up {
        steps.push(Action::SetUp);
    }
    let superfluous = |address: &Address| address.permanent || desired.auto.is_none();
    addresses(
        steps,
        &desired.addresses,
        &observed.addresses,
        desired.retry_duplicates,
        superfluous,
    );
    routes(steps, desired, &observed.routes);
}

fn addresses(
    steps: &mut Steps,
    desired: &[IpNet],
    observed: &[Address],
    retry_duplicates: bool,
    superfluous: impl Fn(&Address) -> bool,
) {
    let unwanted = |address: &&Address| !desired.contains(&address.net) && superfluous(address);
    for net in desired {
        let there = observed.iter().find(|address| address.net == *net);
        match there {
            Some(address) if address.duplicate && retry_duplicates => {
                steps.push(Action::RemoveAddress(*net))
            }
            Some(_) => continue,
            None => {}
        }
        // An IPv6 address is there only once, with one prefix length: the old one has to make room.
        for old in observed {
            if old.net.addr() == net.addr() && !desired.contains(&old.net) {
                steps.push(Action::RemoveAddress(old.net));
            }
        }
        steps.push(Action::AddAddress(*net));
    }
    let missing = |net: &IpNet| !observed.iter().any(|address| address.net == *net);
    let made_room = |old: &Address| {
        desired
            .iter()
            .any(|net| net.addr() == old.net.addr() && missing(net))
    };
    // Last, so that routes have an address to be kept for.
    for old in observed
        .iter()
        .filter(unwanted)
        .filter(|old| !made_room(old))
    {
        steps.push(Action::RemoveAddress(old.net));
    }
}

fn routes(steps: &mut Steps, desired: &DesiredUplink, observed: &[Route]) {
    let wanted = defaults(&desired.gateways);
    let same = |route: &Route, gateway: &Gateway, metric: u32| {
        route.gateway == Some(gateway.via)
            && route.onlink == gateway.onlink
            && route.metric == metric
    };
    let found = || {
        observed
            .iter()
            .filter(|route| route.destination.prefix_len() == 0)
    };
    let missing =
        |gateway: &Gateway, metric: u32| !found().any(|route| same(route, gateway, metric));
    for (gateway, metric) in wanted
        .iter()
        .filter(|(gateway, metric)| missing(gateway, *metric))
    {
        steps.push(Action::AddDefault {
            gateway: *gateway,
            metric: *metric,
        });
    }
    for route in found() {
        let ours = match route.origin {
            Origin::Static => true,
            Origin::Advertised => desired.auto.is_none(),
            Origin::Other => false,
        };
        // Kept as it is, or changed in place. One that another takes the place of is removed all the same: it may not
        // be the only one with its metric.
        let settled = wanted
            .iter()
            .any(|(gateway, metric)| *metric == route.metric && route.gateway == Some(gateway.via));
        if ours && !settled {
            let Route {
                destination,
                gateway,
                metric,
                ..
            } = *route;
            steps.push(Action::RemoveDefault {
                destination,
                gateway,
                metric,
            });
        }
    }
}

/// The default routes with their metrics: those of each family count up from [`METRIC`].
fn defaults(gateways: &[Gateway]) -> Vec<(Gateway, u32)> {
    let family = |v4: bool| {
        gateways
            .iter()
            .filter(move |gateway| gateway.via.is_ipv4() == v4)
            .copied()
            .zip(METRIC..)
    };
    family(true).chain(family(false)).collect()
}

#[cfg(test)]
mod tests;
