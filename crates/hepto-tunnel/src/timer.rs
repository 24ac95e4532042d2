//! `hepto-timer`: lets time pass for every peer, four times a second.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::time::Instant;

use crate::address::Endpoint;
use crate::counter::Reason;
use crate::peer::Peer;
use crate::protocol::HANDSHAKE;
use crate::tunnel::Shared;

/// Between two ticks, in milliseconds: the accuracy of every timeout.
const TICK: u32 = 250;

/// Ticks until the tunnel stops.
pub(crate) fn run(shared: &Shared) {
    let mut out = [0; HANDSHAKE];
    let mut live = HashSet::new();
    while !shared.stop.wait(TICK) {
        shared.pulses.timer.beat();
        shared.door.new_second();
        live.clear();
        let now = Instant::now();
        let (mut changed, mut blocked) = (false, false);
        for entry in shared.table.load().entries() {
            let ticked = entry.peer.tick(now, &shared.patience, &mut out);
            changed |= ticked.changed;
            live.extend(ticked.live);
            shared.meter.drop(Reason::NoSession, ticked.dropped);
            if let Some((length, endpoint)) = ticked.message {
                send(&out[..length], endpoint, &mut blocked, &entry.peer, shared);
            }
        }
        if **shared.live.load() != live {
            shared.live.store(live.clone().into());
        }
        if changed {
            shared.changed.raise();
        }
    }
}

/// Sends what a tick wrote. It waits for room at most once a tick, not once a peer.
fn send(message: &[u8], endpoint: Endpoint, blocked: &mut bool, peer: &Peer, shared: &Shared) {
    let sent = if *blocked {
        shared.socket.try_send(message, &endpoint)
    } else {
        shared.socket.send(message, &endpoint)
    };
    match sent {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::WouldBlock => *blocked = true,
        // Our address may have gone; without it the next attempt leaves from another.
        Err(_) => peer.unbind(Some(endpoint)),
    }
}
