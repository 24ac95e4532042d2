//! WireGuard's messages, told apart before anything is opened.

use super::OVERHEAD;

/// Bits of a receiver index that belong to the session, below those of the peer.
const SESSION_BITS: u32 = 8;

/// A WireGuard message by its first four bytes and its length. The index names our peer (24 bits).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Initiation,
    Response { index: u32 },
    Cookie { index: u32 },
    Data { index: u32 },
}

impl Message {
    /// None for what is not WireGuard, or has not the length that its type demands.
    pub(crate) fn of(datagram: &[u8]) -> Option<Message> {
        let word = |at: usize| {
            let bytes = datagram.get(at..at + 4)?;
            Some(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
        };
        let index = |at| Some(word(at)? >> SESSION_BITS);
        match (word(0)?, datagram.len()) {
            (1, 148) => Some(Message::Initiation),
            (2, 92) => Some(Message::Response { index: index(8)? }),
            (3, 64) => Some(Message::Cookie { index: index(4)? }),
            (4, OVERHEAD..) => Some(Message::Data { index: index(4)? }),
            _ => None,
        }
    }
}
