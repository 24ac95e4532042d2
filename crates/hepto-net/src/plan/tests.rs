//! Snapshots of whole plans, and a model of the kernel on which carrying out any plan leaves nothing to plan.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::bandwidth::Rates;
use crate::firewall::Loaded;
use crate::state::Link;
use crate::state::ObservedLimits;

pub(super) fn link(name: &str, kind: Kind) -> Link {
    Link {
        index: 7,
        name: name.into(),
        kind,
        mtu: 1500,
        txqueuelen: 500,
        mac: Some([2, 0, 0, 0, 0, 1]),
        up: false,
        carrier: true,
        lower: None,
        lower_elsewhere: false,
        master: None,
        captive: false,
        alias: None,
        token: None,
    }
}

pub(super) fn parent() -> Parent {
    Parent {
        link: Link {
            index: 2,
            up: true,
            ..link("ens1", Kind::Other)
        },
        master: None,
        carries: None,
        tuning: None,
    }
}

pub(super) fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn gateway(via: &str, onlink: bool) -> Gateway {
    Gateway {
        via: via.parse().unwrap(),
        onlink,
    }
}

pub(super) fn address(text: &str) -> Address {
    Address {
        link: 7,
        net: net(text),
        tentative: false,
        duplicate: false,
        deprecated: false,
        permanent: true,
    }
}

fn sysctls(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(path, value)| ((*path).into(), (*value).into()))
        .collect()
}

pub(super) fn desired() -> Desired {
    Desired {
        sysctls: sysctls(&[("net/ipv4/ip_forward", "1")]),
        firewall: Some(Loaded::of("wanted")),
        uplink: Some(DesiredUplink {
            parent: "ens1".into(),
            kind: UplinkKind::Macvlan,
            mac: Some([2, 0, 0, 0, 0, 9]),
            mtu: Some(1400),
            sysctls: sysctls(&[("net/ipv6/conf/uplink/accept_ra", "0")]),
            addresses: vec![
                net("fe80::9/64"),
                net("2001:db8:1::1/64"),
                net("192.168.1.123/24"),
            ],
            auto: None,
            gateways: vec![
                gateway("2001:db8:1::ffff", false),
                gateway("192.168.2.254", true),
            ],
            tune: true,
            retry_duplicates: false,
        }),
        overlay: DesiredOverlay {
            mtu: 1320,
            sysctls: Vec::new(),
            addresses: vec![net("fd00::9/64"), net("10.44.7.9/16")],
        },
        host_link: None,
        rates: Rates::default(),
    }
}

pub(super) fn fresh() -> Observed {
    let sysctls = [("net/ipv4/ip_forward".to_owned(), "0".to_owned())].into();
    Observed {
        sysctls,
        ..Observed::default()
    }
}

pub(super) fn text(steps: &[Step]) -> String {
    steps.iter().map(|step| format!("{step}\n")).collect()
}

/// The uplink as the plan for a fresh namespace leaves it.
pub(super) fn settled() -> Observed {
    let mut observed = fresh();
    observed.parent = Some(parent());
    observed.overlay = Some(ObservedLink {
        link: link("hepto0", Kind::Tun),
        addresses: Vec::new(),
        routes: Vec::new(),
    });
    carry_out(&plan(&desired(), &observed), observed)
}

