//! A TCP stream layer for memberlist that cannot be made to run out of memory.
//!
//! memberlist allocates whatever length it reads from the wire, and does so before it decrypts: six bytes from anyone
//! who reaches the port abort the process. Here a frame's length is judged as it is read, before memberlist sees it,
//! and connections are counted, in all and by address. Nothing but encrypted frames passes.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use memberlist::net::stream_layer::{Listener, PromisedStream, StreamLayer};
use memberlist::proto::{ProtoReader, ProtoWriter};
use memberlist::tokio::TokioTcp;
use memberlist::transport::Connection;

/// The longest encrypted frame, in bytes: 256 members of about 550 bytes each are 141 kB.
const MAX_FRAME: u32 = 256 * 1024;
/// Incoming connections at once.
const MAX_CONNECTIONS: usize = 32;
/// Incoming connections at once from one address.
const MAX_PER_ADDRESS: usize = 4;

/// First byte of memberlist's label header: tag, length, label (memberlist-proto 0.3, `LABELED_MESSAGE_TAG`).
const LABEL_TAG: u8 = 12;
/// First byte of memberlist's encryption header: tag, algorithm, big-endian u32 length (`ENCRYPTED_MESSAGE_TAG`).
const ENCRYPTED_TAG: u8 = 15;
/// Bytes of the encryption header.
const ENCRYPTED_HEADER: usize = 6;
/// The label header at its longest: tag, length, 255 bytes.
const LABEL_HEADER: usize = 2 + 255;

type Inner = <TokioTcp as StreamLayer>::Stream;
type InnerListener = <TokioTcp as StreamLayer>::Listener;
type InnerReader = <Inner as Connection>::Reader;
type InnerWriter = <Inner as Connection>::Writer;

/// Counts connections and turns away those above the limits.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    open: Mutex<Open>,
    refused_connections: AtomicU64,
    refused_frames: AtomicU64,
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
}

impl Gate {
    /// Incoming connections that were closed at once because a limit was reached.
    pub fn refused_connections(&self) -> u64 {
        self.0.refused_connections.load(Ordering::Relaxed)
    }

    /// Frames that were refused: too long, or not encrypted.
    pub fn refused_frames(&self) -> u64 {
        self.0.refused_frames.load(Ordering::Relaxed)
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        // The counts are changed in single steps: a panic elsewhere cannot leave them half-way.
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, address: IpAddr) -> Option<Permit> {
        let mut open = self.open();
        let here = open.by_address.get(&address).copied().unwrap_or(0);
        if open.total >= MAX_CONNECTIONS || here >= MAX_PER_ADDRESS {
            self.0.refused_connections.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        open.total += 1;
        open.by_address.insert(address, here + 1);
        Some(Permit {
            gate: self.clone(),
            address,
        })
    }
}

/// One counted connection; dropping it gives the place back.
struct Permit {
    gate: Gate,
    address: IpAddr,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut open = self.gate.open();
        open.total -= 1;
        match open.by_address.get_mut(&self.address) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                open.by_address.remove(&self.address);
            }
        }
    }
}

/// Where a connection stands in the one frame that it may carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing read: a label or the encryption header follows.
    Opening,
    /// The label was read: the encryption header follows.
    Labelled,
    /// The header was read: so many bytes follow, and the cipher's nonce and tag.
    Body(usize),
    /// The frame was read. memberlist sends one frame each way.
    Spent,
}

impl Stage {
    /// Room for what the cipher adds to a frame: nonce, tag, padding.
    const CIPHER: usize = 64;

    /// Judges how much the next read asks for, before it is done.
    fn admit(self, wanted: usize) -> io::Result<()> {
        let most = match self {
            Stage::Opening => LABEL_HEADER,
            Stage::Labelled => ENCRYPTED_HEADER,
            Stage::Body(length) => length + Stage::CIPHER,
            Stage::Spent => 0,
        };
        if wanted > most {
            Err(refusal("more than the frame holds was asked for"))
        } else {
            Ok(())
        }
    }

    /// Judges what was read.
    fn after(self, bytes: &[u8]) -> io::Result<Stage> {
        match (self, bytes) {
            (Stage::Opening, [LABEL_TAG, _, ..]) => Ok(Stage::Labelled),
            (Stage::Opening | Stage::Labelled, &[ENCRYPTED_TAG, _, a, b, c, d]) => {
                let length = u32::from_be_bytes([a, b, c, d]);
                if length > MAX_FRAME {
                    return Err(refusal("the frame is longer than 256 KiB"));
                }
                // u32 fits usize on every target that Linux runs a mesh on.
                Ok(Stage::Body(length as usize))
            }
            (Stage::Body(_), _) => Ok(Stage::Spent),
            _ => Err(refusal("the frame is not encrypted")),
        }
    }
}

fn refusal(why: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("gossip connection refused: {why}"),
    )
}

/// The guarded TCP layer.
pub struct GuardedTcp {
    tcp: TokioTcp,
    gate: Gate,
}

