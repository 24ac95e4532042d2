//! One snapshot on its way from the master to an agent, over TCP inside the overlay.
//!
//! The master says in a line of JSON what it brings; the agent answers from which byte on it wants it, so that what was
//! cut goes on; the bytes follow; the agent answers that it keeps them, once length and digest hold and the file is
//! on its disk. WireGuard proves who speaks; what is in it, the agent cannot read.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hepto_mesh::name::NodeName;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::shelf::{self, Bounds, Kept, Shelf};

/// The version of the conversation.
const VERSION: u32 = 1;
/// The longest line, bytes.
const LONGEST_LINE: u64 = 1024;
/// How long the other side may be silent.
const SILENCE: Duration = Duration::from_secs(30);
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How much is read and written at a time, bytes.
const PIECE: usize = 16 * 1024;

/// What the master brings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    version: u32,
    /// The file's name.
    pub name: String,
    /// Its length, bytes.
    pub size: u64,
    /// Its SHA-256, hexadecimal.
    pub digest: String,
}

impl Offer {
    /// Of a snapshot on the shelf.
    ///
    /// # Errors
    /// The kernel's.
    pub fn of(shelf: &Shelf, kept: &Kept) -> io::Result<Offer> {
        Ok(Offer {
            version: VERSION,
            name: kept.name.clone(),
            size: kept.size,
            digest: shelf::digest(&mut File::open(shelf.path(&kept.name))?)?,
        })
    }
}

/// What the agent answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// It wants the bytes from here on.
    From(u64),
    /// It has it, whole and on its disk.
    Kept,
    /// It does not take it, and why.
    Refused(String),
}

/// Sends a snapshot to an agent, at most `rate` bytes a second, and waits until it keeps it. `progress` hears how many
/// bytes the agent has.
///
/// # Errors
/// A sentence: the agent cannot be reached, refuses, or the line was cut. What arrived stays there for the next time.
pub fn send(
    to: SocketAddr,
    shelf: &Shelf,
    offer: &Offer,
    rate: u64,
    ends: &AtomicBool,
    progress: &dyn Fn(u64),
) -> Result<(), String> {
    let mut stream = connect(to).map_err(|error| format!("cannot be reached: {error}"))?;
    let cut = |error: io::Error| format!("the transfer was cut: {error}");
    say(&mut stream, offer).map_err(cut)?;
    let from = match hear(&mut stream, CONNECT + SILENCE).map_err(cut)? {
        Answer::From(from) if from <= offer.size => from,
        Answer::From(from) => return Err(format!("asks for byte {from} of {}", offer.size)),
        Answer::Kept => return Ok(()),
        Answer::Refused(why) => return Err(format!("refuses: {why}")),
    };
    let mut file = File::open(shelf.path(&offer.name)).map_err(|error| error.to_string())?;
    file.seek(SeekFrom::Start(from))
        .map_err(|error| error.to_string())?;
    let (begin, mut sent, mut piece) = (Instant::now(), 0_u64, vec![0; PIECE]);
    loop {
        if ends.load(Ordering::Relaxed) {
            return Err("the node stops".into());
        }
        let count = file.read(&mut piece).map_err(|error| error.to_string())?;
        if count == 0 {
            break;
        }
        // An agent that refuses half-way says why before it hangs up.
        if let Err(error) = stream.write_all(&piece[..count]) {
            return match hear(&mut stream, CONNECT) {
                Ok(Answer::Refused(why)) => Err(format!("refuses: {why}")),
                _ => Err(cut(error)),
            };
        }
        sent += count as u64;
        progress(from + sent);
        // What was sent so far takes at least this long.
        let earliest = Duration::from_secs_f64(sent as f64 / rate as f64);
        std::thread::sleep(earliest.saturating_sub(begin.elapsed()));
    }
    // Its disk may be slow to sync.
    match hear(&mut stream, 4 * SILENCE).map_err(cut)? {
        Answer::Kept => Ok(()),
        Answer::Refused(why) => Err(format!("refuses: {why}")),
        Answer::From(_) => Err("answers out of turn".into()),
    }
}

fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, CONNECT)?;
    stream.set_write_timeout(Some(SILENCE))?;
    Ok(stream)
}

