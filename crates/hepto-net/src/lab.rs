//! Homes on a street: network namespaces on a bridge, for `hepto-node demo` and for the tests.
//!
//! A [`Street`] is a network namespace with a bridge, its homes' router; a [`Home`] has a network
//! namespace whose one interface, `lan0`, is plugged into that bridge, and a mount namespace with a
//! `/run` of its own, so that whole nodes run side by side on one kernel as they would on machines
//! of their own. Nothing is made in the host's network or files: when the last process and
//! descriptor go, the kernel removes everything, also after a crash.
//!
//! Needs root and a kernel with bridge and veth; no program of the host. Start at [`Street::open`].

mod space;
mod throughput;
mod wire;

use std::io;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use ipnet::IpNet;

pub use crate::echo::{Echo, echo};
pub use space::Space;
pub use throughput::throughput;

/// The interface of a home's own network: the parent of its node's uplink.
pub const LAN: &str = "lan0";

const BRIDGE: &str = "street";

/// What could not be done to the lab, and why.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct Error {
    what: String,
    source: io::Error,
}

impl Error {
    fn new(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Error {
            what: what.into(),
            source: source.into(),
        }
    }

    /// The stable code of every failure of the lab.
    pub fn code(&self) -> &'static str {
        "E-LAB"
    }

    /// What mends it, where one thing does.
    pub fn fix(&self) -> Option<String> {
        let missing = self.source.raw_os_error() == Some(nix::libc::EOPNOTSUPP);
        missing.then(|| "load the kernel modules `bridge` and `veth`".to_owned())
    }
}

/// The network between the homes: a bridge in a namespace of its own.
#[derive(Debug)]
pub struct Street {
    space: Space,
    router: Vec<IpNet>,
}

impl Street {
    /// Makes the bridge; `gateways` are its own addresses, by which it answers as everyone's router.
    pub fn open(gateways: &[IpNet]) -> Result<Street, Error> {
        let space = Space::private()?;
        wire::within(&space, async |wire| {
            wire.bridge(BRIDGE).await?;
            wire.address(BRIDGE, gateways).await
        })?;
        Ok(Street {
            space,
            router: gateways.to_vec(),
        })
    }

    /// The namespaces of the street itself, for filters on what passes.
    pub fn space(&self) -> &Space {
        &self.space
    }

    /// Builds a home and plugs it in. `door` names its port of the bridge (at most 15 bytes), and
    /// `addresses` are the host's own on [`LAN`]. The line carries packets when this returns.
    pub fn home(&self, door: &str, addresses: &[IpNet]) -> Result<Home, Error> {
        let space = Space::private()?;
        wire::within(&self.space, async |wire| {
            wire.veth(door, LAN, &space).await?;
            wire.plug(door, Some(BRIDGE)).await?;
            wire.switch(door, true).await
        })?;
        wire::within(&space, async |wire| wire.address(LAN, addresses).await)?;
        // The street lives as long as any of its homes, also when its maker has gone.
        space.pin(&self.space, "/run/street")?;
        let home = Home {
            space,
            door: door.to_owned(),
        };
        self.await_line(&home, addresses)?;
        Ok(home)
    }

