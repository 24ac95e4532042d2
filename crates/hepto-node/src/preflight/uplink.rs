//! The node's own network, made for a moment as `run` makes it, and who answers in it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use hepto_net::{Entry, Event, HostLink, Network, UNFRAGMENTED, UplinkState};
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{setsockopt, sockopt};
use rand_core::Rng;

use super::{Finding, anchors};
use crate::config::Config;
use crate::fault::Fault;
use crate::node::settings;
use crate::sandbox;
use crate::secret::SystemRandom;
use crate::status::figure::join;

/// Address resolution gives up after three tries, a second apart (`mcast_solicit`, RFC 4861 §10).
const RESOLUTION: Duration = Duration::from_millis(3_800);
/// An answer to ARP takes milliseconds, over Wi-Fi that slept a few hundred.
const ARP: Duration = Duration::from_millis(1_000);
/// How long the kernel holds on to an answer that is not confirmed: `delay_first_probe_time` and three tries.
const ARP_AGAIN: Duration = Duration::from_secs(9);
/// Duplicate address detection takes 1.1 to 1.5 s.
const DETECTION: Duration = Duration::from_millis(2_500);
/// Twice that, and a router's answer between.
const ADVERTISEMENT: Duration = Duration::from_secs(6);
/// How long a resolver may take, for each of [`TRIES`].
const ANSWER: Duration = Duration::from_millis(1_200);
const TRIES: usize = 3;

/// Root servers of the DNS, two operators a family (root hints of IANA): they answer everyone, from everywhere.
const ROOTS: [IpAddr; 4] = [
    IpAddr::V6(Ipv6Addr::new(0x2001, 0x7fd, 0, 0, 0, 0, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0x500, 0x9f, 0, 0, 0, 0, 0x42)),
    IpAddr::V4(Ipv4Addr::new(193, 0, 14, 129)),
    IpAddr::V4(Ipv4Addr::new(199, 7, 83, 42)),
];

/// Makes the network, or enters that of the node that runs, and tries it.
pub async fn look(config: &Config) -> Vec<Finding> {
    let mut wanted = settings::network(config, 0);
    if let Ok(Some(entry)) = hepto_net::namespace::find(&wanted.namespace, &wanted.marker) {
        let mut found = vec![Finding::ok(
            "uplink.make",
            "the node runs; its own network is tried",
        )];
        found.extend(ask(config, &entry).await);
        found.extend(anchors::look(config, &entry).await);
        return found;
    }
    // A node's name holds no dot, so no node has this namespace.
    wanted.namespace.push_str(".preflight");
    // As large as the host's link, also where `run` would make it smaller: whether a way holds more is asked too.
    wanted.uplink.mtu = wanted.uplink.mtu.filter(|mtu| *mtu >= UNFRAGMENTED.into());
    let taken = taken(config).await;
    let mut network = match Network::open(wanted).await {
        Ok(network) => network,
        Err(error) => return vec![Finding::fault("uplink.make", Fault::from(error))],
    };
    let found = tokio::select! {
        found = try_uplink(config, &mut network, taken) => found,
        _ = tokio::signal::ctrl_c() => vec![Finding::warning("uplink.make", "W-PREFLIGHT-INTERRUPTED", "interrupted")],
    };
    let left = network
        .close()
        .await
        .into_iter()
        .map(|error| Finding::fault("uplink.remove", error.into()));
    found.into_iter().chain(left).collect()
}

async fn try_uplink(
    config: &Config,
    network: &mut Network,
    mut taken: Vec<IpAddr>,
) -> Vec<Finding> {
    let interface = &config.network.interface;
    let mut found = match network.converge().await {
        // The uplink comes first: it stands.
        Err(error) if ["E-NET-VETH", "E-NET-HOST-LINK"].contains(&error.code()) => {
            vec![Finding::fault("uplink.host-link", error.into())]
        }
        Ok(converged) => match converged.uplink {
            UplinkState::Up { .. } => {
                let what =
                    format!("an uplink was made on {interface}, with firewall and addresses");
                vec![Finding::ok("uplink.make", what)]
            }
            // Said by the look at the machine.
            UplinkState::WaitingForParent => return Vec::new(),
        },
        Err(error) => return vec![Finding::fault("uplink.make", error.into())],
    };
    found.extend(network.host_link().map(host_link));
    taken.extend(duplicates(network, config.network.auto).await);
    found.push(match taken.as_slice() {
        [] => Finding::ok(
            "uplink.addresses",
            "nobody else answers for the node's addresses",
        ),
        [first, ..] => {
            let what = format!("{first} is in use by another machine on {interface}'s network");
            Finding::error("uplink.addresses", "E-NET-ADDR-DUP", what)
                .why("neither of the two would be reached reliably")
                .fix("give this node another address in network.addresses")
        }
    });
    found.extend(ask(config, &network.entry()).await);
    found.extend(anchors::look(config, &network.entry()).await);
    found
}

