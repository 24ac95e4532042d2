//! The uplink: its parent, its addresses and its routes.

use hepto_net::{Event, Network, ParentChange, UplinkState};

use crate::lab::*;

#[test]
fn a_node_reaches_its_neighbour_and_a_second_convergence_does_nothing() {
    isolated(
        "uplink::a_node_reaches_its_neighbour_and_a_second_convergence_does_nothing",
        async || {
            wire();
            let mut network = open(settings()).await;
            let converged = converge(&mut network).await;
            assert!(is_up(&converged), "{converged:?}");
            assert_eq!(text(&converge(&mut network).await.steps), "");
            usable(&mut network).await;
            for address in ["192.0.2.254", "2001:db8::ffff"] {
                inside(&format!("ping -c 1 -W 5 {address}"));
            }
            let link = inside("ip -d link show uplink");
            assert!(
                link.contains("macvlan mode bridge") && link.contains("mtu 1500"),
                "{link}"
            );
            for route in [
                inside("ip route show default"),
                inside("ip -6 route show default"),
            ] {
                assert!(
                    route.contains("dev uplink proto static metric 100"),
                    "{route}"
                );
            }
            close(network).await;
        },
    );
}

#[test]
fn the_parent_is_waited_for_and_its_return_rebuilds_the_uplink() {
    isolated(
        "uplink::the_parent_is_waited_for_and_its_return_rebuilds_the_uplink",
        async || {
            ip("netns add lan");
            let mut network = open(settings()).await;
            assert_eq!(
                converge(&mut network).await.uplink,
                UplinkState::WaitingForParent
            );
            for _ in 0..2 {
                parent();
                event(&mut network, |event| {
                    *event == Event::Parent(ParentChange::Appeared)
                })
                .await;
                assert!(is_up(&converge(&mut network).await));
                usable(&mut network).await;
                ip("link delete ens1");
                event(&mut network, |event| {
                    *event == Event::Parent(ParentChange::Gone)
                })
                .await;
                event(&mut network, |event| *event == Event::UplinkGone).await;
                event(&mut network, |event| *event == Event::Addresses(vec![])).await;
                assert_eq!(
                    converge(&mut network).await.uplink,
                    UplinkState::WaitingForParent
                );
            }
            close(network).await;
        },
    );
}

#[test]
fn carrier_and_mtu_of_the_parent_are_followed() {
    isolated(
        "uplink::carrier_and_mtu_of_the_parent_are_followed",
        async || {
            wire();
            let mut network = open(settings()).await;
            converge(&mut network).await;
            event(&mut network, |event| {
                *event == Event::Parent(ParentChange::Appeared)
            })
            .await;
            ip("-n lan link set ens1 down");
            event(&mut network, |event| {
                *event == Event::Parent(ParentChange::Down)
            })
            .await;
            let state = converge(&mut network).await.uplink;
            assert!(
                matches!(
                    state,
                    UplinkState::Up {
                        parent_up: false,
                        ..
                    }
                ),
                "{state:?}"
            );
            ip("-n lan link set ens1 up");
            event(&mut network, |event| {
                *event == Event::Parent(ParentChange::Up)
            })
            .await;
            ip("link set ens1 mtu 1450");
            event(&mut network, |event| {
                *event == Event::Parent(ParentChange::Mtu(1450))
            })
            .await;
            converge(&mut network).await;
            assert!(inside("ip link show uplink").contains("mtu 1450"));
            ip("link set ens1 mtu 1600");
            event(&mut network, |event| {
                *event == Event::Parent(ParentChange::Mtu(1600))
            })
            .await;
            converge(&mut network).await;
            assert!(inside("ip link show uplink").contains("mtu 1600"));
            close(network).await;
        },
    );
}

