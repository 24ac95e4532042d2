//! Questions about the way to us: answered, and dialled back to, at the address that they came from and nowhere else.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::door::Verdict;
use super::{Core, Output};
use crate::seal::message::{Head, Kind};
use crate::seal::probe::{Answer, FLAG_DIALLED, FLAG_LIMITED, Probe, QUESTION_MIN};

impl Core {
    /// `None`: malformed. `length` is that of the whole datagram.
    pub(super) fn probe(
        &mut self,
        head: &Head,
        rest: &[u8],
        length: usize,
        from: SocketAddr,
        to: Option<IpAddr>,
        now: Instant,
    ) -> Option<()> {
        let Probe::Question { dial } = Probe::parse(rest)? else {
            // A core asks nothing: those who do listen for themselves.
            self.counters.unasked += 1;
            return Some(());
        };
        if length < QUESTION_MIN {
            return None;
        }
        match self
            .door
            .question(from, head.boot, head.counter, &head.token, now)
        {
            Verdict::Pass => {}
            // No token is sent: who asks begins with a HELLO, which gets him one.
            other => {
                self.turned_away(other);
                return Some(());
            }
        }
        let echo = head.counter;
        let flags = match dial {
            None => 0,
            Some(port) if self.door.may_dial(from.ip(), now) => {
                let head = self.head(Kind::Probe, from, now);
                let bytes = self.sealed(&Probe::DialBack { echo }.write(&head, 0)).1;
                let to_ask = SocketAddr::new(from.ip(), port);
                self.outputs.push_back(Output::Dial {
                    to: to_ask,
                    from: to,
                    bytes,
                });
                FLAG_DIALLED
            }
            Some(_) => {
                self.counters.limited += 1;
                FLAG_LIMITED
            }
        };
        let answer = Answer {
            echo,
            observed: from,
            length: u16::try_from(length).unwrap_or(u16::MAX),
            flags,
        };
        let head = self.head(Kind::Probe, from, now);
        self.transmit(from, to, &Probe::Answer(answer).write(&head, 0));
        Some(())
    }
}
