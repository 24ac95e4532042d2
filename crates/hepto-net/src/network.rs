//! A node's network, from its making to its end.

mod limits;
mod picture;

use std::io;

use ipnet::IpNet;
use tokio::time::Instant;

use crate::address;
use crate::apply::{Hands, apply};
use crate::bridge;
use crate::error::Error;
use crate::firewall::{self, Ruleset, Tools};
use crate::namespace::{self, Entry};
use crate::netlink::{self, Netlink};
use crate::plan::{Step, Subject, plan, refuse};
use crate::settings::Settings;
use crate::state::{Desired, HostLink, Observed, Tuning};
use crate::sysctl::{self, Reported};
use crate::teardown;
use crate::tune::{self, Tuner};
use crate::watch::{self, Event, ParentChange, Wake, Watch};

/// How often a change may call for another, as when removing an address takes a route along.
const PASSES: usize = 3;

/// A node's network. Lives on the main thread's runtime, in the host's namespace; dropped without [`Network::close`] it
/// leaves all as it is, to be adopted by the next run.
pub struct Network {
    settings: Settings,
    host: Netlink,
    node: Netlink,
    entry: Entry,
    tools: Tools,
    ruleset: Option<Ruleset>,
    watch: Watch,
    reported: Reported,
    tuner: Tuner,
    /// Whether this kernel has IPv6; it may be switched off at boot.
    ipv6: bool,
    /// The name of the host's end of the pair between host and node, whether there is to be one or not.
    host_end: String,
    /// The pair, as it was last seen.
    host_link: Option<HostLink>,
    /// Addresses that were refused as duplicates are tried again once after a start and when the parent is up again.
    retry_duplicates: bool,
    /// What the last convergence could not do; not to be reported as drift again and again.
    left_over: Vec<Step>,
    events: std::collections::VecDeque<Event>,
}

/// What a convergence came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Converged {
    /// The uplink's state.
    pub uplink: UplinkState,
    /// What was done; nothing when all was as it should be.
    pub steps: Vec<Step>,
}

/// Whether there is a way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UplinkState {
    /// The host's interface is absent; [`Event::Parent`] says when it comes.
    WaitingForParent,
    /// The uplink is there.
    Up {
        /// Its index in the node's namespace.
        ifindex: u32,
        /// Whether its parent is up and has a carrier.
        parent_up: bool,
    },
}