#[test]
fn small_mtus_are_the_uplinks_own() {
    isolated("uplink::small_mtus_are_the_uplinks_own", async || {
        wire();
        let mut settings = settings();
        settings.uplink.mtu = Some(1300);
        let mut network = open(settings).await;
        converge(&mut network).await;
        assert!(inside("ip link show uplink").contains("mtu 1300"));
        assert_eq!(text(&converge(&mut network).await.steps), "");
        close(network).await;
    });
}

#[test]
fn a_parent_that_cannot_carry_it_is_refused_while_the_overlay_comes_up() {
    isolated(
        "uplink::a_parent_that_cannot_carry_it_is_refused_while_the_overlay_comes_up",
        async || {
            wire();
            ip("link add br0 type bridge");
            ip("link set ens1 master br0");
            let mut network = open(settings()).await;
            inside("ip tuntap add hepto0 mode tun");
            let error = network.converge().await.unwrap_err();
            assert_eq!(
                (error.code(), error.fix().unwrap().as_str()),
                ("E-NET-PARENT-PORT", "set `network.interface = \"br0\"`")
            );
            assert!(
                inside("ip address show hepto0").contains("10.44.7.9/16"),
                "the overlay waits for no one"
            );
            ip("link set ens1 nomaster");
            ip("link set ens1 mtu 1300");
            assert_eq!(
                network.converge().await.unwrap_err().code(),
                "E-NET-MTU-PARENT"
            );
            ip("link set ens1 mtu 1500");
            assert!(is_up(&converge(&mut network).await));
            close(network).await;
        },
    );
}

#[test]
fn a_parent_that_one_link_has_for_itself_is_refused() {
    isolated(
        "uplink::a_parent_that_one_link_has_for_itself_is_refused",
        async || {
            wire();
            // In a namespace that cannot be seen from here.
            ip("netns add other");
            ip("link add link ens1 netns other name taken type macvlan mode passthru");
            let mut network = open(settings()).await;
            let error = network.converge().await.unwrap_err();
            assert_eq!(error.code(), "E-NET-PARENT-KIND", "{error}");
            close(network).await;
        },
    );
}

#[test]
fn the_hosts_own_address_is_refused_and_nothing_is_made() {
    isolated(
        "uplink::the_hosts_own_address_is_refused_and_nothing_is_made",
        async || {
            wire();
            ip("address add 192.0.2.1/24 dev ens1");
            let error = refused(settings()).await;
            assert_eq!(error.code(), "E-NET-ADDR-HOST");
            assert!(error.to_string().contains("on ens1"), "{error}");
            assert_nothing_left();
        },
    );
}

#[test]
fn a_duplicate_address_is_told_and_tried_again_when_the_parent_returns() {
    isolated(
        "uplink::a_duplicate_address_is_told_and_tried_again_when_the_parent_returns",
        async || {
            wire();
            ip("-n lan address add 2001:db8::1/64 dev ens1 nodad");
            let mut network = open(settings()).await;
            converge(&mut network).await;
            let duplicate = Event::DuplicateAddress("2001:db8::1".parse().unwrap());
            event(&mut network, |event| *event == duplicate).await;
            assert_eq!(
                text(&converge(&mut network).await.steps),
                "",
                "it is not tried for ever"
            );
            ip("-n lan address delete 2001:db8::1/64 dev ens1");
            ip("link set ens1 down");
            event(&mut network, |event| {
                *event == Event::Parent(ParentChange::Down)
            })
            .await;
            ip("link set ens1 up");
            event(&mut network, |event| {
                *event == Event::Parent(ParentChange::Up)
            })
            .await;
            converge(&mut network).await;
            usable(&mut network).await;
            close(network).await;
        },
    );
}

#[test]
fn an_address_that_stays_tentative_is_told() {
    isolated(
        "uplink::an_address_that_stays_tentative_is_told",
        async || {
            wire();
            ip("-n lan link set ens1 down");
            let mut network = open(settings()).await;
            converge(&mut network).await;
            let pending = Event::AddressPending("2001:db8::1".parse().unwrap());
            event(&mut network, |event| *event == pending).await;
            close(network).await;
        },
    );
}

