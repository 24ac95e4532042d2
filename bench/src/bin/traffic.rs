//! Traffic that iperf3 does not make: `traffic send|count|ping|echo ADDRESS:PORT ...`. Results are a line of JSON.
//!
//! `send ADDRESS:PORT SIZE SECONDS` sends datagrams of SIZE bytes as fast as it can, `count ADDRESS:PORT` counts them
//! until 400 ms after the last. `ping ADDRESS:PORT SECONDS` sends one datagram, waits for it to come back from `echo
//! ADDRESS:PORT`, and sends the next; it tells the round trips' median and 99th percentile.
#![allow(unsafe_code)] // recvmmsg has no safe wrapper.

use std::io::{self, IoSlice};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, sendmmsg};

/// Datagrams a system call. More would make a burst that no real sender makes.
const BURST: usize = 32;

/// Bytes of a ping.
const PING: usize = 64;

/// Bytes that a receiver takes of a datagram, and datagrams of one receive.
const ROOM: usize = 2048;
const RECEIVE: usize = 64;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let usage = "usage: traffic send ADDRESS:PORT SIZE SECONDS | count ADDRESS:PORT | ping ADDRESS:PORT SECONDS | echo ADDRESS:PORT";
    match words[..] {
        ["send", to, size, seconds] => send(to.parse()?, size.parse()?, time(seconds)?),
        ["count", at] => count(at.parse()?),
        ["ping", to, seconds] => ping(to.parse()?, time(seconds)?),
        ["echo", at] => echo(at.parse()?),
        _ => anyhow::bail!(usage),
    }
}

fn time(seconds: &str) -> anyhow::Result<Duration> {
    Duration::try_from_secs_f64(seconds.parse()?).context("a time in seconds")
}

fn connect(to: SocketAddr) -> io::Result<UdpSocket> {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    Ok(socket)
}

fn send(to: SocketAddr, size: usize, duration: Duration) -> anyhow::Result<()> {
    let socket = connect(to)?;
    let payload = vec![0; size];
    let slices = [IoSlice::new(&payload)];
    let mut sent = 0;
    let start = Instant::now();
    while start.elapsed() < duration {
        let mut controls: [SendAncillaryBuffer; BURST] = Default::default();
        let mut messages: Vec<MMsgHdr> = controls
            .iter_mut()
            .map(|control| MMsgHdr::new(&slices, control))
            .collect();
        match sendmmsg(&socket, &mut messages, SendFlags::empty()) {
            Ok(taken) => sent += taken,
            // The queue of the tunnel is full, or the far end not there yet.
            Err(
                rustix::io::Errno::NOBUFS
                | rustix::io::Errno::CONNREFUSED
                | rustix::io::Errno::AGAIN,
            ) => {}
            Err(error) => return Err(error).context("cannot send"),
        }
    }
    println!(
        "{{\"sent\": {sent}, \"seconds\": {}}}",
        start.elapsed().as_secs_f64()
    );
    Ok(())
}

fn count(at: SocketAddr) -> anyhow::Result<()> {
    let socket = UdpSocket::bind(at)?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut buffers = vec![[0u8; ROOM]; RECEIVE];
    let mut iovecs: Vec<libc::iovec> = buffers
        .iter_mut()
        .map(|buffer| libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: ROOM,
        })
        .collect();
    let mut headers: Vec<libc::mmsghdr> = iovecs
        .iter_mut()
        .map(|iovec| {
            // SAFETY: plain old data, for which zeroes are a value.
            let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
            header.msg_hdr.msg_iov = iovec;
            header.msg_hdr.msg_iovlen = 1;
            header
        })
        .collect();
    let mut received = 0;
    loop {
        // SAFETY: every header points to its iovec and that to ROOM bytes, all of which live until the function's end.
        let taken = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                RECEIVE as libc::c_uint,
                libc::MSG_WAITFORONE as _,
                std::ptr::null_mut(),
            )
        };
        if taken <= 0 {
            break;
        }
        if received == 0 {
            socket.set_read_timeout(Some(Duration::from_millis(400)))?;
        }
        received += taken as u64;
    }
    println!("{{\"received\": {received}}}");
    Ok(())
}

fn ping(to: SocketAddr, duration: Duration) -> anyhow::Result<()> {
    let socket = connect(to)?;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    let (mut trips, mut lost) = (Vec::with_capacity(1 << 18), 0u64);
    let mut buffer = [0; ROOM];
    let start = Instant::now();
    let mut number = 0u64;
    while start.elapsed() < duration {
        number += 1;
        let mut payload = [0; PING];
        payload[..8].copy_from_slice(&number.to_le_bytes());
        let sent = Instant::now();
        socket.send(&payload)?;
        loop {
            match socket.recv(&mut buffer) {
                // One that had been given up may still come.
                Ok(_) if buffer[..8] != payload[..8] => {}
                Ok(_) => {
                    trips.push(sent.elapsed());
                    break;
                }
                Err(_) => {
                    lost += 1;
                    break;
                }
            }
        }
    }
    trips.sort_unstable();
    anyhow::ensure!(!trips.is_empty(), "no ping came back");
    let microseconds = |part: f64| {
        let index = ((trips.len() - 1) as f64 * part) as usize;
        trips[index].as_secs_f64() * 1e6
    };
    println!(
        "{{\"trips\": {}, \"lost\": {lost}, \"median_us\": {}, \"p99_us\": {}}}",
        trips.len(),
        microseconds(0.5),
        microseconds(0.99)
    );
    Ok(())
}

fn echo(at: SocketAddr) -> anyhow::Result<()> {
    let socket = UdpSocket::bind(at)?;
    let mut buffer = [0; ROOM];
    loop {
        let (length, from) = socket.recv_from(&mut buffer)?;
        socket.send_to(&buffer[..length], from)?;
    }
}
