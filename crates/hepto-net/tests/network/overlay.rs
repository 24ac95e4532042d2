//! The overlay's link: its addresses, and the routes that others put on it.

use hepto_net::{Event, Settings, UplinkState};

use crate::lab::*;

#[test]
fn a_burst_of_announcements_loses_nothing() {
    isolated(
        "overlay::a_burst_of_announcements_loses_nothing",
        async || {
            let mut network = open(settings()).await;
            inside("ip tuntap add hepto0 mode tun");
            converge(&mut network).await;
            inside("ip link set hepto0 mtu 1300");
            event(&mut network, |event| *event == Event::Drift).await;
            converge(&mut network).await;
            // More than any buffer holds, while no one reads.
            let routes: String = (0..4096)
                .map(|count| {
                    format!(
                        "route add 10.42.{}.{}/32 via 10.44.3.3 dev hepto0\n",
                        count / 256,
                        count % 256
                    )
                })
                .collect();
            std::fs::write("/run/routes", routes).unwrap();
            inside("ip -batch /run/routes");
            event(
                &mut network,
                |event| matches!(event, Event::PodRoutes(routes) if routes.len() == 4096),
            )
            .await;
            close(network).await;
        },
    );
}

fn with_overlay(addresses: &[&str]) -> Settings {
    let mut settings = settings();
    settings.overlay.addresses = addresses.iter().map(|net| net.parse().unwrap()).collect();
    settings
}

#[test]
fn the_overlay_gets_its_addresses_and_a_change_removes_the_old_ones() {
    isolated(
        "overlay::the_overlay_gets_its_addresses_and_a_change_removes_the_old_ones",
        async || {
            let mut network = open(with_overlay(&["fd00::9/64", "10.44.7.9/16"])).await;
            assert_eq!(
                converge(&mut network).await.uplink,
                UplinkState::WaitingForParent
            );
            inside("ip tuntap add hepto0 mode tun");
            event(&mut network, |event| *event == Event::Drift).await;
            converge(&mut network).await;
            let link = inside("ip link show hepto0");
            assert!(
                link.contains("mtu 1320") && link.contains("qlen 1000") && link.contains(",UP"),
                "{link}"
            );
            inside("ip route add 10.42.3.0/24 via 10.44.3.3 dev hepto0");
            inside("ip -6 route add fd00:0:0:103::/64 via fd00::3 dev hepto0");
            let both =
                |event: &Event| matches!(event, Event::PodRoutes(routes) if routes.len() == 2);
            event(&mut network, both).await;

            network.set_overlay_addresses(vec![
                "fd00::a/64".parse().unwrap(),
                "10.44.7.10/16".parse().unwrap(),
            ]);
            converge(&mut network).await;
            let addresses = inside("ip -o address show hepto0 scope global");
            assert!(
                addresses.contains("10.44.7.10/16") && addresses.contains("fd00::a/64"),
                "{addresses}"
            );
            assert_eq!(addresses.lines().count(), 2, "{addresses}");
            assert!(!addresses.contains("tentative"), "{addresses}");
            assert!(
                inside("ip route show dev hepto0").contains("10.42.3.0/24"),
                "routes outlast a change of address"
            );
            network.remove_overlay().await.unwrap();
            event(&mut network, |event| *event == Event::PodRoutes(vec![])).await;
            close(network).await;
        },
    );
}
