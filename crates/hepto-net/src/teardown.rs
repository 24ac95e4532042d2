//! The end of a node's network: everything is attempted, every failure is returned, nothing is left.

use crate::error::Error;
use crate::namespace::{self, Entry};
use crate::netlink::{self, LOOPBACK, Netlink};
use crate::tune;

/// Takes the network away of a node whose process died, and undoes what it did to `parent`, the host's interface, if no
/// other node lives with that. A node that has none is no failure; a namespace that is not
/// this node's is left alone, and is one.
pub async fn teardown(namespace: &str, marker: &str, parent: &str) -> Vec<Error> {
    let mut errors = remove(namespace, marker).await;
    errors.extend(tune::release(parent).err());
    errors
}

async fn remove(namespace: &str, marker: &str) -> Vec<Error> {
    let entry = match namespace::find(namespace, marker) {
        Ok(Some(entry)) => entry,
        // Perhaps the empty file of a run that died before it mounted on it.
        Ok(None) => return namespace::unpin(namespace),
        Err(error) => return vec![error],
    };
    let failed = |error| Error::namespace(format!("entering the namespace {namespace}"), error);
    let attached = entry
        .run(netlink::Socket::open)
        .and_then(|socket| socket)
        .and_then(Netlink::attach);
    match attached.map_err(failed) {
        Ok(node) => close(namespace, node, entry).await,
        Err(error) => [vec![error], namespace::unpin(namespace)]
            .into_iter()
            .flatten()
            .collect(),
    }
}

/// Deletes the links by name, so that addresses, hardware addresses and the persistent TUN are free at once, whoever
/// still holds the namespace; then lets go of it.
pub(crate) async fn close(namespace: &str, node: Netlink, entry: Entry) -> Vec<Error> {
    let mut errors = Vec::new();
    match node.links().await {
        Ok(links) => {
            for link in links.into_iter().filter(|link| link.index != LOOPBACK) {
                // The kernel's own fallback devices of tunnels cannot be deleted; they go with the namespace.
                match node.delete_link(link.index).await {
                    Err(error) if error.errno() == Some(nix::errno::Errno::EOPNOTSUPP as i32) => {}
                    Err(error) => errors.push(error),
                    Ok(()) => {}
                }
            }
        }
        Err(error) => errors.push(error),
    }
    errors.extend(namespace::unpin(namespace));
    node.end().await;
    drop(entry);
    errors
}
