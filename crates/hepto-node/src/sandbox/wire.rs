//! What supervisor, `sandbox` and init say to one another: one JSON value a message, on SEQPACKET sockets.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, bind, connect,
    listen, recv, send, socket_with, socketpair,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Event, Program};

/// The version of the messages below. init outlives its supervisor, so that the two may differ: a change
/// that the other side would not understand raises it.
pub const VERSION: u32 = 1;

/// No message is longer: a socket buffer holds it in one piece.
const LONGEST: usize = 128 * 1024;

/// What a client asks of init.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// The first message: who speaks, and whether it wants the events, those that led to the present state first.
    Hello { version: u32, watch: bool },
    /// Start a program.
    Spawn(Program),
    /// Signal a program.
    Signal { id: String, signal: i32 },
}

/// What init answers.
#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    /// To `Hello`, whatever its version.
    Hello {
        version: u32,
        programs: Vec<Running>,
    },
    /// To those that watch.
    Event(Event),
}

/// A program as init knows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Running {
    /// Its id.
    pub id: String,
    /// Path and arguments.
    pub argv: Vec<String>,
    /// Its pid inside; none when it has ended.
    pub pid: Option<i32>,
}

/// Two connected ends, for a parent and its child.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// init's listening socket; one left by an earlier init is replaced.
pub fn listener(path: &Path) -> io::Result<OwnedFd> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    listen(&socket, 8)?;
    Ok(socket)
}

/// A connection to init's socket.
pub fn client(path: &Path) -> io::Result<OwnedFd> {
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// Sends one message; `WouldBlock` on a non-blocking socket whose reader is slow.
pub fn put(socket: impl AsFd, message: &impl Serialize) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > LONGEST {
        return Err(io::Error::new(
            ErrorKind::InvalidInput,
            format!("a message of {} bytes is too long", bytes.len()),
        ));
    }
    send(socket, &bytes, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives one message; `UnexpectedEof` when the other side is gone.
pub fn get<M: DeserializeOwned>(socket: impl AsFd) -> io::Result<M> {
    let mut buffer = vec![0; LONGEST];
    let (length, _) = recv(socket, buffer.as_mut_slice(), RecvFlags::empty())?;
    if length == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&buffer[..length])?)
}
