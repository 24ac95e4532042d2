//! Asks another node about the way to it: whether it is there, whether it reaches a port of ours, how much a packet holds.
//!
//! Blocking, from the network of the calling thread. Who asks holds the overlay key and is no member; what he may cause is
//! bounded by who is asked (`hepto_mesh::seal::probe`).

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hepto_mesh::asker::{Asker, Heard};
use hepto_mesh::core::BootId;
use hepto_mesh::key::Derived;
use hepto_mesh::seal::MAGIC;
use hepto_mesh::seal::probe::QUESTION_MIN;
use hepto_net::datagram::Line;
use rand_core::Rng;
use rustix::io::Errno;

use crate::secret::SystemRandom;

/// How long an answer may take, for each of [`TRIES`].
const ANSWER: Duration = Duration::from_secs(1);
const TRIES: usize = 3;
/// How often a dial-back is asked for: an anchor grants four at once.
const DIALS: usize = 2;

/// From a port of ours to an address.
pub struct Way {
    remote: SocketAddr,
    line: Line,
    asker: Asker,
}

/// What came of a HELLO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Greeting {
    /// A node with the same overlay key answers.
    Alive {
        /// Where it saw us.
        observed: SocketAddr,
        /// Its run: two addresses of one node say the same.
        boot: BootId,
    },
    /// The machine says that nothing listens there.
    Closed,
    /// Nobody answers.
    Silent,
}

/// What came of a question that asked for a dial-back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DialBack {
    /// It arrived, from a port that we had sent nothing to.
    Reached,
    /// It was sent and did not arrive.
    Blocked,
    /// It was not sent: there were too many of late, or the node is of a version that knows none.
    Refused,
}

/// How large a packet may be on a way, its IP header included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathMtu {
    /// So many bytes and no more.
    Exact(u16),
    /// So many at least: our own link, or an Ethernet frame, holds no more.
    AtLeast(u16),
    /// Not even [`LEAST`].
    Below,
    /// The node is of a version that answers no such question, or is asked too much.
    Unknown,
}

impl PathMtu {
    /// The `network.mtu` that this way bears. The tunnel leaves room for an outer header of IPv6, and that of IPv4 is 20
    /// bytes shorter.
    pub fn bears(self, v6: bool) -> Option<u16> {
        match self {
            PathMtu::Exact(bytes) | PathMtu::AtLeast(bytes) if v6 => Some(bytes),
            PathMtu::Exact(bytes) | PathMtu::AtLeast(bytes) => Some((bytes + 20).min(MOST)),
            PathMtu::Below | PathMtu::Unknown => None,
        }
    }
}

impl std::fmt::Display for PathMtu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            PathMtu::Exact(bytes) => write!(f, "{bytes}"),
            PathMtu::AtLeast(bytes) => write!(f, "{bytes} or more"),
            PathMtu::Below => write!(f, "less than {LEAST}"),
            PathMtu::Unknown => write!(f, "unknown"),
        }
    }
}

/// The smallest MTU that IPv6 allows (RFC 8200 §5), bytes.
pub const LEAST: u16 = 1280;
/// What an Ethernet frame holds, bytes: no more is tried.
pub const MOST: u16 = 1500;

/// What became of a packet of one size.
#[derive(PartialEq, Eq)]
enum Tried {
    Arrived,
    Lost,
    /// Larger than our own link.
    NotSent,
}

impl Way {
    /// From `port` (0: a free one).
    ///
    /// # Errors
    /// No way there, no CAP_NET_RAW, or a kernel without that family.
    pub fn open(keys: &Derived, port: u16, remote: SocketAddr) -> io::Result<Way> {
        let mut seed = [0; 32];
        SystemRandom.fill_bytes(&mut seed);
        Ok(Way {
            remote,
            line: Line::open(port, remote, MAGIC)?,
            asker: Asker::new(keys, seed),
        })
    }

