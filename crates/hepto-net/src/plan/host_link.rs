//! The pair between host and node. From behind an ipvlan or macvlan neither reaches the other: by the pair each reaches
//! the addresses that the other is known by, and nothing else. See docs/decisions/016-host-link.md.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::step::{Action, PairRoute, Step, Subject};
use super::{METRIC, Steps, addresses, kept, sysctls};
use crate::address::{PAIR_V6, pair_v4};
use crate::netlink::is_link_local;
use crate::state::{Address, Desired, DesiredHostLink, DesiredUplink, Observed, ObservedLink};
use crate::state::{Origin, Route};

/// Makes, mends or deletes it. Both ends are deleted together.
pub(super) fn host_link(
    steps: &mut Vec<Step>,
    uplink: &DesiredUplink,
    desired: &Desired,
    observed: &Observed,
) {
    let pair = observed.host_link.pair();
    let Some(wanted) = &desired.host_link else {
        if pair.is_some() {
            at(steps, Subject::HostLink).push(Action::DeleteLink);
        }
        return;
    };
    let plan = Plan::new(wanted, uplink, observed);
    match pair {
        Some((host, node)) => {
            sysctls(&mut at(steps, Subject::HostLink), &wanted.sysctls, observed);
            sysctls(
                &mut at(steps, Subject::HostEnd),
                &wanted.host_sysctls,
                observed,
            );
            plan.steps(steps, Some(host), Some(node));
        }
        None => {
            if observed.host_link.node.is_some() {
                at(steps, Subject::HostLink).push(Action::DeleteLink);
            }
            let name = wanted.name.clone();
            at(steps, Subject::HostLink).push(Action::MakePair { name });
            for (subject, settings) in [
                (Subject::HostLink, &wanted.sysctls),
                (Subject::HostEnd, &wanted.host_sysctls),
            ] {
                for (path, value) in settings {
                    let (path, value) = (path.clone(), value.clone());
                    at(steps, subject).push(Action::SetSysctl { path, value });
                }
            }
            plan.steps(steps, None, None);
        }
    }
}

fn at(steps: &mut Vec<Step>, subject: Subject) -> Steps<'_> {
    Steps { steps, subject }
}

/// What one end is given.
#[derive(Debug)]
struct End {
    /// Its addresses.
    addresses: Vec<IpNet>,
    /// Its routes, to what the other end has.
    routes: Vec<PairRoute>,
}

struct Plan<'a> {
    wanted: &'a DesiredHostLink,
    host: End,
    node: End,
}

impl<'a> Plan<'a> {
    fn new(wanted: &'a DesiredHostLink, uplink: &DesiredUplink, observed: &Observed) -> Plan<'a> {
        let carried = |net: &IpNet| wanted.ipv6 || net.addr().is_ipv4();
        let mut of_host = of_host(observed);
        let mut of_node = of_node(uplink, observed);
        of_node.retain(carried);
        // A family of which the node has no address is none that its pods could ask in.
        let known = |net: &IpNet| {
            of_node
                .iter()
                .any(|own| own.addr().is_ipv4() == net.addr().is_ipv4())
        };
        of_host.retain(|net| carried(net) && known(net));
        let network = network(wanted, observed);
        let ends = [0, 1].map(|end| {
            let v4 = Ipv4Net::new_assert(pair_v4(network)[end], network.prefix_len());
            let v6 = Ipv6Net::new_assert(PAIR_V6[end], 64);
            let v6 = wanted.ipv6.then(|| IpNet::from(v6));
            End {
                addresses: [v4.into()].into_iter().chain(v6).collect(),
                routes: Vec::new(),
            }
        });
        let [mut host, mut node] = ends;
        let to_node: Vec<IpNet> = of_node
            .iter()
            .filter(|net| !observed.host_link.gateways.contains(&net.addr()))
            .copied()
            .collect();
        host.routes = routes(&to_node, &node.addresses, &of_host, &host.addresses);
        node.routes = routes(&of_host, &host.addresses, &of_node, &node.addresses);
        // What pods send gets an address of the link that it leaves by: it must be one that the host has a route to.
        node.addresses
            .extend(of_node.iter().map(|net| IpNet::from(net.addr())));
        Plan { wanted, host, node }
    }

    /// The steps from the ends that are there, fresh ones when they are not.
    fn steps(
        &self,
        steps: &mut Vec<Step>,
        host: Option<&ObservedLink>,
        node: Option<&ObservedLink>,
    ) {
        if host.is_none_or(|host| host.link.alias.as_ref() != Some(&self.wanted.alias)) {
            at(steps, Subject::HostEnd).push(Action::SetAlias(self.wanted.alias.clone()));
        }
        for (subject, end) in [(Subject::HostEnd, host), (Subject::HostLink, node)] {
            if end.is_none_or(|end| !end.link.up) {
                at(steps, subject).push(Action::SetUp);
            }
        }
        // The host's end may have got others, from whoever gives every link of the host some.
        let ours = |address: &Address| match address.net {
            IpNet::V4(net) => self.wanted.networks.contains(&net.trunc()),
            IpNet::V6(_) => false,
        };
        let not_the_kernels = |address: &Address| match address.net {
            IpNet::V4(_) => true,
            IpNet::V6(net) => !is_link_local(net.addr().into()),
        };
        self.host.mend(&mut at(steps, Subject::HostEnd), host, ours);
        self.node
            .mend(&mut at(steps, Subject::HostLink), node, not_the_kernels);
        self.host.lead(&mut at(steps, Subject::HostEnd), host);
        self.node.lead(&mut at(steps, Subject::HostLink), node);
    }
}

impl End {
    fn mend(
        &self,
        steps: &mut Steps<'_>,
        found: Option<&ObservedLink>,
        superfluous: impl Fn(&Address) -> bool,
    ) {
        let found = found.map_or(&[][..], |found| &found.addresses);
        addresses(steps, &self.addresses, found, false, superfluous);
    }