    /// The kernel tells a bridge of a new carrier up to a second late, and drops packets until then.
    fn await_line(&self, home: &Home, addresses: &[IpNet]) -> Result<(), Error> {
        let Some(router) = self
            .router
            .iter()
            .find(|net| addresses.iter().any(|own| own.contains(&net.addr())))
        else {
            return Ok(());
        };
        let request = Echo {
            patience: Duration::from_millis(50),
            ..Echo::new(router.addr())
        };
        let end = Instant::now() + Duration::from_secs(5);
        loop {
            match home.space.run(|| echo(request))? {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > end => {
                    return Err(Error::new(
                        format!("the line of {} carries nothing", home.door),
                        error,
                    ));
                }
                Err(_) => thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    /// Takes a home off the bridge: its link stays up and nothing arrives, as when a line dies
    /// somewhere beyond the router.
    pub fn cut(&self, home: &Home) -> Result<(), Error> {
        wire::within(&self.space, async |wire| wire.plug(&home.door, None).await)
    }

    /// Undoes [`Street::cut`].
    pub fn heal(&self, home: &Home) -> Result<(), Error> {
        wire::within(&self.space, async |wire| {
            wire.plug(&home.door, Some(BRIDGE)).await
        })
    }

    /// Leads the home's line over two links of the street that exist already: `near` gets what the
    /// home sends and gives what it hears, `far` does the same for everyone else. Whoever owns both
    /// carries the frames between them.
    pub fn divert(&self, home: &Home, near: &str, far: &str) -> Result<(), Error> {
        let detour = format!("{near}-br");
        wire::within(&self.space, async |wire| {
            wire.bridge(&detour).await?;
            for (link, bridge) in [
                (home.door.as_str(), detour.as_str()),
                (near, &detour),
                (far, BRIDGE),
            ] {
                wire.plug(link, Some(bridge)).await?;
                wire.switch(link, true).await?;
            }
            Ok(())
        })
    }

    /// Pulls the home's cable, or puts it back: its `lan0` sees the carrier go and come.
    pub fn carrier(&self, home: &Home, on: bool) -> Result<(), Error> {
        wire::within(&self.space, async |wire| wire.switch(&home.door, on).await)
    }
}

/// One home: what a node takes for its host.
#[derive(Debug)]
pub struct Home {
    space: Space,
    door: String,
}

impl Home {
    /// The namespaces in which this home's programs run.
    pub fn space(&self) -> &Space {
        &self.space
    }

    /// The name of its port of the bridge.
    pub fn door(&self) -> &str {
        &self.door
    }

    /// Whether this kernel makes ipvlan links; without them a node takes macvlan.
    pub fn has_ipvlan(&self) -> bool {
        let tried = wire::within(&self.space, async |wire| {
            wire.ipvlan("probe", LAN).await?;
            wire.remove("probe").await
        });
        tried.is_ok()
    }
}

impl Space {
    /// Joins this network to another by a veth pair, `here` being the end in this one; both ends
    /// get their addresses and are switched on.
    pub fn join(
        &self,
        here: (&str, &[IpNet]),
        there: (&Space, &str, &[IpNet]),
    ) -> Result<(), Error> {
        let (name, addresses) = here;
        let (other, other_name, other_addresses) = there;
        wire::within(self, async |wire| {
            wire.veth(name, other_name, other).await?;
            wire.address(name, addresses).await
        })?;
        wire::within(other, async |wire| {
            wire.address(other_name, other_addresses).await
        })
    }

    /// Routes `destination` through `gateway`, on `link` where one is named.
    pub fn route(
        &self,
        destination: IpNet,
        gateway: IpAddr,
        link: Option<&str>,
    ) -> Result<(), Error> {
        wire::within(self, async |wire| {
            wire.route(destination, gateway, link).await
        })
    }

    /// Adds addresses to a link, without duplicate address detection, and switches it on.
    pub fn address(&self, link: &str, addresses: &[IpNet]) -> Result<(), Error> {
        wire::within(self, async |wire| wire.address(link, addresses).await)
    }

    /// Sets the largest packet that a link carries, bytes.
    pub fn limit(&self, link: &str, mtu: u32) -> Result<(), Error> {
        wire::within(self, async |wire| wire.limit(link, mtu).await)
    }

    /// Gives a link another name.
    pub fn rename(&self, link: &str, name: &str) -> Result<(), Error> {
        wire::within(self, async |wire| wire.rename(link, name).await)
    }

    /// Switches a link on or off.
    pub fn switch(&self, link: &str, on: bool) -> Result<(), Error> {
        wire::within(self, async |wire| wire.switch(link, on).await)
    }
}

#[cfg(test)]
mod tests;
