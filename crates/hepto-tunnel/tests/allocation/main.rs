//! The threads of a tunnel do not allocate while packets flow. A binary of its own, since it counts for the process.
#![allow(unsafe_code)] // An allocator, and what `home` needs.

#[path = "../tunnel/home.rs"]
#[allow(dead_code)] // The other test binary uses all of it.
mod home;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use home::{MTU, SOON, pair, wait};

/// Counts allocations of threads named `hepto-…`.
struct Counting;

static COUNT: AtomicU64 = AtomicU64::new(0);

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
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
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
