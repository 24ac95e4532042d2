//! The threads of a tunnel do not allocate while packets flow, and a peer takes little. A binary of its own, since it
//! counts for the process. What it counts has boringtun's share in it.
#![allow(unsafe_code)] // An allocator, and what `home` needs.

#[path = "../tunnel/home.rs"]
#[allow(dead_code)] // The other test binary uses all of it.
mod home;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};
use home::{MTU, Node, PSK, SOON, homes, pair, private, public, receive, wait};

/// What a peer may take, in bytes.
const PEER: i64 = 32 * 1024;

/// Counts allocations of threads named `hepto-…`, and the bytes that all threads hold.
struct Counting;

static COUNT: AtomicU64 = AtomicU64::new(0);
static HELD: AtomicI64 = AtomicI64::new(0);

/// One test at a time: the numbers are the process's.
static ALONE: Mutex<()> = Mutex::new(());

thread_local! {
    static OURS: Cell<Option<bool>> = const { Cell::new(None) };
}

fn count() {
    let ours = OURS.with(|ours| {
        ours.get().unwrap_or_else(|| {
            let mut name = [0u8; 16];
            // SAFETY: PR_GET_NAME writes at most 16 bytes. It does not allocate, unlike std's way to the name.
            unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
            let found = name.starts_with(b"hepto-");
            // A thread allocates before it has its name.
            if found {
                ours.set(Some(true));
            }
            found
        })
    });
    COUNT.fetch_add(u64::from(ours), Ordering::Relaxed);
}

// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        HELD.fetch_add(layout.size() as i64, Ordering::Relaxed);
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size() as i64, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        HELD.fetch_add(size as i64 - layout.size() as i64, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn stream(near: &mut TcpStream, far: &mut TcpStream, bytes: usize) {
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let chunk = vec![7; 50_000];
            for _ in 0..bytes / chunk.len() {
                near.write_all(&chunk).expect("the stream lives");
            }
        });
        let mut buffer = vec![0; 1 << 16];
        let mut at = 0;
        while at < bytes / 50_000 * 50_000 {
            at += far.read(&mut buffer).expect("it arrives");
        }
    });
}

fn datagrams(from: &UdpSocket, to: &UdpSocket, count: usize) {
    let (payload, mut buffer) = (vec![3; MTU - 28], vec![0; 2048]);
    for number in 0..count {
        let length = if number % 3 == 0 { 1 } else { payload.len() };
        from.send(&payload[..length]).expect("sent");
        assert_eq!(to.recv(&mut buffer).expect("it arrives"), length);
    }
}

#[test]
fn packets_cost_no_allocation() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (a, b) = pair();
    let listener = b
        .home
        .run(|| TcpListener::bind("10.44.0.2:7000").expect("a port"));
    let mut near = a
        .home
        .run(|| TcpStream::connect("10.44.0.2:7000").expect("a connection"));
    let (mut far, _) = listener.accept().expect("the connection");
    let (from, to) = (a.home.udp("10.44.0.1:0"), b.home.udp("10.44.0.2:7001"));
    from.connect("10.44.0.2:7001").expect("an address");
    to.set_read_timeout(Some(SOON)).expect("a timeout");

    // Buffers are touched, the set of live addresses is made, sessions are known.
    stream(&mut near, &mut far, 5_000_000);
    datagrams(&from, &to, 100);
    std::thread::sleep(Duration::from_millis(600));
    let before = COUNT.load(Ordering::Relaxed);
    assert!(before > 0, "it does count");

    stream(&mut near, &mut far, 20_000_000);
    datagrams(&from, &to, 3000);
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!(COUNT.load(Ordering::Relaxed) - before, 0);
    wait("the packets to be counted", SOON, || {
        a.report(2).tx_packets > 15_000
    });
}

/// The other end of one of the hub's peers: a session and nothing else.
fn far(number: u8) -> Tunn {
    let secret = StaticSecret::from(private(number));
    Tunn::new(
        secret,
        PublicKey::from(public(1)),
        Some(PSK),
        None,
        u32::from(number),
        None,
    )
}

/// Makes a session of `far` with the hub, also when that asks for a cookie first.
fn shake(far: &mut Tunn, socket: &UdpSocket) {
    let (mut datagram, mut out) = ([0; 2048], [0; 2048]);
    let sent = |bytes: &[u8]| {
        socket.send(bytes).expect("sent");
    };
    loop {
        match far.format_handshake_initiation(&mut out, true) {
            TunnResult::WriteToNetwork(initiation) => sent(initiation),
            other => panic!("no initiation: {other:?}"),
        }
        // What waited for a session of another may come in between.
        while let Ok((length, _)) = receive(socket, &mut datagram) {
            match far.decapsulate(None, &datagram[..length], &mut out) {
                TunnResult::WriteToNetwork(confirmation) => return sent(confirmation),
                TunnResult::Done => break,
                _ => {}
            }
        }
    }
}

#[test]
fn a_peer_takes_little() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (near, home) = homes();
    home.ip("addr add 192.0.2.2/24 dev wire");
    home.ip("link set wire up");
    let hub = Node::start(near, 1, |_| {});
    let socket = home.udp("192.0.2.2:0");
    socket.connect("192.0.2.1:51820").expect("an address");
    let patience = Some(Duration::from_millis(500));
    socket.set_read_timeout(patience).expect("a timeout");
    let from = hub.home.udp("10.44.0.1:0");
    let mut ends: Vec<(u8, Tunn)> = (2..102).map(|number| (number, far(number))).collect();
    let before = HELD.load(Ordering::Relaxed);
    let mut known = 0;
    for count in [1, 10, 100] {
        let take = |what: &str| {
            let each = (HELD.load(Ordering::Relaxed) - before) / count as i64;
            assert!(
                (1..=PEER).contains(&each),
                "each of {count} takes {each} bytes {what}"
            );
        };
        let new = known..count;
        for (number, _) in &ends[new.clone()] {
            hub.know(*number, PSK);
        }
        wait("full queues", SOON, || {
            let waiting = |number| hub.report(number).queued < 8;
            let poor = ends[new.clone()].iter().filter(|end| waiting(end.0));
            let numbers: Vec<u8> = poor.map(|end| end.0).collect();
            for number in &numbers {
                from.send_to(&[0; MTU - 28], format!("10.44.0.{number}:9"))
                    .expect("it waits");
            }
            numbers.is_empty()
        });
        take("while its packets wait for a session");
        for (_, end) in &mut ends[new.clone()] {
            shake(end, &socket);
        }
        wait("sessions", SOON, || {
            let reports = hub.tunnel.peers();
            reports
                .iter()
                .all(|report| report.last_handshake.is_some() && report.queued == 0)
        });
        take("with a session");
        known = count;
    }
}