impl StreamLayer for GuardedTcp {
    type Runtime = <TokioTcp as StreamLayer>::Runtime;
    type Listener = GuardedListener;
    type Stream = GuardedStream;
    type Options = Gate;

    async fn new(gate: Gate) -> io::Result<Self> {
        Ok(GuardedTcp {
            tcp: <TokioTcp as StreamLayer>::new(()).await?,
            gate,
        })
    }

    async fn connect(&self, address: SocketAddr) -> io::Result<GuardedStream> {
        let stream = self.tcp.connect(address).await?;
        Ok(GuardedStream::new(stream, self.gate.clone(), None))
    }

    async fn bind(&self, address: SocketAddr) -> io::Result<GuardedListener> {
        Ok(GuardedListener {
            listener: self.tcp.bind(address).await?,
            gate: self.gate.clone(),
        })
    }

    fn is_secure() -> bool {
        false
    }
}

/// Accepts while there is room, and closes what comes above it.
pub struct GuardedListener {
    listener: InnerListener,
    gate: Gate,
}

impl Listener for GuardedListener {
    type Stream = GuardedStream;

    async fn accept(&self) -> io::Result<(GuardedStream, SocketAddr)> {
        loop {
            let (stream, address) = self.listener.accept().await?;
            if let Some(permit) = self.gate.enter(address.ip()) {
                return Ok((
                    GuardedStream::new(stream, self.gate.clone(), Some(permit)),
                    address,
                ));
            }
        }
    }

    fn local_addr(&self) -> SocketAddr {
        self.listener.local_addr()
    }

    async fn shutdown(&self) -> io::Result<()> {
        self.listener.shutdown().await
    }
}

/// A connection either way, split from its beginning so that every read passes the guard.
pub struct GuardedStream {
    reader: GuardedReader,
    writer: InnerWriter,
    local: SocketAddr,
    peer: SocketAddr,
}

impl GuardedStream {
    fn new(stream: Inner, gate: Gate, permit: Option<Permit>) -> Self {
        let (local, peer) = (stream.local_addr(), stream.peer_addr());
        let (reader, writer) = stream.split();
        GuardedStream {
            reader: GuardedReader {
                reader,
                stage: Stage::Opening,
                gate,
                _permit: permit,
            },
            writer,
            local,
            peer,
        }
    }
}

impl PromisedStream for GuardedStream {
    type Instant = <Inner as PromisedStream>::Instant;

    fn local_addr(&self) -> SocketAddr {
        self.local
    }

    fn peer_addr(&self) -> SocketAddr {
        self.peer
    }
}

impl Connection for GuardedStream {
    type Reader = GuardedReader;
    type Writer = InnerWriter;

    fn split(self) -> (GuardedReader, InnerWriter) {
        (self.reader, self.writer)
    }

    fn read(&mut self, buffer: &mut [u8]) -> impl Future<Output = io::Result<usize>> + Send {
        ProtoReader::read(&mut self.reader, buffer)
    }

    fn read_exact(&mut self, buffer: &mut [u8]) -> impl Future<Output = io::Result<()>> + Send {
        ProtoReader::read_exact(&mut self.reader, buffer)
    }

    fn peek(&mut self, buffer: &mut [u8]) -> impl Future<Output = io::Result<usize>> + Send {
        ProtoReader::peek(&mut self.reader, buffer)
    }

    fn peek_exact(&mut self, buffer: &mut [u8]) -> impl Future<Output = io::Result<()>> + Send {
        ProtoReader::peek_exact(&mut self.reader, buffer)
    }

    fn write_all(&mut self, payload: &[u8]) -> impl Future<Output = io::Result<()>> + Send {
        ProtoWriter::write_all(&mut self.writer, payload)
    }

    fn flush(&mut self) -> impl Future<Output = io::Result<()>> + Send {
        ProtoWriter::flush(&mut self.writer)
    }

    fn close(&mut self) -> impl Future<Output = io::Result<()>> + Send {
        ProtoWriter::close(&mut self.writer)
    }
}

/// Reads one encrypted frame and nothing else.
pub struct GuardedReader {
    reader: InnerReader,
    stage: Stage,
    gate: Gate,
    _permit: Option<Permit>,
}

impl GuardedReader {
    fn count<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if result.is_err() {
            self.gate.0.refused_frames.fetch_add(1, Ordering::Relaxed);
        }
        result
    }
}

impl ProtoReader for GuardedReader {
    /// memberlist reads frames by exact lengths alone; a read of "some bytes" would pass the guard by.
    async fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        self.count(Err(refusal("frames are read by exact lengths")))
    }

    async fn read_exact(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.count(self.stage.admit(buffer.len()))?;
        ProtoReader::read_exact(&mut self.reader, buffer).await?;
        self.stage = self.count(self.stage.after(buffer))?;
        Ok(())
    }

    async fn peek(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.count(self.stage.admit(buffer.len()))?;
        ProtoReader::peek(&mut self.reader, buffer).await
    }

    async fn peek_exact(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.count(self.stage.admit(buffer.len()))?;
        ProtoReader::peek_exact(&mut self.reader, buffer).await
    }
}

#[cfg(test)]
mod tests;
