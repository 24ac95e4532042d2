//! All of rtnetlink, for one namespace a handle: links, addresses and routes. Nothing here decides; [`crate::plan`] does.
//!
//! A netlink socket belongs to the namespace in which it was opened, whoever uses it later. So a plain thread inside
//! opens it ([`Socket::open`]), and the runtime outside attaches it ([`Netlink::attach`]).

mod link;
mod message;
mod subscription;
mod traffic;

use std::io;
use std::net::IpAddr;

use futures_util::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteProtocol, RouteScope};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{AsyncSocket, SocketAddr};
use rtnetlink::{AddressMessageBuilder, RouteMessageBuilder};
use tokio::task::JoinHandle;

use crate::error::Error;
use crate::state::{Address, Route};

pub use link::NewLink;
pub(crate) use link::no_driver;
pub(crate) use message::is_link_local;
pub(crate) use subscription::{Group, Notice, Subscription, SubscriptionSocket};
pub(crate) use traffic::Tree;

/// The index of `lo`, the same in every namespace.
pub const LOOPBACK: u32 = 1;

/// A netlink socket of the namespace in which [`Socket::open`] was called, not yet part of any runtime.
pub struct Socket(rtnetlink::sys::Socket);

impl Socket {
    /// Opens one in the calling thread's namespace.
    pub fn open() -> io::Result<Socket> {
        Ok(Socket(rtnetlink::sys::Socket::new(NETLINK_ROUTE)?))
    }
}

/// Requests to one namespace. Must be made and used within a tokio runtime.
#[derive(Debug)]
pub struct Netlink {
    handle: rtnetlink::Handle,
    /// Carries requests and answers; ends with this handle.
    connection: JoinHandle<()>,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Netlink {
    /// A handle to the calling thread's namespace.
    pub fn here() -> Result<Netlink, Error> {
        Socket::open()
            .and_then(Netlink::attach)
            .map_err(|error| Error::netlink("opening a netlink socket", error))
    }

    /// A handle to the namespace in which the socket was opened.
    pub fn attach(socket: Socket) -> io::Result<Netlink> {
        let (mut connection, handle, _) = rtnetlink::from_socket(message::tokio_socket(socket.0)?);
        connection
            .socket_mut()
            .socket_mut()
            .bind(&SocketAddr::new(0, 0))?;
        Ok(Netlink {
            handle,
            connection: tokio::spawn(connection),
        })
    }

    /// Closes the socket, which keeps the namespace alive, before it returns.
    pub(crate) async fn end(mut self) {
        self.connection.abort();
        // Cancelled, as asked.
        let _ = (&mut self.connection).await;
    }

    /// Every address of the namespace.
    pub async fn addresses(&self) -> Result<Vec<Address>, Error> {
        let messages: Vec<AddressMessage> = self
            .handle
            .address()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|error| failed("listing addresses", error))?;
        Ok(messages.iter().filter_map(message::address).collect())
    }

