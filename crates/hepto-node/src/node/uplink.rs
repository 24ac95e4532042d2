//! The node's network while it runs: what changes there by itself, and what follows.

use hepto_mesh::driver::Command;
use hepto_net::{Event as NetworkEvent, UplinkState};

use super::life::Life;

impl Life<'_> {
    /// Brings the namespace to what is wanted; a failure is logged, and tried again at the next event.
    pub(super) async fn converge(&mut self) {
        match self.network.converge().await {
            Ok(converged) => self.set_uplink(converged.uplink),
            Err(error) => tracing::error!(code = error.code(), fix = error.fix(), "{error}"),
        }
    }

    pub(super) fn set_uplink(&mut self, uplink: UplinkState) {
        self.uplink = uplink;
        let index = match uplink {
            UplinkState::Up { ifindex, .. } => Some(ifindex),
            UplinkState::WaitingForParent => {
                tracing::warn!(
                    code = "W-NET-PARENT-ABSENT",
                    fix = "plug it in, or correct network.interface",
                    interface = self.config.network.interface,
                    "the host has no such interface; it is taken up when it appears"
                );
                None
            }
        };
        if let Err(error) = self.tunnel.set_uplink(index) {
            tracing::error!(code = "E-TUNNEL-SOCKET-OPTION", fix = "restart the node", %error, "cannot bind the mesh's socket to the uplink");
        }
    }

    pub(super) async fn on_network(&mut self, event: NetworkEvent) {
        match event {
            NetworkEvent::Addresses(addresses) => {
                // Peers hear from the new addresses at once, not at the next keepalive.
                self.tunnel.moved();
                self.usable.clone_from(&addresses);
                self.mesh.command(Command::Addresses(addresses));
            }
            NetworkEvent::PodRoutes(routes) => {
                let changes = self.peers.route(routes);
                self.apply(changes);
            }
            NetworkEvent::DuplicateAddress(address) => {
                tracing::error!(code = "E-NET-ADDR-DUP", fix = "change one of the two", %address, "another machine on this network has this address");
                self.duplicates.insert(address);
            }
            NetworkEvent::AddressPending(address) => {
                let fix = format!(
                    "check the cable and that {} is up",
                    self.config.network.interface
                );
                tracing::warn!(code = "W-NET-ADDR-PENDING", fix, %address, "this address is not usable yet");
            }
            NetworkEvent::Parent(change) => {
                tracing::info!(
                    interface = self.config.network.interface,
                    ?change,
                    "the host's interface changed"
                );
                self.duplicates.clear();
                self.converge().await;
            }
            NetworkEvent::HostLink => {
                tracing::info!("the link between host and node follows what changed");
                self.converge().await;
            }
            NetworkEvent::UplinkGone | NetworkEvent::FirewallGone | NetworkEvent::Drift => {
                tracing::warn!(
                    code = "W-NET-DRIFT",
                    fix = "stop what else changes the node's network",
                    ?event,
                    "someone changed the node's network; it is put back"
                );
                self.converge().await;
            }
        }
    }
}
