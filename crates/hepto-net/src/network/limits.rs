//! What limits a node's uplink, and what went through.

use super::Network;
use crate::bandwidth::{INGRESS, Rates, Shaped};
use crate::error::Error;
use crate::netlink::Tree;
use crate::settings::UPLINK;
use crate::state::{Link, ObservedLimits};

impl Network {
    /// The limits of the uplink as they are.
    pub(super) async fn limits(&self, links: &[Link]) -> Result<ObservedLimits, Error> {
        let (up, down) = self.trees(links).await?;
        Ok(ObservedLimits {
            rates: Rates {
                up: up.rate,
                down: down.rate.filter(|_| up.led),
            },
            up: up.shapes,
            down: up.led || down.shapes,
        })
    }

    /// What limits the node now: on the uplink, and on the device that what comes in is led through.
    async fn trees(&self, links: &[Link]) -> Result<(Tree, Tree), Error> {
        let tree = async |name: &str| match links.iter().find(|link| link.name == name) {
            Some(link) => self.node.tree(link.index).await,
            None => Ok(Tree::default()),
        };
        Ok((tree(UPLINK).await?, tree(INGRESS).await?))
    }

    /// What went through the limits since they were set.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub async fn shaped(&self) -> Result<Shaped, Error> {
        let (up, down) = self.trees(&self.node.links().await?).await?;
        let traffic = |tree: Tree| tree.rate.map(|_| tree.traffic);
        Ok(Shaped {
            up: traffic(up),
            down: traffic(down).filter(|_| up.led),
        })
    }
}