/// Takes a snapshot of the node `master` from a stream that was proved to be its own, and puts it on the shelf. Gives
/// what is kept now.
///
/// # Errors
/// A sentence: what was refused, or that the line was cut. The sender was told, too.
pub fn receive(
    mut stream: TcpStream,
    shelf: &Shelf,
    master: &NodeName,
    bounds: Bounds,
    ends: &AtomicBool,
) -> Result<Kept, String> {
    let cut = |error: io::Error| format!("the transfer was cut: {error}");
    let offer: Offer = hear(&mut stream, SILENCE).map_err(cut)?;
    let taken = acceptable(&offer, master, bounds)
        .and_then(|()| take(&mut stream, shelf, &offer, bounds, ends));
    let answer = match &taken {
        Ok(_) => Answer::Kept,
        Err(why) => Answer::Refused(why.clone()),
    };
    // A sender that has hung up asks again.
    let told = say(&mut stream, &answer);
    told.map_err(cut).and(taken)
}

fn acceptable(offer: &Offer, master: &NodeName, bounds: Bounds) -> Result<(), String> {
    if offer.version != VERSION {
        return Err(format!(
            "this node speaks version {VERSION}, not {}",
            offer.version
        ));
    }
    if shelf::named(&offer.name).is_none_or(|(of, _)| of != *master) {
        return Err(format!("{:?} is not a snapshot of {master}", offer.name));
    }
    if offer.digest.len() != 64 || !offer.digest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err("the digest is not SHA-256".into());
    }
    if offer.size == 0 || offer.size > bounds.space || bounds.keep == 0 {
        return Err(format!(
            "{} bytes are more than this node keeps for others ({} bytes)",
            offer.size, bounds.space
        ));
    }
    Ok(())
}

fn take(
    stream: &mut TcpStream,
    shelf: &Shelf,
    offer: &Offer,
    bounds: Bounds,
    ends: &AtomicBool,
) -> Result<Kept, String> {
    let disk = |error: io::Error| format!("its disk says: {error}");
    let kept = |name: &str| shelf.list().into_iter().find(|kept| kept.name == name);
    shelf.make().map_err(disk)?;
    if let Some(kept) = kept(&offer.name)
        && kept.size == offer.size
        && File::open(shelf.path(&kept.name))
            .and_then(|mut file| shelf::digest(&mut file))
            .is_ok_and(|digest| digest == offer.digest)
    {
        return Ok(kept);
    }
    // What was begun goes on, if it is the same; there is at most one.
    let draft = format!(".{}.part", &offer.digest[..32]);
    shelf.sweep(Some(&draft));
    let mut file = shelf.draft(&draft, false).map_err(disk)?;
    let mut have = file.seek(SeekFrom::End(0)).map_err(disk)?;
    if have > offer.size {
        file.set_len(0).and_then(|()| file.rewind()).map_err(disk)?;
        have = 0;
    }
    say(stream, &Answer::From(have)).map_err(|error| error.to_string())?;
    stream
        .set_read_timeout(Some(SILENCE))
        .map_err(|error| error.to_string())?;
    let mut piece = vec![0; PIECE];
    while have < offer.size {
        if ends.load(Ordering::Relaxed) {
            return Err("this node stops".into());
        }
        let wanted = usize::try_from(offer.size - have).map_or(PIECE, |rest| rest.min(PIECE));
        match stream.read(&mut piece[..wanted]) {
            Ok(0) => return Err(format!("the transfer was cut after {have} bytes")),
            Ok(count) => {
                file.write_all(&piece[..count]).map_err(disk)?;
                have += count as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(format!("the transfer was cut: {error}")),
        }
    }
    file.rewind().map_err(disk)?;
    if shelf::digest(&mut file).map_err(disk)? != offer.digest {
        shelf.sweep(None);
        return Err("what arrived has another digest; it was thrown away".into());
    }
    shelf.place(&draft, &offer.name, bounds).map_err(disk)?;
    kept(&offer.name).ok_or_else(|| "it is not there any more".into())
}

/// One line of JSON.
fn say(stream: &mut TcpStream, what: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    stream.set_write_timeout(Some(SILENCE))?;
    stream.write_all(&line)
}

/// The next line, byte by byte: what follows it is not JSON.
fn hear<T: DeserializeOwned>(stream: &mut TcpStream, patience: Duration) -> io::Result<T> {
    stream.set_read_timeout(Some(patience))?;
    let mut line = Vec::new();
    let mut reader = BufReader::with_capacity(1, stream).take(LONGEST_LINE);
    reader.read_until(b'\n', &mut line)?;
    if line.last() != Some(&b'\n') {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&line)?)
}

#[cfg(test)]
mod tests;