    fn lead(&self, steps: &mut Steps<'_>, found: Option<&ObservedLink>) {
        let found: Vec<PairRoute> = found
            .iter()
            .flat_map(|found| &found.routes)
            .filter_map(ours)
            .collect();
        for route in self.routes.iter().filter(|route| !found.contains(route)) {
            steps.push(Action::AddRoute(*route));
        }
        for route in found {
            if !self.routes.iter().any(|wanted| wanted.to == route.to) {
                steps.push(Action::RemoveRoute(route));
            }
        }
    }
}

/// The route as one that was made here; none when it was not.
fn ours(route: &Route) -> Option<PairRoute> {
    let one = route.destination.prefix_len() == route.destination.max_prefix_len();
    (one && route.origin == Origin::Static && route.metric == METRIC).then_some(PairRoute {
        to: route.destination.addr(),
        via: route.gateway?,
        source: route.source,
    })
}

/// Routes to all of `theirs`, by the other end's addresses, each from that of `own` which lies nearest.
fn routes(theirs: &[IpNet], other_end: &[IpNet], own: &[IpNet], end: &[IpNet]) -> Vec<PairRoute> {
    let route = |to: IpAddr| {
        let of_family = |nets: &[IpNet]| -> Vec<IpNet> {
            nets.iter()
                .filter(|net| net.addr().is_ipv4() == to.is_ipv4())
                .copied()
                .collect()
        };
        let known = of_family(own);
        let near = known.iter().find(|net| net.contains(&to));
        Some(PairRoute {
            to,
            via: of_family(other_end).first()?.addr(),
            source: near
                .or(known.first())
                .or(of_family(end).first())
                .map(IpNet::addr),
        })
    };
    theirs.iter().filter_map(|net| route(net.addr())).collect()
}

/// The host's own addresses on the interface that carries the uplink; those that it no longer uses come last.
fn of_host(observed: &Observed) -> Vec<IpNet> {
    let usable = observed
        .host_link
        .addresses
        .iter()
        .filter(|address| address.is_global() && !address.tentative);
    in_order(usable)
}

/// The node's own addresses on the uplink, as they will be when the rest of the plan is carried out.
fn of_node(uplink: &DesiredUplink, observed: &Observed) -> Vec<IpNet> {
    let found: Vec<Address> = kept(uplink, observed)
        .map(|uplink| uplink.addresses.clone())
        .unwrap_or_default();
    let refused = |net: &IpNet| {
        !uplink.retry_duplicates
            && found
                .iter()
                .any(|address| address.net == *net && address.duplicate)
    };
    let mut nets: Vec<IpNet> = uplink
        .addresses
        .iter()
        .filter(|net| !is_link_local(net.addr()) && !refused(net))
        .copied()
        .collect();
    let given = found
        .iter()
        .filter(|address| uplink.auto.is_some() && !address.permanent && address.is_global());
    for net in in_order(given) {
        let written = |known: &IpNet| known.addr() == net.addr();
        if !nets.iter().any(written) && !uplink.addresses.iter().any(written) {
            nets.push(net);
        }
    }
    nets
}

fn in_order<'a>(addresses: impl Iterator<Item = &'a Address>) -> Vec<IpNet> {
    let mut addresses: Vec<&Address> = addresses.collect();
    addresses.sort_by_key(|address| address.deprecated);
    addresses.iter().map(|address| address.net).collect()
}

/// The pair's IPv4 network: that which it has, unless others use it; else the first that nobody does.
fn network(wanted: &DesiredHostLink, observed: &Observed) -> Ipv4Net {
    let free = |network: &Ipv4Net| {
        let overlaps = |taken: &IpNet| match taken {
            IpNet::V4(taken) => taken.contains(network) || network.contains(taken),
            IpNet::V6(_) => false,
        };
        !observed.host_link.taken.iter().any(overlaps)
    };
    let (host, _) = observed.host_link.pair().unzip();
    let has = |network: &&Ipv4Net| {
        let [own, _] = pair_v4(**network);
        let net = IpNet::from(Ipv4Net::new_assert(own, network.prefix_len()));
        host.is_some_and(|host| host.addresses.iter().any(|address| address.net == net))
    };
    let networks = || wanted.networks.iter().filter(|network| free(network));
    let chosen = networks().find(has).or_else(|| networks().next());
    // Where others use all of them, one of them is the lesser evil.
    *chosen
        .or(wanted.networks.first())
        .expect("a pair has networks to choose from")
}

#[cfg(test)]
pub(super) mod tests;
