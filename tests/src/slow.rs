//! A long line: every frame between a home and the street arrives late by the same time.
//!
//! Not every kernel has a delaying queue, so frames pass through this process. TAPs, not packet
//! sockets, since those hand out frames whose checksum the sender's kernel left to the hardware.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use hepto_net::lab::{Home, Street};
use nix::libc;

nix::ioctl_write_int!(set_tap, b'T', 202);

/// Makes one home's line long for as long as the test runs.
#[derive(Debug)]
pub struct SlowLine;

impl SlowLine {
    /// Every frame from or to `home` takes `delay`, so that a round trip takes twice that.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn lay(street: &Street, home: &Home, delay: Duration) {
        let names = ["near", "far"].map(|end| format!("{end}-{}", home.door()));
        let open = || (tap(&names[0]), tap(&names[1]));
        let (near, far) = street.space().run(open).expect("the street can be entered");
        street
            .divert(home, &names[0], &names[1])
            .expect("the line can be diverted");
        let clone = |file: &File| file.try_clone().expect("a second descriptor");
        relay(clone(&near), clone(&far), delay);
        relay(far, near, delay);
    }
}

/// Carries frames one way, each after `delay`, until the test's process ends.
fn relay(mut from: File, mut to: File, delay: Duration) {
    let (queue, due) = mpsc::channel::<(Instant, Vec<u8>)>();
    thread::spawn(move || {
        let mut frame = vec![0; 65_536];
        while let Ok(length) = from.read(&mut frame) {
            if queue
                .send((Instant::now() + delay, frame[..length].to_vec()))
                .is_err()
            {
                return;
            }
        }
    });
    thread::spawn(move || {
        for (at, frame) in due {
            thread::sleep(at.saturating_duration_since(Instant::now()));
            // A link that is not up loses frames, as lines do.
            to.write_all(&frame).ok();
        }
    });
}

/// Makes a TAP in the network of the calling thread.
fn tap(name: &str) -> File {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .expect("/dev/net/tun opens");
    let mut request = [0u8; size_of::<libc::ifreq>()];
    request[..name.len()].copy_from_slice(name.as_bytes());
    let flags = libc::IFF_TAP | libc::IFF_NO_PI;
    request[libc::IFNAMSIZ..libc::IFNAMSIZ + 2].copy_from_slice(&(flags as u16).to_ne_bytes());
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, as large as `request`, which outlives the call.
    unsafe { set_tap(file.as_raw_fd(), request.as_mut_ptr() as libc::c_ulong) }
        .expect("TUNSETIFF makes a TAP");
    file
}
