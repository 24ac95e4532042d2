//! Carries out a plan: the only place that changes anything in the namespace.

use nix::errno::Errno;

use crate::bandwidth::{Direction, INGRESS};
use crate::error::Error;
use crate::firewall::{Ruleset, Tools};
use crate::namespace::Entry;
use crate::netlink::{Netlink, NewLink, no_driver};
use crate::plan::{self, Action, PairRoute, Step, Subject};
use crate::settings::{Gateway, HOST_LINK, UPLINK, UplinkKind};
use crate::state::{Origin, Route};
use crate::sysctl::{self, Reported};
use crate::tune::Tuner;

/// What steps are carried out with.
pub(crate) struct Hands<'a> {
    pub host: &'a Netlink,
    pub node: &'a Netlink,
    pub entry: &'a Entry,
    pub tools: &'a Tools,
    pub ruleset: Option<&'a Ruleset>,
    pub overlay: &'a str,
    pub host_end: &'a str,
    pub mesh_port: u16,
    pub reported: &'a mut Reported,
    pub tuner: &'a mut Tuner,
}

/// Carries out all steps but those about a subject that failed before; the failures, in order.
pub(crate) async fn apply(hands: &mut Hands<'_>, steps: &[Step]) -> Vec<Error> {
    let mut errors = Vec::new();
    let mut failed: Vec<Subject> = Vec::new();
    for step in steps {
        if failed.contains(&step.subject) {
            continue;
        }
        match hands.step(step).await {
            Ok(()) => tracing::debug!(%step, "done"),
            Err(error) => {
                errors.push(error);
                failed.push(step.subject);
                // Then the host's end is not there, or another's.
                if step.subject == Subject::HostLink {
                    failed.push(Subject::HostEnd);
                }
            }
        }
    }
    errors
}

