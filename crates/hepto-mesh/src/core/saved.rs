//! What outlives the process, and its form on disk. The driver writes and reads the bytes.
//!
//! `hepto book v1`, 0; starts 4; attempt 1; flags 1 (bit 0: settled); members 2, each idle seconds 4, length 2, record;
//! statements 2, each length 2, statement; the first 8 bytes of the BLAKE2s-256 of all that.

use std::time::Duration;

use blake2::{Blake2s256, Digest};

use crate::name::ClusterName;
use crate::record::{Record, Unverified};
use crate::statement::Statement;
use crate::wire::Reader;

const MAGIC: &[u8] = b"hepto book v1\0";
const SETTLED: u8 = 1;

/// The bytes are not a book: not written by this program, or damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the book is damaged; it is set aside and filled again by the other nodes, whose identities are pinned anew"
)]
pub struct Damaged;

impl Damaged {
    /// The stable code of the error, as printed and documented.
    pub fn code(&self) -> &'static str {
        "E-MESH-BOOK"
    }
}

/// What outlives the process.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Saved {
    /// How often a core was made from this.
    pub starts: u32,
    /// Which of its possible overlay addresses this node uses.
    pub attempt: u8,
    /// Whether it keeps them from now on.
    pub settled: bool,
    /// Every node that has been met or vouched for: its identity is pinned.
    pub members: Vec<SavedMember>,
    /// Statements of the operator.
    pub statements: Vec<Statement>,
}

/// A node that is known.
#[derive(Debug, Clone, PartialEq)]
pub struct SavedMember {
    /// Its newest record.
    pub record: Record,
    /// Time of ours without contact with it, whole seconds.
    pub idle: Duration,
}

impl Saved {
    /// The bytes to write.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&self.starts.to_be_bytes());
        out.extend_from_slice(&[self.attempt, if self.settled { SETTLED } else { 0 }]);
        out.extend_from_slice(&count(self.members.len()));
        for member in &self.members {
            let idle = u32::try_from(member.idle.as_secs()).unwrap_or(u32::MAX);
            out.extend_from_slice(&idle.to_be_bytes());
            out.extend_from_slice(&count(member.record.raw().len()));
            out.extend_from_slice(member.record.raw());
        }
        out.extend_from_slice(&count(self.statements.len()));
        for statement in &self.statements {
            out.extend_from_slice(&count(statement.raw().len()));
            out.extend_from_slice(statement.raw());
        }
        let sum = Blake2s256::digest(&out);
        out.extend_from_slice(&sum[..8]);
        out
    }

    /// Reads what [`Saved::encode`] wrote. Records and statements of another cluster are left out.
    pub fn decode(bytes: &[u8], cluster: &ClusterName) -> Result<Self, Damaged> {
        let (body, sum) = bytes.split_last_chunk::<8>().ok_or(Damaged)?;
        if Blake2s256::digest(body)[..8] != *sum {
            return Err(Damaged);
        }
        Self::read(body.strip_prefix(MAGIC).ok_or(Damaged)?, cluster).ok_or(Damaged)
    }

    fn read(body: &[u8], cluster: &ClusterName) -> Option<Self> {
        let mut reader = Reader::new(body);
        let mut saved = Self {
            starts: reader.u32()?,
            attempt: reader.u8()?,
            settled: reader.u8()? & SETTLED != 0,
            ..Self::default()
        };
        for _ in 0..reader.u16()? {
            let idle = Duration::from_secs(reader.u32()?.into());
            let length = reader.u16()?.into();
            let record = Unverified::parse(reader.take(length)?)
                .ok()?
                .verify(cluster);
            saved
                .members
                .extend(record.map(|record| SavedMember { record, idle }));
        }
        for _ in 0..reader.u16()? {
            let length = reader.u16()?.into();
            saved
                .statements
                .extend(Statement::open(reader.take(length)?, cluster));
        }
        reader.is_empty().then_some(saved)
    }
}

fn count(number: usize) -> [u8; 2] {
    u16::try_from(number)
        .expect("at most 256 names, and records and statements of less than 512 bytes")
        .to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::testing;
    use crate::statement::StatementKind;

    fn sample() -> Saved {
        let cluster = testing::cluster();
        let operator = testing::identity(1);
        let members = ["mars", "venus"].map(|name| SavedMember {
            record: testing::record(name, 1, &[]),
            idle: Duration::from_secs(77),
        });
        let statement =
            Statement::sign(StatementKind::Lock, 1, None, [255; 32], &cluster, &operator);
        Saved {
            starts: 3,
            attempt: 2,
            settled: true,
            members: members.into(),
            statements: vec![statement],
        }
    }

    #[test]
    fn a_book_survives_the_disk_and_damage_is_seen() {
        let saved = sample();
        let bytes = saved.encode();
        assert_eq!(
            Saved::decode(&bytes, &testing::cluster()).expect("itself"),
            saved
        );
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(
                Saved::decode(&damaged, &testing::cluster()),
                Err(Damaged),
                "byte {at}"
            );
            assert_eq!(
                Saved::decode(&bytes[..at], &testing::cluster()),
                Err(Damaged),
                "cut to {at}"
            );
        }
    }

    #[test]
    fn another_clusters_members_are_left_out() {
        let read =
            Saved::decode(&sample().encode(), &"bases".parse().expect("a name")).expect("a book");
        assert_eq!(
            (read.starts, read.members.len(), read.statements.len()),
            (3, 0, 0)
        );
    }
}