impl Network {
    /// Makes or adopts the namespace and secures it: marker, kernel settings, `lo`, firewall. Does not need the
    /// uplink's parent. What it has made when it fails is taken away again; what it has adopted stays.
    pub async fn open(settings: Settings) -> Result<Network, Error> {
        let host = Netlink::here()?;
        address::refuse_host(
            &settings.uplink.addresses,
            &address::addresses_of(&host).await?,
        )?;
        if !settings.uplink.tune
            && let Err(error) = tune::release(&settings.uplink.parent)
        {
            // Of a run that died, and was to do it.
            tracing::warn!(code = "W-NET-TUNE", fix = "turn it off by hand if it disturbs: ethtool -K INTERFACE rx-udp-gro-forwarding off", %error, "rx-udp-gro-forwarding of the host's interface is still on");
        }
        if settings.filter_bridges {
            bridge::load();
        }
        let tools = Tools::find();
        let opened = namespace::open(&settings.namespace, &settings.marker)?;
        let name = settings.namespace.clone();
        let result = match Network::attach(settings, host, opened.entry, tools) {
            Ok(mut network) => match network.secure().await {
                Ok(()) => return Ok(network),
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        if opened.made {
            for error in namespace::unpin(&name) {
                let fix = format!("ip netns delete {name}");
                tracing::warn!(code = "W-NET-NAMESPACE", fix, %error, "the namespace of a start that failed is left");
            }
        }
        result
    }

    fn attach(
        settings: Settings,
        host: Netlink,
        entry: Entry,
        tools: Tools,
    ) -> Result<Network, Error> {
        let failed = |error| {
            Error::namespace(
                format!("opening sockets in the namespace {}", settings.namespace),
                error,
            )
        };
        let host_end = address::host_end(&settings.marker);
        let linked = settings.host_link.then_some(host_end.as_str());
        // The subscription is older than the first look, so that nothing is missed between.
        let sockets = entry.run(|| Ok((netlink::Socket::open()?, watch::Sockets::open()?)));
        let (socket, subscriptions) = sockets
            .and_then(|opened: io::Result<_>| opened)
            .map_err(failed)?;
        Ok(Network {
            host,
            node: Netlink::attach(socket).map_err(failed)?,
            entry,
            tools,
            ruleset: firewall::rules(&settings.firewall, &settings.overlay),
            watch: Watch::new(
                subscriptions,
                &settings.uplink.parent,
                &settings.overlay.link,
                linked,
            )
            .map_err(failed)?,
            reported: Reported::default(),
            tuner: Tuner::new(settings.uplink.tune),
            ipv6: sysctl::has_ipv6(),
            host_link: None,
            host_end,
            retry_duplicates: true,
            left_over: Vec::new(),
            events: std::collections::VecDeque::new(),
            settings,
        })
    }

    /// All that concerns the namespace as a whole.
    async fn secure(&mut self) -> Result<(), Error> {
        let desired = Desired {
            uplink: None,
            ..self.desired()
        };
        let observed = self.observe(&desired).await?;
        self.report_missing(&desired, &observed);
        let steps = plan(&desired, &observed);
        first(self.apply(&steps).await)
    }

    /// The door to the node's namespace.
    pub fn entry(&self) -> Entry {
        self.entry.clone()
    }

    /// The overlay addresses from the next [`Network::converge`] on.
    pub fn set_overlay_addresses(&mut self, addresses: Vec<IpNet>) {
        self.settings.overlay.addresses = addresses;
        self.ruleset = firewall::rules(&self.settings.firewall, &self.settings.overlay);
    }

    /// Makes all be as it should: looks, plans, applies. Twice in a row does nothing the second time. What can be
    /// done is done also when a part fails, in particular the overlay when the uplink fails; the first failure is
    /// returned.
    pub async fn converge(&mut self) -> Result<Converged, Error> {
        let mut done = Vec::new();
        for pass in 0.. {
            let mut desired = self.desired();
            let observed = self.observe(&desired).await?;
            let refusal = self.refused(&desired, &observed).await?;
            if refusal.is_some() {
                desired.uplink = None;
            }
            let steps = plan(&desired, &observed);
            if steps.is_empty() || pass == PASSES {
                if let Some(step) = steps.first() {
                    tracing::warn!(code = "W-NET-DRIFT", fix = "stop what else changes the node's network", %step, "still to do after {PASSES} tries");
                }
                self.left_over = self.drift(&observed);
                self.host_link = picture::host_link(&observed);
                first(refusal.into_iter().collect())?;
                return Ok(Converged {
                    uplink: uplink_state(&observed),
                    steps: done,
                });
            }
            self.retry_duplicates = false;
            let errors = self.apply(&steps).await;
            if !errors.is_empty() {
                self.left_over = self.drift(&self.observe_links().await?);
                first(refusal.into_iter().chain(errors).collect())?;
            }
            done.extend(steps);
        }
        unreachable!("the passes are counted")
    }

    /// The next thing that changed by itself. Cancel-safe. Fails only when the kernel takes a subscription away.
    pub async fn event(&mut self) -> Result<Event, Error> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            let wake = self.watch.wake().await;
            match wake
                .map_err(|error| Error::netlink("reading the kernel's announcements", error))?
            {
                Wake::Firewall => self.look_at_firewall().await?,
                Wake::Links => self.look_at_links().await?,
            }
        }
    }

    /// Our own loading replaces the table, which announces a removal, too: only what is really gone counts.
    async fn look_at_firewall(&mut self) -> Result<(), Error> {
        let (_, loaded) = self.look_inside(Vec::new()).await?;
        self.watch.firewall_seen();
        if self.ruleset.is_some() && loaded != self.ruleset.as_ref().map(Ruleset::loaded) {
            self.events.push_back(Event::FirewallGone);
        }
        Ok(())
    }

