//! Throughput, measured without any program of the host.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use super::{Error, Space};

/// One TCP stream from one space to another for about `time`: bits of payload a second, as the
/// receiver counts them. `address` is the receiver's.
pub fn throughput(from: &Space, to: &Space, address: IpAddr, time: Duration) -> Result<f64, Error> {
    let failed = |error| Error::new(format!("cannot measure throughput to {address}"), error);
    let listener = to
        .run(|| TcpListener::bind(any(address)))?
        .map_err(failed)?;
    let port = listener.local_addr().map_err(failed)?.port();
    let patience = Duration::from_secs(5);
    let stream = from
        .run(|| TcpStream::connect_timeout(&SocketAddr::new(address, port), patience))?
        .map_err(failed)?;
    let received = thread::scope(|scope| {
        let receiver = scope.spawn(|| drain(&listener, patience));
        let sent = fill(stream, time);
        let received = receiver
            .join()
            .unwrap_or_else(|payload| std::panic::resume_unwind(payload));
        sent.and(received)
    });
    received.map_err(failed)
}

/// Bound to all addresses, so that an address that is still tentative does not matter.
fn any(family: IpAddr) -> SocketAddr {
    match family {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

fn fill(mut stream: TcpStream, time: Duration) -> io::Result<()> {
    let block = vec![0x5a; 256 << 10];
    stream.set_write_timeout(Some(Duration::from_secs(5)))?;
    let end = Instant::now() + time;
    while Instant::now() < end {
        stream.write_all(&block)?;
    }
    Ok(())
}

fn drain(listener: &TcpListener, patience: Duration) -> io::Result<f64> {
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(patience))?;
    let mut block = vec![0; 256 << 10];
    let mut bytes = 0u64;
    let start = Instant::now();
    loop {
        match stream.read(&mut block)? {
            // Exact to 2^53 bytes.
            0 => return Ok(bytes as f64 * 8.0 / start.elapsed().as_secs_f64()),
            length => bytes += length as u64,
        }
    }
}