    /// Adds an address; the same address again is no error. `detect` asks for duplicate address detection (IPv6).
    pub async fn add_address(&self, link: u32, net: IpNet, detect: bool) -> Result<(), Error> {
        let mut message = address_message(link, net);
        if !detect {
            message.header.flags |= AddressHeaderFlags::Nodad;
            message
                .attributes
                .push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        let mut request = self
            .handle
            .address()
            .add(link, net.addr(), net.prefix_len())
            .replace();
        *request.message_mut() = message;
        request
            .execute()
            .await
            .map_err(|error| failed(format!("adding the address {net}"), error))
    }

    /// Removes an address; one that is gone already is no error.
    pub async fn remove_address(&self, link: u32, net: IpNet) -> Result<(), Error> {
        let result = self
            .handle
            .address()
            .del(address_message(link, net))
            .execute()
            .await;
        unless_gone(result, || format!("removing the address {net}"))
    }

    /// Every unicast route of the main table.
    pub async fn routes(&self) -> Result<Vec<Route>, Error> {
        let mut routes = Vec::new();
        for request in [message::all_routes(false), message::all_routes(true)] {
            let messages: Vec<_> = self
                .handle
                .route()
                .get(request)
                .execute()
                .try_collect()
                .await
                .map_err(|error| failed("listing routes", error))?;
            routes.extend(messages.iter().flat_map(message::routes));
        }
        Ok(routes)
    }

    /// Adds a route, or replaces the one of the same destination and metric.
    pub async fn add_route(&self, route: &Route) -> Result<(), Error> {
        let what = || format!("adding the route {route}");
        let request = self.handle.route().add(route_message(route)).replace();
        request
            .execute()
            .await
            .map_err(|error| failed(what(), error))
    }

    /// Removes a route; one that is gone already is no error.
    pub async fn remove_route(&self, route: &Route) -> Result<(), Error> {
        let result = self
            .handle
            .route()
            .del(route_message(route))
            .execute()
            .await;
        unless_gone(result, || format!("removing the route {route}"))
    }
}

/// Runs `work` with a handle to the calling thread's namespace, on a plain thread without a runtime.
pub(crate) fn block_on<T>(
    work: impl AsyncFnOnce(&Netlink) -> Result<T, Error>,
) -> Result<T, Error> {
    tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(|error| Error::netlink("starting a runtime", error))?
        .block_on(async { work(&Netlink::here()?).await })
}

fn address_message(link: u32, net: IpNet) -> AddressMessage {
    let mut message = match net {
        IpNet::V4(net) => AddressMessageBuilder::<std::net::Ipv4Addr>::new()
            .index(link)
            .address(net.addr(), net.prefix_len())
            .build(),
        IpNet::V6(net) => AddressMessageBuilder::<std::net::Ipv6Addr>::new()
            .index(link)
            .address(net.addr(), net.prefix_len())
            .build(),
    };
    if message::is_link_local(net.addr()) {
        message.header.scope = AddressScope::Link;
    }
    message
}

fn route_message(route: &Route) -> rtnetlink::packet_route::route::RouteMessage {
    let mut builder = RouteMessageBuilder::<IpAddr>::new()
        .protocol(RouteProtocol::Static)
        .output_interface(route.link)
        .priority(route.metric);
    if route.onlink {
        builder = builder.onlink();
    }
    let mut message = builder.build();
    message.header.address_family = match route.destination {
        IpNet::V4(_) => rtnetlink::packet_route::AddressFamily::Inet,
        IpNet::V6(_) => rtnetlink::packet_route::AddressFamily::Inet6,
    };
    message.header.destination_prefix_length = route.destination.prefix_len();
    if route.destination.prefix_len() > 0 {
        message
            .attributes
            .push(RouteAttribute::Destination(RouteAddress::from(
                route.destination.network(),
            )));
    }
    if let Some(source) = route.source {
        let source = RouteAttribute::PrefSource(RouteAddress::from(source));
        message.attributes.push(source);
    }
    match route.gateway {
        Some(gateway) => message
            .attributes
            .push(RouteAttribute::Gateway(RouteAddress::from(gateway))),
        None => message.header.scope = RouteScope::Link,
    }
    message
}

/// A failed request with what it was about; the kernel's number is kept.
fn failed(what: impl Into<String>, error: rtnetlink::Error) -> Error {
    Error::netlink(what, to_io(error))
}

fn to_io(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other.to_string()),
    }
}

fn unless_gone(
    result: Result<(), rtnetlink::Error>,
    what: impl FnOnce() -> String,
) -> Result<(), Error> {
    use nix::errno::Errno;
    match result.map_err(to_io) {
        Ok(()) => Ok(()),
        Err(error)
            if [
                Errno::ENODEV,
                Errno::EADDRNOTAVAIL,
                Errno::ESRCH,
                Errno::ENOENT,
            ]
            .iter()
            .any(|gone| error.raw_os_error() == Some(*gone as i32)) =>
        {
            Ok(())
        }
        Err(error) => Err(Error::netlink(what(), error)),
    }
}