fn host_link(link: &HostLink) -> Finding {
    let reached = match link.host.as_slice() {
        [] => {
            "no address of this machine, which has none on that interface in a family of the node's"
                .to_owned()
        }
        addresses => join(addresses),
    };
    let what = format!("a link to this machine was made, by which the node reaches {reached}");
    Finding::ok("uplink.host-link", what)
}

/// The IPv4 addresses for which another machine answers the host. The kernel looks for duplicates of IPv6 alone.
async fn taken(config: &Config) -> Vec<IpAddr> {
    let interface = config.network.interface.clone();
    let own = config
        .network
        .addresses
        .iter()
        .map(|network| network.addr());
    let own: Vec<IpAddr> = own.filter(IpAddr::is_ipv4).collect();
    let look = move || {
        own.into_iter()
            .filter(|own| answers_arp(*own, &interface))
            .collect()
    };
    tokio::task::spawn_blocking(look).await.unwrap_or_default()
}

/// Has the kernel ask the link for an address, and looks at what it was told (proc_net(5), `arp`).
fn answers_arp(address: IpAddr, interface: &str) -> bool {
    let asked = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        setsockopt(&socket, sockopt::BindToDevice, &interface.into())?;
        socket.send_to(b"hepto", (address, 9))
    };
    let complete = || {
        let table = std::fs::read_to_string("/proc/net/arp").unwrap_or_default();
        table.lines().any(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            words.first() == Some(&address.to_string().as_str())
                && words.get(2) == Some(&"0x2")
                && words.last() == Some(&interface)
        })
    };
    let known = complete();
    // A host that is not in the node's network cannot tell.
    if asked().is_err() {
        return false;
    }
    if known {
        // It may have been the node itself on another machine: the kernel asks again before it forgets.
        std::thread::sleep(ARP_AGAIN);
        return complete();
    }
    let until = Instant::now() + ARP;
    while Instant::now() < until {
        if complete() {
            return true;
        }
        std::thread::sleep(ARP / 20);
    }
    false
}

/// The addresses that the kernel refused as another machine's.
async fn duplicates(network: &mut Network, auto: bool) -> Vec<IpAddr> {
    let patience = if auto { ADVERTISEMENT } else { DETECTION };
    let until = tokio::time::Instant::now() + patience;
    let mut found = Vec::new();
    while let Ok(Ok(event)) = tokio::time::timeout_at(until, network.event()).await {
        if let Event::DuplicateAddress(address) = event {
            found.push(address);
        }
    }
    found
}

/// Asks gateways, resolvers and the Internet, all at once, from inside.
async fn ask(config: &Config, entry: &Entry) -> Vec<Finding> {
    let gateways: Vec<IpAddr> = config
        .network
        .gateways
        .iter()
        .map(|gateway| gateway.via)
        .collect();
    let (resolvers, none) = match resolvers(config) {
        Ok(resolvers) => (resolvers, None),
        Err(error) => (Vec::new(), Some(Finding::fault("uplink.dns", error.into()))),
    };
    let left_out = settings::linkable_resolvers(config);
    // Without any other that is an error, and says so.
    let left_out = (!left_out.is_empty() && none.is_none()).then(|| {
        let what = format!("the node does without the resolver {}, which is this machine itself", join(&left_out));
        Finding::warning("uplink.dns", "W-PREFLIGHT-DNS-HOST", what)
            .why("names that it alone knows, such as those of your home, do not resolve in the node")
            .fix("set network.host_link = true, by which the node reaches it; or set network.dns, which is then all there is")
    });
    let families: Vec<bool> = [true, false]
        .into_iter()
        .filter(|v6| {
            *v6 && config.network.auto || gateways.iter().any(|gateway| gateway.is_ipv6() == *v6)
        })
        .collect();
    let asked = entry
        .spawn(move || {
            std::thread::scope(|scope| {
                let gateways: Vec<_> = gateways
                    .into_iter()
                    .map(|via| scope.spawn(move || gateway(via)))
                    .collect();
                let resolvers: Vec<_> = resolvers
                    .into_iter()
                    .map(|dns| scope.spawn(move || resolver(dns)))
                    .collect();
                let families: Vec<_> = families
                    .into_iter()
                    .map(|v6| scope.spawn(move || internet(v6)))
                    .collect();
                let all = gateways.into_iter().chain(resolvers).chain(families);
                all.filter_map(|asked| asked.join().ok())
                    .collect::<Vec<_>>()
            })
        })
        .await;
    let asked = asked.unwrap_or_else(|error| {
        let what = format!("cannot enter the network that was made: {error}");
        vec![Finding::error("uplink.make", "E-NET-ENTER", what)]
    });
    asked.into_iter().chain(none).chain(left_out).collect()
}