#[test]
fn limits_follow_the_uplink_and_go_with_it() {
    let mut limited = desired();
    limited.rates = Rates {
        up: Some(20_000_000),
        down: Some(50_000_000),
    };
    let settled = settled();
    let steps = plan(&limited, &settled);
    insta::assert_snapshot!(text(&steps), @r"
    limits: send at most 20000000 bits a second
    limits: receive at most 50000000 bits a second
    ");
    let shaped = carry_out(&steps, settled);
    assert_eq!(text(&plan(&limited, &shaped)), "");
    limited.rates.up = Some(10_000_000);
    limited.rates.down = None;
    insta::assert_snapshot!(text(&plan(&limited, &shaped)), @r"
    limits: send at most 10000000 bits a second
    limits: receive as fast as it goes
    ");
    let gone = Observed {
        uplink: None,
        limits: ObservedLimits::default(),
        ..shaped
    };
    assert!(
        text(&plan(&limited, &gone)).ends_with("limits: send at most 10000000 bits a second\n")
    );
}

#[test]
fn a_fresh_namespace_is_secured_while_the_parent_is_waited_for() {
    insta::assert_snapshot!(text(&plan(&desired(), &fresh())), @r"
    namespace: set net/ipv4/ip_forward to 1
    namespace: set up
    namespace: load the firewall
    ");
}

#[test]
fn the_overlay_comes_before_the_uplink_and_settings_before_links_go_up() {
    let mut observed = fresh();
    observed.parent = Some(parent());
    observed.overlay = Some(ObservedLink {
        link: link("hepto0", Kind::Tun),
        addresses: vec![address("fe80::1/64")],
        routes: Vec::new(),
    });
    insta::assert_snapshot!(text(&plan(&desired(), &observed)), @r"
    namespace: set net/ipv4/ip_forward to 1
    namespace: set up
    namespace: load the firewall
    overlay: set the MTU to 1320
    overlay: set the queue's length to 1000
    overlay: set up
    overlay: add the address fd00::9/64
    overlay: add the address 10.44.7.9/16
    uplink: make a macvlan link on ens1
    uplink: set net/ipv6/conf/uplink/accept_ra to 0
    uplink: set up
    uplink: add the address fe80::9/64
    uplink: add the address 2001:db8:1::1/64
    uplink: add the address 192.168.1.123/24
    uplink: add the default route via 192.168.2.254 onlink, metric 100
    uplink: add the default route via 2001:db8:1::ffff, metric 100
    ");
}

#[test]
fn what_is_as_it_should_be_is_left_alone() {
    assert_eq!(text(&plan(&desired(), &settled())), "");
}

#[test]
fn a_changed_overlay_address_takes_the_place_of_the_old_one() {
    let mut desired = desired();
    desired.overlay.addresses = vec![net("fd00::a/64"), net("10.44.7.10/16")];
    insta::assert_snapshot!(text(&plan(&desired, &settled())), @r"
    overlay: add the address fd00::a/64
    overlay: add the address 10.44.7.10/16
    overlay: remove the address fd00::9/64
    overlay: remove the address 10.44.7.9/16
    ");
}

#[test]
fn a_changed_prefix_length_makes_room_first() {
    let mut desired = desired();
    desired.uplink.as_mut().unwrap().addresses[1] = net("2001:db8:1::1/48");
    insta::assert_snapshot!(text(&plan(&desired, &settled())), @r"
    uplink: remove the address 2001:db8:1::1/64
    uplink: add the address 2001:db8:1::1/48
    ");
}

#[test]
fn an_uplink_of_another_kind_parent_or_mac_is_made_anew() {
    let mut others = [settled(), settled(), settled()];
    others[0].uplink.as_mut().unwrap().link.kind = Kind::Ipvlan { l2: true };
    others[1].parent.as_mut().unwrap().link.index = 3;
    others[2].uplink.as_mut().unwrap().link.mac = Some([2, 0, 0, 0, 0, 8]);
    for observed in others {
        let steps = text(&plan(&desired(), &observed));
        assert!(
            steps.starts_with("uplink: delete\nuplink: make a macvlan"),
            "{steps}"
        );
    }
}

#[test]
fn a_macvlan_on_a_macvlan_is_its_sibling() {
    let mut observed = settled();
    let parent = &mut observed.parent.as_mut().unwrap().link;
    (parent.kind, parent.lower) = (Kind::Macvlan { bridge: true }, Some(99));
    observed.uplink.as_mut().unwrap().link.lower = Some(99);
    assert_eq!(text(&plan(&desired(), &observed)), "");
}

#[test]
fn an_ipvlan_flipped_by_another_tool_is_put_back() {
    let mut desired = desired();
    let uplink = desired.uplink.as_mut().unwrap();
    (uplink.kind, uplink.mac) = (UplinkKind::Ipvlan, None);
    let mut observed = settled();
    observed.uplink.as_mut().unwrap().link.kind = Kind::Ipvlan { l2: false };
    assert_eq!(
        text(&plan(&desired, &observed)),
        "uplink: put back to L2 mode\n"
    );
}

#[test]
fn an_absent_parent_leaves_the_uplink_as_it_is() {
    let observed = Observed {
        parent: None,
        ..settled()
    };
    assert_eq!(text(&plan(&desired(), &observed)), "");
}

#[test]
fn the_uplink_has_its_parents_mtu_unless_packets_must_be_fragmented() {
    for (mtu, expected) in [
        (None, 1500),
        (Some(1280), 1280),
        (Some(1359), 1359),
        (Some(1360), 1500),
    ] {
        let mut desired = desired();
        desired.uplink.as_mut().unwrap().mtu = mtu;
        let mut observed = fresh();
        observed.parent = Some(parent());
        let observed = carry_out(&plan(&desired, &observed), observed);
        assert_eq!(observed.uplink.unwrap().link.mtu, expected, "{mtu:?}");
    }
}

#[test]
fn a_duplicate_is_tried_again_only_when_asked_for() {
    let mut observed = settled();
    observed.uplink.as_mut().unwrap().addresses[1].duplicate = true;
    let mut desired = desired();
    assert_eq!(text(&plan(&desired, &observed)), "");
    desired.uplink.as_mut().unwrap().retry_duplicates = true;
    insta::assert_snapshot!(text(&plan(&desired, &observed)), @r"
    uplink: remove the address 2001:db8:1::1/64
    uplink: add the address 2001:db8:1::1/64
    ");
}

#[test]
fn advertised_addresses_and_routes_stay_only_where_they_were_asked_for() {
    let mut observed = settled();
    let uplink = observed.uplink.as_mut().unwrap();
    uplink.addresses.push(Address {
        permanent: false,
        ..address("2001:db8:2::7/64")
    });
    let advertised = Route {
        gateway: Some("fe80::1".parse().unwrap()),
        metric: 1024,
        origin: Origin::Advertised,
        ..uplink.routes[1]
    };
    uplink.routes.push(advertised);
    insta::assert_snapshot!(text(&plan(&desired(), &observed)), @r"
    uplink: remove the address 2001:db8:2::7/64
    uplink: remove the default route via fe80::1, metric 1024
    ");
    let mut desired = desired();
    desired.uplink.as_mut().unwrap().auto = Some([9; 8]);
    assert_eq!(
        text(&plan(&desired, &observed)),
        "uplink: set the interface identifier to 0909090909090909\n"
    );
}

#[test]
fn a_vanished_firewall_is_put_back_and_an_unwanted_one_taken_away() {
    let gone = Observed {
        firewall: None,
        ..settled()
    };
    assert_eq!(
        text(&plan(&desired(), &gone)),
        "namespace: load the firewall\n"
    );
    let damaged = Observed {
        firewall: Some(Loaded::of("other")),
        ..settled()
    };
    assert_eq!(
        text(&plan(&desired(), &damaged)),
        "namespace: load the firewall\n"
    );
    let off = Desired {
        firewall: None,
        ..desired()
    };
    assert_eq!(
        text(&plan(&off, &settled())),
        "namespace: take the firewall away\n"
    );
}

#[test]
fn parents_that_cannot_carry_the_uplink_are_refused() {
    let uplink = desired().uplink.unwrap();
    let refused = |change: &dyn Fn(&mut Parent)| {
        let mut parent = parent();
        change(&mut parent);
        refuse(
            &uplink,
            &Observed {
                parent: Some(parent),
                ..Observed::default()
            },
        )
        .map_err(|error| error.code())
    };
    assert_eq!(refused(&|_| ()), Ok(()));
    assert_eq!(
        refused(&|parent| parent.carries = Some(UplinkKind::Macvlan)),
        Ok(())
    );
    assert_eq!(
        refused(&|parent| parent.carries = Some(UplinkKind::Ipvlan)),
        Err("E-NET-PARENT-KIND")
    );
    assert_eq!(
        refused(&|parent| parent.master = Some("br0".into())),
        Err("E-NET-PARENT-PORT")
    );
    assert_eq!(
        refused(&|parent| parent.link.mtu = 1399),
        Err("E-NET-MTU-PARENT")
    );
    assert!(
        refuse(&uplink, &Observed::default()).is_ok(),
        "an absent parent is waited for"
    );
}

#[test]
fn the_parent_is_tuned_where_that_is_allowed_and_possible() {
    let with = |tuning: Tuning, tune: bool| {
        let (mut desired, mut observed) = (desired(), settled());
        desired.uplink.as_mut().unwrap().tune = tune;
        observed.parent.as_mut().unwrap().tuning = Some(tuning);
        text(&plan(&desired, &observed))
    };
    let step = "parent: have ens1 forward joined UDP datagrams\n";
    for tuning in [Tuning::Off, Tuning::Unheld] {
        assert_eq!(with(tuning.clone(), true), step);
        assert_eq!(with(tuning, false), "");
    }
    for tuning in [
        Tuning::Absent,
        Tuning::Owner,
        Tuning::On,
        Tuning::Refused(String::new()),
    ] {
        assert_eq!(with(tuning, true), "");
    }
}

/// What the kernel makes of the steps, as far as plans depend on it.
pub(super) fn carry_out(steps: &[Step], mut observed: Observed) -> Observed {
    for Step { subject, action } in steps {
        let parent = observed.parent.clone();
        match (subject, action) {
            (_, Action::SetSysctl { path, value }) => {
                observed.sysctls.insert(path.clone(), value.clone());
            }
            (Subject::Namespace, Action::SetUp) => observed.loopback_up = true,
            (_, Action::LoadFirewall) => observed.firewall = Some(Loaded::of("wanted")),
            (_, Action::UnloadFirewall) => observed.firewall = None,
            (Subject::HostLink, Action::MakePair { .. }) => {
                assert!(observed.host_link.node.is_none(), "the name is taken");
                let (host, node) = host_link::tests::pair();
                observed.host_link.host = Some(host);
                observed.host_link.node = Some(node);
            }
            (Subject::HostLink, Action::DeleteLink) => {
                if observed.host_link.pair().is_some() {
                    observed.host_link.host = None;
                }
                observed.host_link.node = None;
            }
            (Subject::HostLink, action) => {
                change(observed.host_link.node.as_mut().unwrap(), action);
            }
            (Subject::HostEnd, action) => {
                change(observed.host_link.host.as_mut().unwrap(), action);
            }
            (_, Action::DeleteLink) => {
                observed.uplink = None;
                observed.limits = ObservedLimits {
                    down: observed.limits.down,
                    ..ObservedLimits::default()
                };
            }
            (Subject::Limits, action) => {
                assert!(observed.uplink.is_some(), "a limit needs a link");
                limit(&mut observed.limits, action);
            }
            (_, Action::MakeLink { kind, mac, .. }) => {
                assert!(observed.uplink.is_none(), "the name is taken");
                observed.uplink = Some(made(&parent.expect("a link needs a parent"), *kind, *mac));
            }
            (_, Action::Tune { .. }) => {
                observed.parent.as_mut().unwrap().tuning = Some(Tuning::On);
            }
            (Subject::Overlay, action) => change(observed.overlay.as_mut().unwrap(), action),
            (_, action) => change(observed.uplink.as_mut().unwrap(), action),
        }
    }
    observed
}

fn limit(limits: &mut ObservedLimits, action: &Action) {
    let (direction, rate) = match action {
        Action::Shape { direction, rate } => (direction, Some(*rate)),
        Action::Unshape { direction } => (direction, None),
        other => panic!("{other} is not about a limit"),
    };
    let any = rate.is_some();
    match direction {
        Direction::Up => (limits.rates.up, limits.up) = (rate, any),
        Direction::Down => (limits.rates.down, limits.down) = (rate, any),
    }
}

fn made(parent: &Parent, kind: UplinkKind, mac: Option<[u8; 6]>) -> ObservedLink {
    let (kind, sibling) = match kind {
        UplinkKind::Ipvlan => (
            Kind::Ipvlan { l2: true },
            matches!(parent.link.kind, Kind::Ipvlan { .. }),
        ),
        UplinkKind::Macvlan => (
            Kind::Macvlan { bridge: true },
            matches!(parent.link.kind, Kind::Macvlan { .. }),
        ),
    };
    let lower = if sibling {
        parent.link.lower
    } else {
        Some(parent.link.index)
    };
    let link = Link {
        mtu: parent.link.mtu,
        lower,
        mac: mac.or(parent.link.mac),
        ..link("uplink", kind)
    };
    ObservedLink {
        link,
        addresses: Vec::new(),
        routes: Vec::new(),
    }
}

fn change(on: &mut ObservedLink, action: &Action) {
    match action {
        Action::SetUp => on.link.up = true,
        Action::SetL2 => on.link.kind = Kind::Ipvlan { l2: true },
        Action::SetMtu(mtu) => on.link.mtu = *mtu,
        Action::SetQueue(length) => on.link.txqueuelen = *length,
        Action::SetToken(token) => on.link.token = Some(*token),
        Action::AddAddress(net) => {
            let taken = on
                .addresses
                .iter()
                .any(|address| address.net.addr() == net.addr());
            assert!(!taken, "{net} is there already");
            on.addresses.push(Address {
                net: *net,
                ..address("::1/128")
            });
        }
        Action::RemoveAddress(net) => {
            let before = on.addresses.len();
            on.addresses.retain(|address| address.net != *net);
            assert!(on.addresses.len() < before, "{net} is not there");
        }
        Action::AddDefault { gateway, metric } => {
            let destination = net(if gateway.via.is_ipv4() {
                "0.0.0.0/0"
            } else {
                "::/0"
            });
            // NLM_F_REPLACE: the first of its metric.
            let old = on
                .routes
                .iter()
                .position(|route| route.destination == destination && route.metric == *metric);
            old.map(|old| on.routes.remove(old));
            let Gateway { via, onlink } = *gateway;
            let origin = Origin::Static;
            on.routes.push(Route {
                destination,
                gateway: Some(via),
                onlink,
                metric: *metric,
                link: 7,
                source: None,
                origin,
            });
        }
        Action::RemoveDefault {
            destination,
            gateway,
            metric,
        } => {
            let old = on.routes.iter().position(|route| {
                (route.destination, route.gateway, route.metric)
                    == (*destination, *gateway, *metric)
            });
            // Perhaps replaced just before.
            old.map(|old| on.routes.remove(old));
        }
        Action::SetAlias(alias) => on.link.alias = Some(alias.clone()),
        Action::AddRoute(route) => {
            let destination = IpNet::from(route.to);
            on.routes
                .retain(|old| (old.destination, old.metric) != (destination, METRIC));
            on.routes.push(host_link::tests::route(route));
        }
        Action::RemoveRoute(route) => {
            let before = on.routes.len();
            let gone = host_link::tests::route(route);
            on.routes.retain(|old| *old != gone);
            assert!(on.routes.len() < before, "{route} is not there");
        }
        other => panic!("{other} is not about a link"),
    }
}

fn nets() -> impl Strategy<Value = Vec<IpNet>> {
    let pool = [
        "2001:db8::1/64",
        "2001:db8::2/64",
        "192.0.2.1/24",
        "192.0.2.2/24",
        "198.51.100.1/32",
    ];
    proptest::sample::subsequence(pool.map(net).to_vec(), 0..=5)
}

pub(super) fn found_addresses() -> impl Strategy<Value = Vec<Address>> {
    // The second and fourth are the same addresses as desired ones, with other prefix lengths.
    let pool = [
        "2001:db8::1/64",
        "2001:db8::2/48",
        "192.0.2.1/24",
        "192.0.2.2/25",
        "203.0.113.9/24",
        "fe80::7/64",
    ];
    let flags = proptest::collection::vec(any::<(bool, bool)>(), 6);
    (proptest::sample::subsequence(pool.to_vec(), 0..=6), flags).prop_map(|(nets, flags)| {
        let flagged = |(text, (duplicate, permanent)): (&str, (bool, bool))| Address {
            duplicate,
            permanent,
            ..address(text)
        };
        nets.into_iter().zip(flags).map(flagged).collect()
    })
}

fn gateways() -> impl Strategy<Value = Vec<Gateway>> {
    let pool = vec![
        gateway("192.0.2.254", false),
        gateway("203.0.113.1", true),
        gateway("fe80::1", false),
    ];
    proptest::sample::subsequence(pool, 0..=3).prop_shuffle()
}

fn found_routes() -> impl Strategy<Value = Vec<Route>> {
    let origin = prop_oneof![
        Just(Origin::Static),
        Just(Origin::Advertised),
        Just(Origin::Other)
    ];
    let route = (gateways(), 99_u32..103, origin, any::<bool>()).prop_map(
        |(gateways, metric, origin, onlink)| {
            let via = gateways
                .first()
                .map_or("192.0.2.254".parse().unwrap(), |gateway| gateway.via);
            let destination = net(if via.is_ipv4() { "0.0.0.0/0" } else { "::/0" });
            Route {
                destination,
                gateway: Some(via),
                onlink,
                metric,
                link: 7,
                source: None,
                origin,
            }
        },
    );
    // The kernel refuses a second route of the same gateway and metric.
    proptest::collection::vec(route, 0..4).prop_map(|mut routes| {
        routes.dedup_by_key(|route| (route.gateway, route.metric));
        routes.sort_by_key(|route| (route.gateway, route.metric));
        routes.dedup_by_key(|route| (route.gateway, route.metric));
        routes
    })
}

fn found_link() -> impl Strategy<Value = ObservedLink> {
    let kind = prop_oneof![
        any::<bool>().prop_map(|l2| Kind::Ipvlan { l2 }),
        any::<bool>().prop_map(|bridge| Kind::Macvlan { bridge }),
        Just(Kind::Other),
    ];
    (
        kind,
        any::<bool>(),
        1200_u32..1600,
        2_u32..4,
        found_addresses(),
        found_routes(),
    )
        .prop_map(|(kind, up, mtu, lower, addresses, routes)| ObservedLink {
            link: Link {
                up,
                mtu,
                lower: Some(lower),
                ..link("uplink", kind)
            },
            addresses,
            routes,
        })
}

fn wanted() -> impl Strategy<Value = Desired> {
    let kind = prop_oneof![Just(UplinkKind::Ipvlan), Just(UplinkKind::Macvlan)];
    let mtu = proptest::option::of(1280_u32..1500);
    let link = (kind, mtu, nets(), gateways(), any::<[bool; 4]>(), nets());
    (link, rates(), host_link::tests::wanted()).prop_map(
        |(
            (kind, mtu, addresses, gateways, [auto, retry_duplicates, off, mac], overlay),
            rates,
            host_link,
        )| {
            let mut wanted = Desired {
                rates,
                host_link,
                ..desired()
            };
            let uplink = wanted.uplink.as_mut().unwrap();
            *uplink = DesiredUplink {
                kind,
                mtu,
                addresses,
                gateways,
                retry_duplicates,
                mac: (mac && kind == UplinkKind::Macvlan).then_some([2, 0, 0, 0, 0, 1]),
                auto: auto.then_some([9; 8]),
                ..uplink.clone()
            };
            wanted.overlay.addresses = overlay;
            if off {
                wanted.firewall = None;
            }
            wanted
        },
    )
}

fn rates() -> impl Strategy<Value = Rates> {
    let rate = || proptest::sample::select(vec![None, Some(8_000_000), Some(16_000_000)]);
    (rate(), rate()).prop_map(|(up, down)| Rates { up, down })
}

fn found_limits() -> impl Strategy<Value = ObservedLimits> {
    // What is half made has no rate.
    (rates(), any::<[bool; 2]>()).prop_map(|(rates, [up, down])| ObservedLimits {
        rates,
        up: up || rates.up.is_some(),
        down: down || rates.down.is_some(),
    })
}

fn found() -> impl Strategy<Value = Observed> {
    let firewall = prop_oneof![
        Just(None),
        Just(Some(Loaded::of("wanted"))),
        Just(Some(Loaded::of("other")))
    ];
    let links = (
        proptest::option::of(found_link()),
        proptest::option::of(found_link()),
    );
    let pair = host_link::tests::found();
    (any::<[bool; 2]>(), firewall, links, found_limits(), pair).prop_map(
        |([loopback_up, here], firewall, (uplink, overlay), limits, host_link)| Observed {
            // On a link that is gone there is nothing for what the node sends.
            limits: match &uplink {
                Some(_) => limits,
                None => ObservedLimits {
                    down: limits.down,
                    ..ObservedLimits::default()
                },
            },
            loopback_up,
            sysctls: BTreeMap::from([(
                "net/ipv6/conf/uplink/accept_ra".to_owned(),
                "1".to_owned(),
            )]),
            firewall,
            parent: here.then(parent),
            uplink,
            overlay,
            host_link,
        },
    )
}

proptest! {
    // Rare combinations of routes were found only beyond the usual 256.
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn carrying_out_a_plan_leaves_nothing_to_plan(desired in wanted(), observed in found()) {
        let after = carry_out(&plan(&desired, &observed), observed);
        prop_assert_eq!(text(&plan(&desired, &after)), "");
    }
}