    async fn look_at_links(&mut self) -> Result<(), Error> {
        let observed = self.observe_links().await?;
        let events = self.watch.links_seen(&observed, Instant::now());
        self.host_link = picture::host_link(&observed);
        // One that appeared anew has an uplink whose addresses are new, too.
        if events.contains(&Event::Parent(ParentChange::Up)) {
            self.retry_duplicates = true;
        }
        let drift = self.drift(&observed);
        // With a reason that already asks for converging there is no need for another one.
        let asked = events
            .iter()
            .any(|event| matches!(event, Event::Parent(_) | Event::UplinkGone));
        self.events.extend(events);
        if !asked && !drift.is_empty() && drift != self.left_over {
            let pair = |step: &Step| matches!(step.subject, Subject::HostLink | Subject::HostEnd);
            let event = match drift.iter().all(pair) {
                true => Event::HostLink,
                false => Event::Drift,
            };
            self.left_over = drift;
            self.events.push_back(event);
        }
        Ok(())
    }

    /// How the host's interface stands with what `tune` asks for; None when it does not, or while there is no interface.
    pub fn tuning(&self) -> Option<Tuning> {
        self.tuner.observe(&self.settings.uplink.parent)
    }

    /// The pair between host and node, as it was last seen; None where there is none.
    pub fn host_link(&self) -> Option<&HostLink> {
        self.host_link.as_ref()
    }

    /// Deletes the link into the mesh, if it is there. The tunnel has let go of it before.
    pub async fn remove_overlay(&mut self) -> Result<(), Error> {
        match self.node.link(&self.settings.overlay.link).await? {
            Some(link) => self.node.delete_link(link.index).await,
            None => Ok(()),
        }
    }

    /// Takes everything away: links, namespace, pin. Attempts all of it, and returns every failure.
    pub async fn close(self) -> Vec<Error> {
        let Network {
            settings,
            node,
            entry,
            mut tuner,
            ..
        } = self;
        let mut errors = teardown::close(&settings.namespace, node, entry).await;
        errors.extend(tuner.release(&settings.uplink.parent).err());
        errors
    }

    /// Why the uplink cannot be as asked for.
    async fn refused(
        &self,
        desired: &Desired,
        observed: &Observed,
    ) -> Result<Option<Error>, Error> {
        let host = address::addresses_of(&self.host).await?;
        let checked = address::refuse_host(&self.settings.uplink.addresses, &host);
        Ok(checked
            .and_then(|()| {
                desired
                    .uplink
                    .as_ref()
                    .map_or(Ok(()), |uplink| refuse(uplink, observed))
            })
            .err())
    }

    async fn apply(&mut self, steps: &[Step]) -> Vec<Error> {
        let mut hands = Hands {
            host: &self.host,
            node: &self.node,
            entry: &self.entry,
            tools: &self.tools,
            ruleset: self.ruleset.as_ref(),
            overlay: &self.settings.overlay.link,
            host_end: &self.host_end,
            mesh_port: self.settings.bandwidth.mesh_port,
            reported: &mut self.reported,
            tuner: &mut self.tuner,
        };
        apply(&mut hands, steps).await
    }

    fn report_missing(&mut self, desired: &Desired, observed: &Observed) {
        for (path, _) in &desired.sysctls {
            if !observed.sysctls.contains_key(path) {
                self.reported.report(path, &io::ErrorKind::NotFound.into());
            }
        }
    }
}

fn uplink_state(observed: &Observed) -> UplinkState {
    let parent = observed.parent.as_ref().map(|parent| &parent.link);
    match &observed.uplink {
        Some(uplink) => UplinkState::Up {
            ifindex: uplink.link.index,
            parent_up: parent.is_some_and(|link| link.up && link.carrier),
        },
        None => UplinkState::WaitingForParent,
    }
}

/// The first failure; the others are told here, since only one can be returned.
fn first(errors: Vec<Error>) -> Result<(), Error> {
    let mut errors = errors.into_iter();
    let Some(first) = errors.next() else {
        return Ok(());
    };
    for error in errors {
        let fix = error.fix().unwrap_or_default();
        tracing::warn!(code = error.code(), fix, "{error}");
    }
    Err(first)
}