/// The node's resolvers: its own, else those of the host that it can reach.
fn resolvers(config: &Config) -> Result<Vec<IpAddr>, sandbox::Error> {
    Ok(sandbox::nameservers(&settings::resolv_conf(config)?))
}

fn gateway(via: IpAddr) -> Finding {
    let check = "uplink.gateway";
    match resolves(via) {
        Ok(true) => Finding::ok(check, format!("the gateway {via} answers")),
        Ok(false) => {
            let what = format!("the gateway {via} does not answer");
            Finding::error(check, "E-PREFLIGHT-GATEWAY", what)
                .why("everything beyond your home's network passes it")
                .fix(match via {
                    IpAddr::V6(_) => "ip -6 route shows the router behind `default via`: correct network.gateways",
                    IpAddr::V4(_) => "ip route shows the router behind `default via`: correct network.gateways and the address's prefix",
                })
        }
        Err(error) => Finding::error(check, "E-PREFLIGHT-GATEWAY", format!("no way to the gateway {via}: {error}"))
            .fix("the gateway lies outside the node's prefixes: correct it, or { via = \"ADDRESS\", onlink = true }"),
    }
}

/// Whether somebody answers for this address on the link: a datagram to it either gets away, or the kernel says after
/// some tries that the host is unreachable.
fn resolves(via: IpAddr) -> io::Result<bool> {
    let socket = match via {
        IpAddr::V4(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?,
        IpAddr::V6(_) => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?,
    };
    // Without this the kernel keeps "no such host" to itself.
    match via {
        IpAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?,
        IpAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?,
    }
    // The discard port (RFC 863): whoever has it open ignores what comes.
    let scope = if_nametoindex(hepto_net::UPLINK).unwrap_or(0);
    let to = match via {
        IpAddr::V6(via) if via.is_unicast_link_local() => {
            std::net::SocketAddrV6::new(via, 9, 0, scope).into()
        }
        via => SocketAddr::new(via, 9),
    };
    socket.connect(to)?;
    socket.set_read_timeout(Some(RESOLUTION))?;
    socket.send(b"hepto")?;
    match socket.recv(&mut [0; 64]) {
        // EHOSTUNREACH, from the kernel itself. "Refused" comes from the gateway, and silence too: it took the datagram.
        Err(error) if error.kind() == io::ErrorKind::HostUnreachable => Ok(false),
        _ => Ok(true),
    }
}

fn resolver(dns: IpAddr) -> Finding {
    let check = "uplink.dns";
    match (0..TRIES).any(|_| answers(dns)) {
        true => Finding::ok(check, format!("the resolver {dns} answers")),
        false => Finding::error(
            check,
            "E-PREFLIGHT-DNS",
            format!("the resolver {dns} does not answer"),
        )
        .why("anchors by name, images and pods need it")
        .fix("correct network.dns; your router is mostly one"),
    }
}

fn internet(v6: bool) -> Finding {
    let (check, family) = match v6 {
        true => ("uplink.internet-v6", "IPv6"),
        false => ("uplink.internet-v4", "IPv4"),
    };
    let roots: Vec<IpAddr> = ROOTS
        .into_iter()
        .filter(|root| root.is_ipv6() == v6)
        .collect();
    match (0..TRIES).any(|_| roots.iter().any(|root| answers(*root))) {
        true => Finding::ok(check, format!("the Internet answers by {family}")),
        false => Finding::warning(check, "W-PREFLIGHT-INTERNET", format!("nothing answers by {family}: asked the DNS roots {}", roots.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")))
            .why(format!("without it this node is reached, and reaches others, by the other family alone; images may come from {family} hosts"))
            .fix("check the gateway and the address's prefix; some routers let only devices out that they gave an address themselves"),
    }
}

/// Whether a DNS server answers a question that every one can answer: who serves the root (RFC 1035 §4.1, RFC 8109).
fn answers(server: IpAddr) -> bool {
    let mut id = [0; 2];
    SystemRandom.fill_bytes(&mut id);
    let mut question = vec![id[0], id[1], 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    // The root's name is one zero byte; type NS, class IN.
    question.extend([0, 0, 2, 0, 1]);
    let asked = || {
        let socket = match server {
            IpAddr::V4(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?,
            IpAddr::V6(_) => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?,
        };
        socket.connect((server, 53))?;
        socket.set_read_timeout(Some(ANSWER))?;
        socket.send(&question)?;
        let mut answer = [0; 1232];
        let length = socket.recv(&mut answer)?;
        // The same id, and the bit that says "response".
        Ok::<_, io::Error>(length >= 12 && answer[..2] == id && answer[2] & 0x80 != 0)
    };
    asked().unwrap_or(false)
}