#[test]
fn gateways_may_be_link_local_or_onlink_and_others_are_refused() {
    isolated(
        "uplink::gateways_may_be_link_local_or_onlink_and_others_are_refused",
        async || {
            wire();
            let with = |gateways: &[(&str, bool)]| {
                let mut settings = settings();
                settings.uplink.gateways = gateways
                    .iter()
                    .map(|(via, onlink)| gateway(via, *onlink))
                    .collect();
                settings
            };
            let mut network = open(with(&[("203.0.113.1", true), ("fe80::1", false)])).await;
            converge(&mut network).await;
            assert_eq!(text(&converge(&mut network).await.steps), "");
            assert!(
                inside("ip route show default")
                    .contains("via 203.0.113.1 dev uplink proto static metric 100 onlink")
            );
            assert!(inside("ip -6 route show default").contains("via fe80::1 dev uplink"));
            drop(network);
            let mut network = open(with(&[("203.0.113.1", false)])).await;
            let error = network.converge().await.unwrap_err();
            assert_eq!(error.code(), "E-NET-GATEWAY");
            assert!(error.fix().unwrap().contains("onlink = true"));
            close(network).await;
        },
    );
}

#[test]
fn a_kernel_without_ipv6_carries_the_other_family() {
    isolated(
        "uplink::a_kernel_without_ipv6_carries_the_other_family",
        async || {
            wire();
            std::fs::create_dir("/run/empty").unwrap();
            run("mount", "--bind /run/empty /proc/sys/net/ipv6");
            let mut network = open(settings()).await;
            inside("ip tuntap add hepto0 mode tun");
            assert!(is_up(&converge(&mut network).await));
            assert_eq!(text(&converge(&mut network).await.steps), "");
            let addresses = inside("ip -o address show scope global");
            assert!(
                addresses.contains("192.0.2.1/24") && addresses.contains("10.44.7.9/16"),
                "{addresses}"
            );
            assert!(!addresses.contains("inet6"), "{addresses}");
            close(network).await;
        },
    );
}

#[test]
fn what_others_change_is_noticed_and_put_right() {
    isolated(
        "uplink::what_others_change_is_noticed_and_put_right",
        async || {
            wire();
            let mut network = open(settings()).await;
            converge(&mut network).await;
            usable(&mut network).await;
            for change in [
                "ip address delete 2001:db8::1/64 dev uplink",
                "ip address add 198.51.100.1/24 dev uplink",
                "ip route delete default dev uplink",
                "ip link set uplink down",
            ] {
                inside(change);
                event(&mut network, |event| *event == Event::Drift).await;
                assert_ne!(text(&converge(&mut network).await.steps), "", "{change}");
                assert_eq!(text(&converge(&mut network).await.steps), "", "{change}");
            }
            inside("ip link delete uplink");
            event(&mut network, |event| *event == Event::UplinkGone).await;
            assert!(is_up(&converge(&mut network).await));
            close(network).await;
        },
    );
}

#[test]
fn host_addresses_name_their_links() {
    isolated("uplink::host_addresses_name_their_links", async || {
        wire();
        ip("address add 192.0.2.7/24 dev ens1");
        let found = hepto_net::host_addresses().await.unwrap();
        assert!(
            found.contains(&("ens1".into(), "192.0.2.7/24".parse().unwrap())),
            "{found:?}"
        );
        assert!(
            found.contains(&("lo".into(), "127.0.0.1/8".parse().unwrap())),
            "{found:?}"
        );
    });
}

#[test]
fn work_inside_runs_inside() {
    isolated("uplink::work_inside_runs_inside", async || {
        let network: Network = open(settings()).await;
        let names = || std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let entry = network.entry();
        assert_ne!(entry.run(names).unwrap(), names());
        assert_eq!(entry.spawn(names).await.unwrap(), entry.run(names).unwrap());
        assert!(entry.run(|| -> () { panic!("as asked") }).is_err());
        close(network).await;
    });
}
