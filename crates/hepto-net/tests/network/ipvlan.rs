//! The uplink as an ipvlan. A kernel may lack it: then each of these shows that the way out is named.

use hepto_net::{Network, Settings, UplinkKind};

use crate::lab::*;

fn ipvlan() -> Settings {
    let mut settings = settings();
    settings.uplink.kind = UplinkKind::Ipvlan;
    settings
}

/// The node's network with its ipvlan; none where the kernel has none, which the node has to say.
async fn made(settings: Settings) -> Option<Network> {
    let mut network = open(settings).await;
    let probe = try_run("ip", "link add link ens1 name probe type ipvlan mode l2");
    if probe.status.success() {
        ip("link delete probe");
        assert!(is_up(&converge(&mut network).await));
        return Some(network);
    }
    let error = network.converge().await.unwrap_err();
    assert_eq!(error.code(), "E-NET-IPVLAN", "{error}");
    assert!(error.fix().unwrap().contains("network.mode = \"macvlan\""));
    close(network).await;
    None
}

#[test]
fn an_ipvlan_reaches_its_neighbour_and_is_adopted() {
    isolated(
        "ipvlan::an_ipvlan_reaches_its_neighbour_and_is_adopted",
        async || {
            wire();
            let Some(mut network) = made(ipvlan()).await else {
                return;
            };
            usable(&mut network).await;
            for address in ["192.0.2.254", "2001:db8::ffff"] {
                inside(&format!("ping -c 1 -W 5 {address}"));
            }
            drop(network);
            let mut network = open(ipvlan()).await;
            assert_eq!(text(&converge(&mut network).await.steps), "");
            ip("link set ens1 mtu 1450");
            converge(&mut network).await;
            assert!(inside("ip link show uplink").contains("mtu 1450"));
            close(network).await;
        },
    );
}

#[test]
fn an_ipvlan_flipped_by_another_tool_is_put_back() {
    isolated(
        "ipvlan::an_ipvlan_flipped_by_another_tool_is_put_back",
        async || {
            wire();
            let Some(mut network) = made(ipvlan()).await else {
                return;
            };
            // The mode is the parent's, for all on it.
            ip("link add link ens1 name other type ipvlan mode l3");
            assert!(inside("ip -d link show uplink").contains("mode l3"));
            assert_eq!(
                text(&converge(&mut network).await.steps),
                "uplink: put back to L2 mode\n"
            );
            assert!(inside("ip -d link show uplink").contains("mode l2"));
            ip("link delete other");
            close(network).await;
        },
    );
}

#[test]
fn an_address_of_another_ipvlan_is_refused() {
    isolated(
        "ipvlan::an_address_of_another_ipvlan_is_refused",
        async || {
            wire();
            let Some(network) = made(ipvlan()).await else {
                return;
            };
            let mut twin = ipvlan();
            (twin.namespace, twin.marker) = ("hepto-other.mars".into(), "hepto:other:mars".into());
            let mut other = open(twin).await;
            let error = other.converge().await.unwrap_err();
            assert_eq!(error.code(), "E-NET-ADDR-DUP", "{error}");
            assert_eq!(codes(&other.close().await), [""; 0]);
            close(network).await;
        },
    );
}

#[test]
fn the_other_kind_is_refused_also_when_it_cannot_be_seen() {
    isolated(
        "ipvlan::the_other_kind_is_refused_also_when_it_cannot_be_seen",
        async || {
            wire();
            let Some(network) = made(ipvlan()).await else {
                return;
            };
            let mut twin = settings();
            (twin.namespace, twin.marker) = ("hepto-other.mars".into(), "hepto:other:mars".into());
            twin.uplink.addresses = vec!["192.0.2.3/24".parse().unwrap()];
            let mut other = open(twin).await;
            for _ in 0..2 {
                let error = other.converge().await.unwrap_err();
                assert_eq!(error.code(), "E-NET-PARENT-KIND", "{error}");
                assert!(error.fix().unwrap().contains("network.mode = \"ipvlan\""));
                // The second time it is there for all to see.
                try_run("ip", "link add link ens1 name seen type ipvlan mode l2");
            }
            assert_eq!(codes(&other.close().await), [""; 0]);
            close(network).await;
        },
    );
}

#[test]
fn a_host_and_its_ipvlan_reach_each_other_by_their_link() {
    isolated(
        "ipvlan::a_host_and_its_ipvlan_reach_each_other_by_their_link",
        async || {
            wire();
            for address in ["192.0.2.10/24", "2001:db8::10/64"] {
                ip(&format!("address add {address} dev ens1 nodad"));
            }
            let both = Settings {
                host_link: true,
                ..ipvlan()
            };
            let Some(mut network) = made(both).await else {
                return;
            };
            usable(&mut network).await;
            for address in ["192.0.2.1", "2001:db8::1"] {
                run("ping", &format!("-c 1 -W 5 {address}"));
            }
            for address in ["192.0.2.10", "2001:db8::10", "192.0.2.254"] {
                inside(&format!("ping -c 1 -W 5 {address}"));
            }
            assert_eq!(text(&converge(&mut network).await.steps), "");
            close(network).await;
        },
    );
}
