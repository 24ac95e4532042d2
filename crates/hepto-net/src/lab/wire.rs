//! The lab's netlink: one short conversation with the kernel inside a namespace.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use ipnet::IpNet;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags};
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth, LinkMessage};
use rtnetlink::{Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, RouteMessageBuilder};
use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};

use super::{Error, Space};

/// A netlink handle on the namespace of the thread that opened it.
pub(super) struct Wire(Handle);

/// Talks to the kernel inside `space`.
pub(super) fn within<T: Send>(
    space: &Space,
    talk: impl AsyncFnOnce(Wire) -> Result<T, Error> + Send,
) -> Result<T, Error> {
    space.run(|| here(talk))?
}

/// Talks to the kernel in the namespace of the calling thread, which must have no runtime.
pub(super) fn here<T>(talk: impl AsyncFnOnce(Wire) -> Result<T, Error>) -> Result<T, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(|error| Error::new("cannot start a runtime", error))?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection()
            .map_err(|error| Error::new("cannot open netlink", error))?;
        tokio::spawn(connection);
        talk(Wire(handle)).await
    })
}

impl Wire {
    pub async fn bridge(&self, name: &str) -> Result<(), Error> {
        self.add(name, LinkBridge::new(name).up().build()).await
    }

    /// A veth pair, its second end in another network.
    pub async fn veth(&self, name: &str, peer: &str, peer_space: &Space) -> Result<(), Error> {
        let far = LinkMessageBuilder::<LinkUnspec>::new()
            .name(peer)
            .setns_by_fd(peer_space.network().as_raw_fd())
            .build();
        let link = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Veth)
            .name(name)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(far)))
            .build();
        self.add(name, link).await
    }

    pub async fn ipvlan(&self, name: &str, parent: &str) -> Result<(), Error> {
        let link = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::IpVlan)
            .name(name)
            .link(index(parent)?)
            .build();
        self.add(name, link).await
    }

    async fn add(&self, name: &str, link: LinkMessage) -> Result<(), Error> {
        let added = self.0.link().add(link).execute().await;
        added.map_err(|error| refused(format!("cannot make the link {name}"), error))
    }

    pub async fn remove(&self, name: &str) -> Result<(), Error> {
        let removed = self.0.link().del(index(name)?).execute().await;
        removed.map_err(|error| refused(format!("cannot delete the link {name}"), error))
    }

    /// Makes a link a port of a bridge, or of none.
    pub async fn plug(&self, name: &str, bridge: Option<&str>) -> Result<(), Error> {
        let link = LinkUnspec::new_with_index(index(name)?);
        let link = match bridge {
            Some(bridge) => link.controller(index(bridge)?),
            None => link.nocontroller(),
        };
        let set = self.0.link().set(link.build()).execute().await;
        set.map_err(|error| refused(format!("cannot plug {name} in or out"), error))
    }

    pub async fn switch(&self, name: &str, on: bool) -> Result<(), Error> {
        let link = LinkUnspec::new_with_index(index(name)?);
        let link = if on { link.up() } else { link.down() };
        let set = self.0.link().set(link.build()).execute().await;
        set.map_err(|error| refused(format!("cannot switch {name} on or off"), error))
    }

    pub async fn limit(&self, name: &str, mtu: u32) -> Result<(), Error> {
        let link = LinkUnspec::new_with_index(index(name)?).mtu(mtu);
        let set = self.0.link().set(link.build()).execute().await;
        set.map_err(|error| refused(format!("cannot set the MTU of {name} to {mtu}"), error))
    }

    pub async fn rename(&self, name: &str, new: &str) -> Result<(), Error> {
        let link = LinkUnspec::new_with_index(index(name)?).name(new);
        let set = self.0.link().set(link.build()).execute().await;
        set.map_err(|error| refused(format!("cannot rename {name} to {new}"), error))
    }

    /// Switches a link on and gives it addresses. They are in use at once: nobody else is there.
    pub async fn address(&self, name: &str, addresses: &[IpNet]) -> Result<(), Error> {
        self.switch(name, true).await?;
        for address in addresses {
            let mut request =
                self.0
                    .address()
                    .add(index(name)?, address.addr(), address.prefix_len());
            request
                .message_mut()
                .attributes
                .push(AddressAttribute::Flags(AddressFlags::Nodad));
            let added = request.execute().await;
            added.map_err(|error| {
                refused(format!("cannot give {name} the address {address}"), error)
            })?;
        }
        Ok(())
    }

    pub async fn route(
        &self,
        destination: IpNet,
        gateway: IpAddr,
        link: Option<&str>,
    ) -> Result<(), Error> {
        let what = || format!("cannot route {destination} through {gateway}");
        let invalid =
            |error| Error::new(what(), io::Error::new(io::ErrorKind::InvalidInput, error));
        let mut route = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(destination.network(), destination.prefix_len())
            .and_then(|route| route.gateway(gateway))
            .map_err(invalid)?;
        if let Some(link) = link {
            route = route.output_interface(index(link)?);
        }
        let added = self.0.route().add(route.build()).execute().await;
        added.map_err(|error| refused(what(), error))
    }
}

/// The index of a link in the namespace of the calling thread.
fn index(name: &str) -> Result<u32, Error> {
    let found = socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .and_then(|socket| netdevice::name_to_index(&socket, name));
    found.map_err(|errno| Error::new(format!("cannot find the link {name}"), errno))
}

/// The kernel's answer as the error number that it is.
fn refused(what: String, error: rtnetlink::Error) -> Error {
    match error {
        rtnetlink::Error::NetlinkError(answer) => Error::new(what, answer.to_io()),
        other => Error::new(what, io::Error::other(other)),
    }
}
