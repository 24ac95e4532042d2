//! Links: listed, made, changed, moved and deleted.

use std::net::Ipv6Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

use futures_util::TryStreamExt;
use nix::errno::Errno;
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, InfoData, InfoIpVlan, InfoKind, InfoVeth, IpVlanMode, LinkAttribute,
    LinkInfo, LinkMessage, MacVlanMode,
};
use rtnetlink::{LinkIpVlan, LinkMacVlan, LinkMessageBuilder, LinkUnspec};

use super::{Netlink, failed, message, unless_gone};
use crate::error::Error;
use crate::state::Link;

/// A link to be made.
#[derive(Debug)]
pub enum NewLink<'a> {
    /// An ipvlan in L2 mode on the link of this index, made straight in another namespace.
    Ipvlan {
        /// Its name there.
        name: &'a str,
        /// The index of the link that carries it.
        lower: u32,
        /// The namespace that gets it.
        namespace: BorrowedFd<'a>,
    },
    /// A macvlan in bridge mode on the link of this index, made straight in another namespace.
    Macvlan {
        /// Its name there.
        name: &'a str,
        /// The index of the link that carries it.
        lower: u32,
        /// Its hardware address; the kernel's choice when absent.
        mac: Option<[u8; 6]>,
        /// The namespace that gets it.
        namespace: BorrowedFd<'a>,
    },
    /// A veth pair, one end here and one made straight in another namespace.
    Veth {
        /// The name of the end here.
        name: &'a str,
        /// The name of the other.
        peer: &'a str,
        /// The namespace that gets the other.
        namespace: BorrowedFd<'a>,
    },
}

impl NewLink<'_> {
    fn message(&self) -> LinkMessage {
        match self {
            NewLink::Ipvlan {
                name,
                lower,
                namespace,
            } => LinkIpVlan::new(name, *lower, IpVlanMode::L2)
                .setns_by_fd(namespace.as_raw_fd())
                .build(),
            NewLink::Macvlan {
                name,
                lower,
                mac,
                namespace,
            } => {
                let builder = LinkMacVlan::new(name, *lower, MacVlanMode::Bridge)
                    .setns_by_fd(namespace.as_raw_fd());
                match mac {
                    Some(mac) => builder.address(mac.to_vec()).build(),
                    None => builder.build(),
                }
            }
            NewLink::Veth {
                name,
                peer,
                namespace,
            } => {
                let far = LinkMessageBuilder::<LinkUnspec>::new()
                    .name((*peer).to_owned())
                    .setns_by_fd(namespace.as_raw_fd())
                    .build();
                LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Veth)
                    .name((*name).to_owned())
                    .set_info_data(InfoData::Veth(InfoVeth::Peer(far)))
                    .build()
            }
        }
    }

    fn name(&self) -> &str {
        match self {
            NewLink::Ipvlan { name, .. }
            | NewLink::Macvlan { name, .. }
            | NewLink::Veth { name, .. } => name,
        }
    }
}

impl Netlink {
    /// Every link of the namespace.
    pub async fn links(&self) -> Result<Vec<Link>, Error> {
        let messages: Vec<LinkMessage> = self
            .handle
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|error| failed("listing links", error))?;
        Ok(messages.iter().map(message::link).collect())
    }

    /// The link of this name.
    pub async fn link(&self, name: &str) -> Result<Option<Link>, Error> {
        Ok(self
            .links()
            .await?
            .into_iter()
            .find(|link| link.name == name))
    }

    /// The alias of a link, free text of up to 255 bytes.
    pub async fn alias(&self, index: u32) -> Result<Option<String>, Error> {
        Ok(self
            .links()
            .await?
            .into_iter()
            .find(|link| link.index == index)
            .and_then(|link| link.alias))
    }

    /// Makes a link. A name that is taken is an error.
    pub async fn add_link(&self, new: NewLink<'_>) -> Result<(), Error> {
        let request = self.handle.link().add(new.message());
        request
            .execute()
            .await
            .map_err(|error| failed(format!("making the link {}", new.name()), error))
    }

    /// Deletes a link; one that is gone already is no error.
    pub async fn delete_link(&self, index: u32) -> Result<(), Error> {
        let result = self.handle.link().del(index).execute().await;
        unless_gone(result, || format!("deleting link {index}"))
    }

    /// Sets a link up or down.
    pub async fn set_up(&self, index: u32, up: bool) -> Result<(), Error> {
        let link = LinkUnspec::new_with_index(index);
        let link = if up { link.up() } else { link.down() };
        self.set(
            link.build(),
            format!("setting link {index} {}", if up { "up" } else { "down" }),
        )
        .await
    }

    /// Sets a link's MTU, in bytes.
    pub async fn set_mtu(&self, index: u32, mtu: u32) -> Result<(), Error> {
        let message = LinkUnspec::new_with_index(index).mtu(mtu).build();
        self.set(message, format!("setting the MTU of link {index} to {mtu}"))
            .await
    }

    /// Sets the number of packets that may wait for a link.
    pub async fn set_txqueuelen(&self, index: u32, length: u32) -> Result<(), Error> {
        let message = LinkUnspec::new_with_index(index).txqueuelen(length).build();
        self.set(
            message,
            format!("setting the queue length of link {index} to {length}"),
        )
        .await
    }

    /// Sets a link's alias, free text of up to 255 bytes. It cannot be given when a link is made: it is dropped there.
    pub async fn set_alias(&self, index: u32, alias: &str) -> Result<(), Error> {
        let message = LinkUnspec::new_with_index(index).alias(alias).build();
        self.set(message, format!("marking link {index} as {alias}"))
            .await
    }

    /// Sets the interface identifier of IPv6 addresses made from router advertisements (`ip token`): the lower 64 bits.
    pub(crate) async fn set_token(&self, index: u32, token: [u8; 8]) -> Result<(), Error> {
        let address = Ipv6Addr::from(u128::from(u64::from_be_bytes(token)));
        let specification = vec![AfSpecUnspec::Inet6(vec![AfSpecInet6::Token(address)])];
        let message = LinkUnspec::new_with_index(index)
            .append_extra_attribute(LinkAttribute::AfSpecUnspec(specification))
            .build();
        self.set(
            message,
            format!("setting the interface identifier of link {index}"),
        )
        .await
    }

    /// Puts an ipvlan, and with it all of its parent's, back to L2 mode.
    pub(crate) async fn set_ipvlan_l2(&self, index: u32) -> Result<(), Error> {
        let mut message = LinkUnspec::new_with_index(index).build();
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::IpVlan),
            LinkInfo::Data(InfoData::IpVlan(vec![InfoIpVlan::Mode(IpVlanMode::L2)])),
        ]));
        self.set(message, format!("setting link {index} to L2 mode"))
            .await
    }

    async fn set(&self, message: LinkMessage, what: String) -> Result<(), Error> {
        // Not `set`: RTM_SETLINK ignores what belongs to a kind of link, such as ipvlan's mode.
        let request = self.handle.link().change(message);
        match request.execute().await {
            Ok(()) => Ok(()),
            Err(error) => Err(failed(what, error)),
        }
    }
}

/// Whether making a link failed for want of its driver.
pub(crate) fn no_driver(error: &Error) -> bool {
    [Errno::EOPNOTSUPP, Errno::ENOSYS]
        .iter()
        .any(|errno| error.errno() == Some(*errno as i32))
}
