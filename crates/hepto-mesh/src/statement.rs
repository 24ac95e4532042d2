//! Statements of the cluster's operator about its nodes, signed by the operator's identity and relayed like records.
//!
//! | field | bytes |
//! |---|---|
//! | version (1), kind | 1 + 1 |
//! | sequence | 8 |
//! | name: length, bytes; empty where the statement is about the cluster | 1 + at most 63 |
//! | subject: an identity or a key's hash, by kind | 32 |
//! | tail of type, length, value; types strictly ascending | 1 + at most 64 |
//! | operator's ed25519 public key | 32 |
//! | ed25519 signature over `hepto statement v1`, 0, cluster, 0, all of the above | 64 |

use std::sync::Arc;

use crate::identity::Identity;
use crate::name::{ClusterName, NODE_MAX, NodeName};
use crate::record::{RecordError, TAIL_MAX, is_tail, put_short, verify};
use crate::wire::Reader;

/// Longest statement in bytes.
pub const STATEMENT_MAX: usize = 1 + 1 + 8 + 64 + 32 + 65 + 32 + 64;

const VERSION: u8 = 1;
const CONTEXT: &[u8] = b"hepto statement v1";
const SIGNATURE: usize = 64;

/// What the operator does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StatementKind {
    /// The name belongs to the subject's identity from now on.
    Accept = 1,
    /// The subject's identity is no member any more, and the cluster is locked.
    Revoke = 2,
    /// No new name is let in (subject: all ones), or they are again (all zeros).
    Lock = 3,
    /// The overlay key is being replaced by the one whose hash is the subject.
    Rotate = 4,
}

/// A statement whose signature holds. Whether its signer is the operator is for the book to judge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// What is done.
    pub kind: StatementKind,
    /// Newer wins among those of one kind and name.
    pub sequence: u64,
    /// The node it is about; `None` for the cluster.
    pub name: Option<NodeName>,
    /// By kind.
    pub subject: [u8; 32],
    /// The signer's ed25519 public key.
    pub operator: [u8; 32],
    raw: Arc<[u8]>,
}

impl Statement {
    /// Signs a statement as `operator`.
    pub fn sign(
        kind: StatementKind,
        sequence: u64,
        name: Option<NodeName>,
        subject: [u8; 32],
        cluster: &ClusterName,
        operator: &Identity,
    ) -> Self {
        let mut raw = vec![VERSION, kind as u8];
        raw.extend_from_slice(&sequence.to_be_bytes());
        put_short(
            &mut raw,
            name.as_ref().map_or(&[], |name| name.as_str().as_bytes()),
        );
        raw.extend_from_slice(&subject);
        put_short(&mut raw, &[]);
        raw.extend_from_slice(&operator.public());
        let signature = operator.sign(&signed_message(cluster, &raw));
        raw.extend_from_slice(&signature);
        Self {
            kind,
            sequence,
            name,
            subject,
            operator: operator.public(),
            raw: raw.into(),
        }
    }

    /// Parses and verifies a statement that fills `bytes`.
    pub fn open(bytes: &[u8], cluster: &ClusterName) -> Result<Self, RecordError> {
        let mut reader = Reader::new(bytes);
        match reader.u8() {
            Some(VERSION) => {}
            Some(version) => return Err(RecordError::Version(version)),
            None => return Err(TRUNCATED),
        }
        let kind = match reader.u8().ok_or(TRUNCATED)? {
            1 => StatementKind::Accept,
            2 => StatementKind::Revoke,
            3 => StatementKind::Lock,
            4 => StatementKind::Rotate,
            _ => return Err(RecordError::Malformed("a statement of an unknown kind")),
        };
        let sequence = reader.u64().ok_or(TRUNCATED)?;
        let name = std::str::from_utf8(reader.short(NODE_MAX).ok_or(TRUNCATED)?).unwrap_or("\0");
        let about_node = matches!(kind, StatementKind::Accept | StatementKind::Revoke);
        let name = match (name, about_node) {
            ("", false) => None,
            (name, true) => Some(
                name.parse()
                    .map_err(|_| RecordError::Malformed("a statement about no name"))?,
            ),
            _ => {
                return Err(RecordError::Malformed(
                    "a statement about the cluster that names a node",
                ));
            }
        };
        let subject = reader.array().ok_or(TRUNCATED)?;
        if !is_tail(reader.short(TAIL_MAX).ok_or(TRUNCATED)?) {
            return Err(RecordError::Malformed(
                "a statement whose tail is not type, length, value in order",
            ));
        }
        let operator = reader.array().ok_or(TRUNCATED)?;
        if reader.rest().len() != SIGNATURE {
            return Err(RecordError::Malformed("a statement of the wrong length"));
        }
        let (signed, signature) = bytes.split_last_chunk::<SIGNATURE>().ok_or(TRUNCATED)?;
        if !verify(&operator, &signed_message(cluster, signed), signature) {
            return Err(RecordError::Signature);
        }
        Ok(Self {
            kind,
            sequence,
            name,
            subject,
            operator,
            raw: bytes.into(),
        })
    }

    /// The bytes as signed and relayed.
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }
}

const TRUNCATED: RecordError = RecordError::Malformed("a statement that is cut short");

fn signed_message(cluster: &ClusterName, bytes: &[u8]) -> Vec<u8> {
    [CONTEXT, &[0], cluster.as_str().as_bytes(), &[0], bytes].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    fn sample() -> (Statement, ClusterName) {
        let cluster: ClusterName = "acides".parse().expect("a name");
        let operator = Identity::generate(&mut ChaCha20Rng::seed_from_u64(3));
        let name = Some("mars".parse().expect("a name"));
        (
            Statement::sign(StatementKind::Revoke, 9, name, [7; 32], &cluster, &operator),
            cluster,
        )
    }

    #[test]
    fn a_statement_survives_the_wire_and_nothing_else_does() {
        let (statement, cluster) = sample();
        assert_eq!(
            Statement::open(statement.raw(), &cluster).expect("itself"),
            statement
        );
        assert!(statement.raw().len() <= STATEMENT_MAX);
        for length in 0..statement.raw().len() {
            assert!(
                Statement::open(&statement.raw()[..length], &cluster).is_err(),
                "cut to {length}"
            );
        }
        for bit in 0..statement.raw().len() * 8 {
            let mut raw = statement.raw().to_vec();
            raw[bit / 8] ^= 1 << (bit % 8);
            assert!(Statement::open(&raw, &cluster).is_err(), "bit {bit}");
        }
        assert!(Statement::open(statement.raw(), &"bases".parse().expect("a name")).is_err());
    }

    proptest::proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400)) {
            let (_, cluster) = sample();
            proptest::prop_assert!(Statement::open(&bytes, &cluster).is_err());
        }
    }
}
