//! `hepto-timer`: lets time pass for every peer, four times a second.

use std::collections::HashSet;
use std::time::Instant;

use crate::counter::Drop;
use crate::protocol::HANDSHAKE;
use crate::tunnel::Shared;

/// Between two ticks, in milliseconds: the accuracy of every timeout.
const TICK: u32 = 250;

/// Ticks until the tunnel stops.
pub(crate) fn run(shared: &Shared) {
    let mut out = [0; HANDSHAKE];
    let mut live = HashSet::new();
    while !shared.stop.wait(TICK) {
        shared.door.new_second();
        live.clear();
        let now = Instant::now();
        let mut changed = false;
        for entry in shared.table.load().entries() {
            let ticked = entry.peer.tick(now, &shared.patience, &mut out);
            changed |= ticked.changed;
            live.extend(ticked.live);
            shared.meter.drop(Drop::NoSession, ticked.dropped);
            if let Some((length, endpoint)) = ticked.message
                && shared.socket.send(&out[..length], &endpoint).is_err()
            {
                // Our address may have gone; without it the next attempt leaves from another.
                entry.peer.unbind(Some(endpoint));
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