    /// Says HELLO until it is answered.
    ///
    /// # Errors
    /// The kernel's: no route.
    pub fn greet(&mut self) -> io::Result<Greeting> {
        let mut closed = false;
        for _ in 0..TRIES {
            let hello = self.asker.hello();
            match self
                .line
                .send(&hello)
                .and_then(|()| self.hear(ANSWER, |heard| matches!(heard, Heard::Alive { .. })))
            {
                Ok(Some(Heard::Alive { observed, boot })) => {
                    return Ok(Greeting::Alive { observed, boot });
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    closed = true;
                    // It may be about to start.
                    std::thread::sleep(ANSWER / 4);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(if closed {
            Greeting::Closed
        } else {
            Greeting::Silent
        })
    }

    /// Asks to be dialled back at the port `outside`, which a gateway hands on to the port `inside`, or which is the same.
    ///
    /// # Errors
    /// The kernel's.
    pub fn dial_back(&mut self, outside: u16, inside: u16) -> io::Result<DialBack> {
        let door = Line::listen(inside, self.remote.is_ipv6(), MAGIC)?;
        let mut outcome = DialBack::Refused;
        for _ in 0..DIALS {
            let question = self.asker.question(QUESTION_MIN, Some(outside));
            self.line.send(&question)?;
            let answered = |heard: &Heard| matches!(heard, Heard::Arrived { .. });
            if let Some(Heard::Arrived { dialled: true, .. }) = self.hear(ANSWER, answered)? {
                let until = Instant::now() + ANSWER;
                while let Some((_, datagram)) =
                    door.receive(until.saturating_duration_since(Instant::now()))?
                {
                    if self.asker.read(&datagram) == Some(Heard::Reached) {
                        return Ok(DialBack::Reached);
                    }
                }
                outcome = DialBack::Blocked;
            }
        }
        Ok(outcome)
    }

    /// Searches the largest packet that arrives, by halves: at most ten sizes, each sent three times before it counts as
    /// lost. Answers are small, so only the way there is measured.
    ///
    /// # Errors
    /// The kernel's.
    pub fn mtu(&mut self) -> io::Result<PathMtu> {
        let Some(patience) = self.round_trip()? else {
            return Ok(PathMtu::Unknown);
        };
        let mut carries = |size: u16| self.carries(size, patience);
        if carries(LEAST)? != Tried::Arrived {
            return Ok(PathMtu::Below);
        }
        let most = carries(MOST)?;
        if most == Tried::Arrived {
            return Ok(PathMtu::AtLeast(MOST));
        }
        let (mut arrives, mut fails, mut ours) = (LEAST, MOST, most == Tried::NotSent);
        while fails - arrives > 1 {
            let size = arrives.midpoint(fails);
            match carries(size)? {
                Tried::Arrived => arrives = size,
                tried => (fails, ours) = (size, tried == Tried::NotSent),
            }
        }
        Ok(match ours {
            true => PathMtu::AtLeast(arrives),
            false => PathMtu::Exact(arrives),
        })
    }

    /// How long to wait for answers: some times what one took.
    fn round_trip(&mut self) -> io::Result<Option<Duration>> {
        for _ in 0..TRIES {
            let question = self.asker.question(QUESTION_MIN, None);
            let sent = Instant::now();
            self.line.send(&question)?;
            if self
                .hear(ANSWER, |heard| matches!(heard, Heard::Arrived { .. }))?
                .is_some()
            {
                return Ok(Some((sent.elapsed() * 4).clamp(ANSWER / 4, ANSWER)));
            }
        }
        Ok(None)
    }

    fn carries(&mut self, size: u16, patience: Duration) -> io::Result<Tried> {
        let headers = if self.remote.is_ipv6() { 48 } else { 28 };
        let length = usize::from(size) - headers;
        let arrived = |heard: &Heard| matches!(heard, Heard::Arrived { length: arrived, .. } if *arrived == length);
        for _ in 0..TRIES {
            let question = self.asker.question(length, None);
            let answer = self
                .line
                .send(&question)
                .map(|()| self.hear(patience, arrived));
            match answer {
                Ok(Ok(Some(_))) => return Ok(Tried::Arrived),
                Ok(Ok(None)) => {}
                // A router said so; it may have been anyone, so the packet is tried again.
                Ok(Err(error)) if is_too_large(&error) => {}
                Err(error) if is_too_large(&error) => {
                    return Ok(Tried::NotSent);
                }
                Ok(Err(error)) | Err(error) => return Err(error),
            }
        }
        Ok(Tried::Lost)
    }

    /// The first answer that is `wanted`.
    fn hear(
        &mut self,
        patience: Duration,
        wanted: impl Fn(&Heard) -> bool,
    ) -> io::Result<Option<Heard>> {
        let until = Instant::now() + patience;
        while let Some((_, datagram)) = self
            .line
            .receive(until.saturating_duration_since(Instant::now()))?
        {
            if let Some(heard) = self.asker.read(&datagram).filter(&wanted) {
                return Ok(Some(heard));
            }
        }
        Ok(None)
    }
}

fn is_too_large(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::MSGSIZE)
}
