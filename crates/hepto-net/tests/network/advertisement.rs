//! Router advertisements: followed where they were asked for, and only there.

use hepto_net::{Event, Network};

use crate::lab::*;

#[test]
fn the_kernel_makes_no_address_of_its_own() {
    isolated(
        "advertisement::the_kernel_makes_no_address_of_its_own",
        async || {
            wire();
            let mut network = open(settings()).await;
            converge(&mut network).await;
            for (setting, value) in [("accept_ra", "0"), ("autoconf", "0"), ("use_tempaddr", "0")] {
                let found = inside(&format!("cat /proc/sys/net/ipv6/conf/uplink/{setting}"));
                assert_eq!(found.trim(), value, "{setting}");
            }
            // The derived one, and no other.
            let local = inside("ip -6 -o address show dev uplink scope link");
            assert_eq!(local.lines().count(), 1, "{local}");
            close(network).await;
        },
    );
}

/// A router advertisement of `ens1`'s neighbour: a prefix of 64 bits, with these lifetimes in seconds (RFC 4861).
fn advertise(prefix: &str, router: u16, preferred: u32) {
    use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket, sockopt};
    let prefix: std::net::Ipv6Addr = prefix.parse().unwrap();
    // It comes from a link-local address, which has to be usable before; so has the one that hears it.
    until(|| !ip("-n lan -6 address show dev ens1 tentative").contains("fe80"));
    until(|| !inside("ip -6 address show dev uplink tentative").contains("fe80"));
    let mut message = vec![134, 0, 0, 0, 64, 0];
    message.extend(router.to_be_bytes());
    message.extend([0; 8]);
    // On-link, and good for making addresses.
    message.extend([3, 4, 64, 0b1100_0000]);
    message.extend(7200_u32.to_be_bytes());
    message.extend(preferred.to_be_bytes());
    message.extend([0; 4]);
    message.extend(prefix.octets());
    within("lan", move || {
        let socket = socket(AddressFamily::INET6, SocketType::RAW, Some(ipproto::ICMPV6)).unwrap();
        sockopt::set_ipv6_multicast_hops(&socket, 255).unwrap();
        let link = std::fs::read_to_string("/proc/net/if_inet6").unwrap();
        let link = link.lines().find(|line| line.ends_with("ens1")).unwrap();
        let link = u32::from_str_radix(link.split_whitespace().nth(1).unwrap(), 16).unwrap();
        let all: std::net::Ipv6Addr = "ff02::1".parse().unwrap();
        sendto(
            &socket,
            &message,
            SendFlags::empty(),
            &std::net::SocketAddrV6::new(all, 0, 0, link),
        )
        .unwrap();
    });
}

#[test]
fn where_it_is_asked_for_a_routers_advertisements_are_followed() {
    isolated(
        "advertisement::where_it_is_asked_for_a_routers_advertisements_are_followed",
        async || {
            wire();
            let mut settings = settings();
            (settings.uplink.addresses, settings.uplink.gateways) = (vec![], vec![]);
            settings.uplink.auto = true;
            let mut network = open(settings).await;
            converge(&mut network).await;
            assert_eq!(text(&converge(&mut network).await.steps), "");
            let token = inside("ip token get dev uplink");
            let identifier = token
                .trim_start_matches("token ::")
                .split(' ')
                .next()
                .unwrap()
                .to_owned();
            let local = inside("ip -6 -o address show dev uplink scope link");
            assert!(
                local.contains(&format!("fe80::{identifier}/64")),
                "{token} {local}"
            );

            let expect = |prefix: &str| {
                Event::Addresses(vec![format!("{prefix}{identifier}").parse().unwrap()])
            };
            let wait = async |network: &mut Network, prefix| {
                let wanted = expect(prefix);
                event(network, |event| *event == wanted).await;
                assert_eq!(
                    text(&converge(network).await.steps),
                    "",
                    "what is advertised is left alone"
                );
            };
            advertise("2001:db8:7::", 1800, 3600);
            wait(&mut network, "2001:db8:7::").await;
            let route = inside("ip -6 route show default");
            assert!(route.contains("proto ra"), "{route}");
            // The provider gives another prefix; the router withdraws the old one.
            advertise("2001:db8:7::", 1800, 0);
            event(&mut network, |event| *event == Event::Addresses(vec![])).await;
            advertise("2001:db8:8::", 1800, 3600);
            wait(&mut network, "2001:db8:8::").await;
            close(network).await;
        },
    );
}

#[test]
fn a_router_does_not_change_what_is_configured() {
    isolated(
        "advertisement::a_router_does_not_change_what_is_configured",
        async || {
            wire();
            let mut network = open(settings()).await;
            converge(&mut network).await;
            usable(&mut network).await;
            advertise("2001:db8:7::", 1800, 3600);
            // Sent after the advertisement and answered: it has arrived.
            ip("netns exec lan ping -c 1 -W 5 2001:db8::1");
            let all = inside("ip -6 address show dev uplink") + &inside("ip -6 route show");
            assert!(
                !all.contains("2001:db8:7:") && !all.contains("proto ra"),
                "{all}"
            );
            close(network).await;
        },
    );
}
