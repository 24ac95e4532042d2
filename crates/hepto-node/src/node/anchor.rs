//! Anchors by name: resolved in the host's namespace, where the host's resolver can be reached.

use std::net::SocketAddr;

use hepto_mesh::core::Anchor;
use tokio::net::lookup_host;
use tokio::sync::mpsc;

/// Each anchor with the addresses of its name; none when it does not resolve.
pub type Resolved = Vec<(Anchor, Vec<SocketAddr>)>;

/// Resolves the anchors without holding up the main loop.
pub struct Resolver {
    anchors: Vec<Anchor>,
    sender: mpsc::Sender<Resolved>,
    receiver: mpsc::Receiver<Resolved>,
    under_way: bool,
}

impl Resolver {
    /// For these anchors.
    pub fn new(anchors: Vec<Anchor>) -> Self {
        let (sender, receiver) = mpsc::channel(1);
        Resolver {
            anchors,
            sender,
            receiver,
            under_way: false,
        }
    }

    /// Begins to resolve, unless that is under way.
    pub fn begin(&mut self) {
        if std::mem::replace(&mut self.under_way, true) {
            return;
        }
        let (anchors, sender) = (self.anchors.clone(), self.sender.clone());
        tokio::spawn(async move {
            let mut resolved = Resolved::new();
            for anchor in anchors {
                let addresses = match lookup_host((anchor.host.as_str(), anchor.port)).await {
                    Ok(addresses) => addresses.collect(),
                    Err(error) => {
                        tracing::warn!(code = "W-MESH-ANCHOR-NAME", fix = "check the name, and the host's name servers", %anchor, %error, "this anchor's name does not resolve");
                        Vec::new()
                    }
                };
                resolved.push((anchor, addresses));
            }
            // Closed only when the node ends.
            let _ = sender.send(resolved).await;
        });
    }

    /// What the last [`Resolver::begin`] came to. Cancel-safe.
    pub async fn next(&mut self) -> Resolved {
        match self.receiver.recv().await {
            Some(resolved) => {
                self.under_way = false;
                resolved
            }
            // Our own sender keeps the channel open.
            None => std::future::pending().await,
        }
    }
}
