//! PROBE: what a way carries, and whether a port is reached from outside. Behind the head:
//!
//! - a question: step 1, port 2 (0: no dial-back is asked for), zeros up to the length that is tried, at least [`QUESTION_MIN`].
//! - an answer: step 2, counter of the question 8, the address that it came from 18, the length that arrived 2, flags 1.
//! - a dial-back: step 3, counter of the question 8.
//!
//! A question counts with a token alone, so the address that it came from is proved, and that address is the only one that
//! is ever answered or dialled. Answer and dial-back together are shorter than any question. A dial-back leaves from a port
//! that was never asked from, so a gateway lets it in only if it would let in anyone.

use std::net::SocketAddr;

use super::message::{HEAD_LENGTH, HELLO_MIN, Head, Kind};
use super::{OVERHEAD, PROBE_MAX};
use crate::wire::{Reader, put_socket};

/// Shortest datagram of a question.
pub const QUESTION_MIN: usize = HELLO_MIN;
/// Flag of an answer: a dial-back is on its way.
pub const FLAG_DIALLED: u8 = 1;
/// Flag of an answer: no dial-back, there were too many of late.
pub const FLAG_LIMITED: u8 = 2;

const QUESTION: u8 = 1;
const ANSWER: u8 = 2;
const DIAL_BACK: u8 = 3;

/// A PROBE behind its head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// Asks whether this datagram arrives.
    Question {
        /// The port to dial back to.
        dial: Option<u16>,
    },
    /// Says that it did.
    Answer(Answer),
    /// Comes from where nobody was asked.
    DialBack {
        /// Counter of the question.
        echo: u64,
    },
}

/// What an answer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Counter of the question.
    pub echo: u64,
    /// Where the question came from.
    pub observed: SocketAddr,
    /// Bytes of its datagram.
    pub length: u16,
    /// `FLAG_…`; unknown ones are ignored.
    pub flags: u8,
}

impl Probe {
    /// Reads what follows the head.
    pub fn parse(rest: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(rest);
        let probe = match reader.u8()? {
            QUESTION => {
                let port = reader.u16()?;
                return Some(Probe::Question {
                    dial: (port > 0).then_some(port),
                });
            }
            ANSWER => Probe::Answer(Answer {
                echo: reader.u64()?,
                observed: reader.socket()?,
                length: reader.u16()?,
                flags: reader.u8()?,
            }),
            DIAL_BACK => Probe::DialBack {
                echo: reader.u64()?,
            },
            _ => return None,
        };
        reader.is_empty().then_some(probe)
    }

    /// The whole body. A question fills a datagram of `length` bytes, as far as that is one.
    pub fn write(&self, head: &Head, length: usize) -> Vec<u8> {
        debug_assert!(head.kind == Kind::Probe);
        let mut body = head.write();
        match self {
            Probe::Question { dial } => {
                body.push(QUESTION);
                body.extend_from_slice(&dial.unwrap_or(0).to_be_bytes());
                body.resize(length.clamp(QUESTION_MIN, PROBE_MAX) - OVERHEAD, 0);
            }
            Probe::Answer(answer) => {
                body.push(ANSWER);
                body.extend_from_slice(&answer.echo.to_be_bytes());
                put_socket(&mut body, answer.observed);
                body.extend_from_slice(&answer.length.to_be_bytes());
                body.push(answer.flags);
            }
            Probe::DialBack { echo } => {
                body.push(DIAL_BACK);
                body.extend_from_slice(&echo.to_be_bytes());
            }
        }
        body
    }
}

const _: () = {
    let answer = OVERHEAD + HEAD_LENGTH + 1 + 8 + 18 + 2 + 1;
    let dial_back = OVERHEAD + HEAD_LENGTH + 1 + 8;
    assert!(
        answer + dial_back < QUESTION_MIN,
        "a question is longer than all that it causes"
    );
};

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head() -> Head {
        Head {
            kind: Kind::Probe,
            boot: [1; 8],
            counter: 7,
            token: [2; 16],
        }
    }

    fn answer() -> Answer {
        Answer {
            echo: 4,
            observed: "192.0.2.1:51820".parse().expect("an address"),
            length: 1400,
            flags: FLAG_DIALLED,
        }
    }

    #[test]
    fn probes_survive_the_wire() {
        let all = [
            Probe::Question { dial: None },
            Probe::Question { dial: Some(51820) },
            Probe::Answer(answer()),
            Probe::DialBack { echo: 9 },
        ];
        for probe in all {
            let body = probe.write(&head(), 1000);
            let (read, rest) = Head::parse(&body).expect("a head");
            assert_eq!((read, Probe::parse(rest)), (head(), Some(probe)));
        }
    }

    #[test]
    fn a_question_has_the_length_that_is_tried() {
        for (asked, datagram) in [(0, QUESTION_MIN), (1300, 1300), (9000, PROBE_MAX)] {
            let body = Probe::Question { dial: None }.write(&head(), asked);
            assert_eq!(body.len() + OVERHEAD, datagram);
        }
    }

    #[test]
    fn answers_that_are_cut_or_longer_are_none() {
        for probe in [Probe::Answer(answer()), Probe::DialBack { echo: 9 }] {
            let body = probe.write(&head(), 0);
            let rest = &body[HEAD_LENGTH..];
            assert!((0..rest.len()).all(|length| Probe::parse(&rest[..length]).is_none()));
            assert_eq!(Probe::parse(&[rest, &[0]].concat()), None);
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = Probe::parse(&bytes);
        }
    }
}