impl Hands<'_> {
    async fn step(&mut self, step: &Step) -> Result<(), Error> {
        match &step.action {
            Action::SetSysctl { path, value } => self.set_sysctl(step.subject, path, value).await,
            Action::LoadFirewall => self.load_firewall().await,
            Action::UnloadFirewall => self.unload_firewall().await,
            Action::MakeLink { kind, parent, mac } => self.make_link(*kind, parent, *mac).await,
            Action::MakePair { name } => self.make_pair(name).await,
            Action::Tune { parent } => {
                self.tuner.tune(parent);
                Ok(())
            }
            Action::Shape { direction, rate } => self.shape(*direction, *rate).await,
            Action::Unshape { direction } => self.unshape(*direction).await,
            action => {
                self.change(self.index(step.subject).await?, step.subject, action)
                    .await
            }
        }
    }

    async fn change(&self, link: u32, subject: Subject, action: &Action) -> Result<(), Error> {
        let netlink = match subject {
            Subject::HostEnd => self.host,
            _ => self.node,
        };
        match action {
            Action::SetUp => netlink.set_up(link, true).await,
            Action::DeleteLink => netlink.delete_link(link).await,
            Action::SetL2 => netlink.set_ipvlan_l2(link).await,
            Action::SetMtu(mtu) => netlink.set_mtu(link, *mtu).await,
            Action::SetQueue(length) => netlink.set_txqueuelen(link, *length).await,
            Action::SetToken(token) => netlink.set_token(link, *token).await,
            // Overlay addresses are the node's by computation, and there is no one to ask on a TUN; a pair's other end has
            // its own.
            Action::AddAddress(net) => {
                let added = netlink
                    .add_address(link, *net, subject == Subject::Uplink)
                    .await;
                added.map_err(|error| match error.errno() {
                    // An ipvlan's answer; a macvlan leaves it to duplicate address detection.
                    Some(errno) if errno == Errno::EADDRINUSE as i32 => Error::AddressTaken {
                        address: net.addr(),
                    },
                    _ => error,
                })
            }
            Action::SetAlias(alias) => netlink.set_alias(link, alias).await,
            Action::AddRoute(route) => netlink.add_route(&pair_route(link, *route)).await,
            Action::RemoveRoute(route) => netlink.remove_route(&pair_route(link, *route)).await,
            Action::RemoveAddress(net) => netlink.remove_address(link, *net).await,
            Action::AddDefault { gateway, metric } => {
                netlink
                    .add_route(&default_route(link, *gateway, *metric))
                    .await
                    .map_err(|error| match error {
                        // "No route to host", "network is unreachable", "nexthop has invalid gateway".
                        Error::Netlink { source, .. } if unreachable(&source) => Error::Gateway {
                            via: gateway.via,
                            source,
                        },
                        other => other,
                    })
            }
            Action::RemoveDefault {
                destination,
                gateway,
                metric,
            } => {
                let (destination, gateway, metric) = (*destination, *gateway, *metric);
                let route = Route {
                    destination,
                    gateway,
                    onlink: false,
                    metric,
                    link,
                    source: None,
                    origin: Origin::Static,
                };
                netlink.remove_route(&route).await
            }
            Action::SetSysctl { .. }
            | Action::LoadFirewall
            | Action::UnloadFirewall
            | Action::MakeLink { .. }
            | Action::MakePair { .. }
            | Action::Tune { .. }
            | Action::Shape { .. }
            | Action::Unshape { .. } => {
                unreachable!("these are not about a link that is there")
            }
        }
    }

    /// What fails half-way is taken away: without its last class a tree holds nothing back, and is made anew.
    async fn shape(&self, direction: Direction, rate: u64) -> Result<(), Error> {
        let shaped = match direction {
            Direction::Up => {
                let uplink = self.index(Subject::Limits).await?;
                self.node
                    .make_tree(uplink, rate, self.mesh_port, direction)
                    .await
            }
            Direction::Down => self.shape_incoming(rate).await,
        };
        if shaped.is_err() {
            // The first failure is what matters.
            let _ = self.unshape(direction).await;
        }
        shaped
    }

    async fn shape_incoming(&self, rate: u64) -> Result<(), Error> {
        let uplink = self.index(Subject::Limits).await?;
        if self.node.link(INGRESS).await?.is_none() {
            // Loaded by the kernel itself, the driver would put two devices of its own into the host's namespace.
            let loaded = self.entry.spawn(load_ifb).await;
            loaded.map_err(|error| Error::namespace("loading the kernel's module ifb", error))?;
            self.node.add_ingress().await?;
        }
        let Some(ingress) = self.node.link(INGRESS).await? else {
            return Err(Error::netlink(
                format!("looking for the link {INGRESS}"),
                Errno::ENODEV,
            ));
        };
        self.node.set_up(ingress.index, true).await?;
        self.node
            .make_tree(ingress.index, rate, self.mesh_port, Direction::Down)
            .await?;
        self.node.lead(uplink, ingress.index).await
    }

    async fn unshape(&self, direction: Direction) -> Result<(), Error> {
        let uplink = self.index(Subject::Limits).await?;
        match direction {
            Direction::Up => self.node.remove_tree(uplink).await,
            Direction::Down => {
                self.node.stop_leading(uplink).await?;
                match self.node.link(INGRESS).await? {
                    Some(ingress) => self.node.delete_link(ingress.index).await,
                    None => Ok(()),
                }
            }
        }
    }

    async fn index(&self, subject: Subject) -> Result<u32, Error> {
        let name = match subject {
            Subject::Namespace => "lo",
            Subject::Overlay => self.overlay,
            Subject::Uplink | Subject::Limits => UPLINK,
            Subject::HostLink => HOST_LINK,
            Subject::HostEnd => return self.host_end().await,
            Subject::Parent => unreachable!("it is the host's, and has its own steps"),
        };
        self.of_node(name).await
    }

    async fn of_node(&self, name: &str) -> Result<u32, Error> {
        match self.node.link(name).await? {
            Some(link) => Ok(link.index),
            None => Err(Error::netlink(
                format!("looking for the link {name}"),
                Errno::ENODEV,
            )),
        }
    }

    /// One request makes both ends, each where it belongs.
    async fn make_pair(&self, name: &str) -> Result<(), Error> {
        let pair = NewLink::Veth {
            name,
            peer: HOST_LINK,
            namespace: std::os::fd::AsFd::as_fd(self.entry),
        };
        self.host
            .add_link(pair)
            .await
            .map_err(|error| match error.errno().map(Errno::from_raw) {
                _ if no_driver(&error) => Error::NoVeth,
                Some(Errno::EEXIST) => Error::HostLinkTaken { name: name.into() },
                _ => error,
            })
    }

    /// The host's link whose other end is the node's: never one that only has its name.
    async fn host_end(&self) -> Result<u32, Error> {
        let node = self.of_node(HOST_LINK).await?;
        let links = self.host.links().await?;
        let end = links
            .iter()
            .find(|link| link.name == self.host_end && link.lower == Some(node));
        match end {
            Some(link) => Ok(link.index),
            None => Err(Error::netlink(
                format!("looking for the host's link {}", self.host_end),
                Errno::ENODEV,
            )),
        }
    }

    async fn set_sysctl(&mut self, subject: Subject, path: &str, value: &str) -> Result<(), Error> {
        let (file, wanted) = (path.to_owned(), value.to_owned());
        let write = move || sysctl::write(&file, &wanted);
        let written = match subject {
            Subject::HostEnd => Ok(write()),
            _ => self.entry.spawn(write).await,
        };
        if let Err(error) =
            written.map_err(|error| Error::namespace(format!("setting {path}"), error))?
        {
            self.reported.report(path, &error);
        }
        Ok(())
    }

    async fn load_firewall(&self) -> Result<(), Error> {
        let Some(ruleset) = self.ruleset.cloned() else {
            return Ok(());
        };
        let tools = self.tools.clone();
        let loaded = self.entry.spawn(move || tools.load(&ruleset)).await;
        loaded.map_err(|error| Error::namespace("loading the firewall", error))?
    }

    async fn unload_firewall(&self) -> Result<(), Error> {
        let tools = self.tools.clone();
        let unloaded = self.entry.spawn(move || tools.unload()).await;
        unloaded.map_err(|error| Error::namespace("taking the firewall away", error))?
    }

    /// Made from the host's side straight into the namespace, so that its name never meets one of the host's.
    async fn make_link(
        &self,
        kind: UplinkKind,
        parent: &str,
        mac: Option<[u8; 6]>,
    ) -> Result<(), Error> {
        let Some(lower) = self.host.link(parent).await?.map(|link| link.index) else {
            return Err(Error::netlink(
                format!("looking for the host's link {parent}"),
                Errno::ENODEV,
            ));
        };
        let namespace = std::os::fd::AsFd::as_fd(self.entry);
        let link = match kind {
            UplinkKind::Ipvlan => NewLink::Ipvlan {
                name: UPLINK,
                lower,
                namespace,
            },
            UplinkKind::Macvlan => NewLink::Macvlan {
                name: UPLINK,
                lower,
                mac,
                namespace,
            },
        };
        self.host.add_link(link).await.map_err(|error| {
            let refused = |why: &str| Error::ParentKind {
                parent: parent.into(),
                kind,
                why: why.into(),
            };
            match error.errno().map(Errno::from_raw) {
                _ if no_driver(&error) => Error::NoDriver { kind },
                // One receiver a parent: an ipvlan's, a macvlan's or a bridge's, seen from here or not.
                Some(Errno::EBUSY) => {
                    refused("it carries links of another kind, in this or another namespace")
                }
                Some(Errno::EINVAL) => refused(
                    "it is no Ethernet link, or one macvlan has it all for itself (passthru)",
                ),
                _ => error,
            }
        })
    }
}

