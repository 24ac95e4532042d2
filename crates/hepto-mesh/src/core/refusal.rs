//! Why the book does not take a record.

use super::book::NAMES_MAX;
use crate::name::NodeName;
use crate::record::RecordError;

/// Why a record was not taken in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It cannot be read or does not hold.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Another identity than the pinned one.
    #[error("{name} is pinned to another identity")]
    Identity {
        /// The name.
        name: NodeName,
        /// The pinned ed25519 key.
        pinned: [u8; 32],
        /// The one presented.
        presented: [u8; 32],
    },
    /// Our own name, by another identity.
    #[error("it uses the name of this node")]
    NameTaken {
        /// The identity presented.
        presented: [u8; 32],
    },
    /// Its WireGuard key is another node's.
    #[error("{name} has the WireGuard key of {holder}")]
    TunnelKey {
        /// The name refused.
        name: NodeName,
        /// The name that has the key.
        holder: NodeName,
    },
    /// Too many names.
    #[error("{name} is refused: {NAMES_MAX} names are known already")]
    Full {
        /// The name refused.
        name: NodeName,
    },
    /// Too many new names of late.
    #[error("{name} has to wait: too many new names at once")]
    Limited {
        /// The name refused for now.
        name: NodeName,
    },
    /// Digests could not tell it from another name.
    #[error("{name} has the same hash as another name; give the node another name")]
    Hash {
        /// The name refused.
        name: NodeName,
    },
}
