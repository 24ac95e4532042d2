//! An agent's part: keeps what the master brings, and takes nothing from anyone else.

use std::net::{IpAddr, Ipv6Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use hepto_mesh::name::NodeName;

use super::Shared;
use super::parcel;
use super::shelf::{Bounds, Shelf};
use crate::config::SNAPSHOT_PORT;
use crate::status::Problem;

/// Between two tries to listen.
const RETRY: Duration = Duration::from_secs(5);

/// Runs until the node stops.
pub(super) fn run(shared: &Shared, shelf: &Shelf, master: &NodeName, bounds: Bounds) {
    let mut listener: Option<(Ipv6Addr, TcpListener)> = None;
    shared.lock().report.kept = shelf.list();
    while !shared.ends() {
        let own = shared.lock().own;
        // The address can change once, before k3s first starts.
        if listener.as_ref().map(|(address, _)| *address) != own {
            listener = None;
        }
        if listener.is_none() {
            listener = own.and_then(|own| Some((own, listen(shared, own)?)));
        }
        let Some((_, socket)) = &listener else {
            shared.wait(None, own.map(|_| Instant::now() + RETRY));
            continue;
        };
        shared.wait(Some(socket), None);
        // One at a time: the master sends one at a time.
        while let Ok((stream, from)) = socket.accept() {
            if shared.ends() {
                return;
            }
            serve(shared, shelf, master, bounds, stream, from.ip());
        }
    }
}

fn listen(shared: &Shared, own: Ipv6Addr) -> Option<TcpListener> {
    let opened = TcpListener::bind((own, SNAPSHOT_PORT)).and_then(|socket| {
        socket.set_nonblocking(true)?;
        Ok(socket)
    });
    let mut state = shared.lock();
    match opened {
        Ok(socket) => {
            state.report.trouble = None;
            Some(socket)
        }
        Err(error) => {
            state.report.trouble = Some(Problem {
                code: "E-SNAPSHOT-LISTEN".into(),
                what: format!(
                    "cannot take the master's snapshots at [{own}]:{SNAPSHOT_PORT}: {error}"
                ),
                fix: Some("see what else listens there: hepto-node exec --net -- ss -ltnp".into()),
            });
            None
        }
    }
}

fn serve(
    shared: &Shared,
    shelf: &Shelf,
    master: &NodeName,
    bounds: Bounds,
    stream: TcpStream,
    from: IpAddr,
) {
    // The tunnel lets a peer send from its own computed addresses alone, so the address is the proof.
    let expected = shared.lock().members.get(master).copied();
    if Some(from) != expected.map(IpAddr::V6) {
        shared.lock().report.strangers += 1;
        return tracing::debug!(%from, "hung up: only the master brings snapshots");
    }
    if stream.set_nonblocking(false).is_err() {
        return;
    }
    shared.lock().report.doing = Some(format!("takes one from {master}"));
    let taken = parcel::receive(stream, shelf, master, bounds, &shared.ends);
    let mut state = shared.lock();
    state.report.doing = None;
    state.report.kept = shelf.list();
    match taken {
        Ok(kept) => {
            state.report.trouble = None;
            tracing::info!(
                name = kept.name,
                bytes = kept.size,
                "the master's snapshot is kept"
            );
        }
        Err(why) => {
            let (code, fix) = (
                "W-SNAPSHOT-NOT-KEPT",
                "make room in node.storage or raise snapshot.space; the master tries again",
            );
            tracing::warn!(code, fix, why, "the master's snapshot was not kept");
            state.report.trouble = Some(Problem {
                code: code.into(),
                what: format!("a snapshot of {master} was not kept: {why}"),
                fix: Some(fix.into()),
            });
        }
    }
}