fn pair_route(link: u32, route: PairRoute) -> Route {
    Route {
        destination: route.to.into(),
        gateway: Some(route.via),
        onlink: false,
        metric: plan::METRIC,
        link,
        source: route.source,
        origin: Origin::Static,
    }
}

fn unreachable(error: &std::io::Error) -> bool {
    let errors = [Errno::EHOSTUNREACH, Errno::ENETUNREACH, Errno::EINVAL];
    errors
        .iter()
        .any(|errno| error.raw_os_error() == Some(*errno as i32))
}

fn default_route(link: u32, gateway: Gateway, metric: u32) -> Route {
    let any = if gateway.via.is_ipv4() {
        "0.0.0.0/0"
    } else {
        "::/0"
    };
    Route {
        destination: any.parse().expect("a valid prefix"),
        gateway: Some(gateway.via),
        onlink: gateway.onlink,
        metric,
        link,
        source: None,
        origin: Origin::Static,
    }
}

/// Loads the driver without devices of its own. Where there is no modprobe it is part of the kernel, or loads by itself.
fn load_ifb() {
    if std::path::Path::new("/sys/module/ifb").exists() {
        return;
    }
    let _ = std::process::Command::new("modprobe")
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .args(["--quiet", "ifb", "numifbs=0"])
        .stdin(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status();
}
