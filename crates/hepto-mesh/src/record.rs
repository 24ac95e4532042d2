//! A node's record: what it says of itself, signed by its identity, relayed by others as the raw bytes.
//!
//! | field | bytes |
//! |---|---|
//! | version (1), attempt | 1 + 1 |
//! | flags | 2 |
//! | name: length, bytes | 1 + at most 63 |
//! | sequence: start counter, change counter | 4 + 4 |
//! | endpoints: number, each kind and family, port, address; strictly ascending | 1 + at most 8 × 19 |
//! | accepted key ids: current, other (or the same again) | 2 |
//! | MTU of the tunnel | 2 |
//! | identity (ed25519), WireGuard public key | 32 + 32 |
//! | tail of type, length, value; types strictly ascending | 1 + at most 64 |
//! | ed25519 signature over `hepto record v1`, 0, cluster, 0, all of the above | 64 |
//!
//! There is one encoding of each content, and parsing accepts no other. It carries no MAC: the transport proves the
//! overlay key, and a MAC would void the records of absent nodes when that key is changed.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use ed25519_dalek::{Signature, VerifyingKey};

use crate::address::Addressing;
use crate::identity::Identity;
use crate::name::{ClusterName, NODE_MAX, NodeName};
use crate::wire::{Reader, mapped, plain};

#[cfg(test)]
mod tests;

/// Longest record in bytes; gossip's node meta holds 500.
pub const RECORD_MAX: usize = 426;
/// Most endpoints in one record.
pub const ENDPOINTS_MAX: usize = 8;
/// Longest tail in bytes.
pub const TAIL_MAX: usize = 64;

const VERSION: u8 = 1;
const CONTEXT: &[u8] = b"hepto record v1";
const SIGNATURE: usize = 64;

/// Why bytes are not a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Too short, too long, or not in the one accepted form.
    #[error("the record is malformed: {0}")]
    Malformed(&'static str),
    /// A version that this program does not know.
    #[error("the record has version {0}, this program knows 1; update it")]
    Version(u8),
    /// Not signed by the identity inside, or for another cluster.
    #[error("the record's signature does not hold for this cluster")]
    Signature,
}

impl RecordError {
    /// The stable code of the error, as printed and documented.
    pub fn code(&self) -> &'static str {
        match self {
            RecordError::Malformed(_) => "E-RECORD-MALFORMED",
            RecordError::Version(_) => "E-RECORD-VERSION",
            RecordError::Signature => "E-RECORD-SIGNATURE",
        }
    }
}

/// Which of two records of one node is newer. The start counter is on disk before it is used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence {
    /// Starts of the node, from 1.
    pub start: u32,
    /// Changes of the record since that start.
    pub change: u32,
}

impl From<Sequence> for u64 {
    fn from(sequence: Sequence) -> u64 {
        u64::from(sequence.start) << 32 | u64::from(sequence.change)
    }
}

impl From<u64> for Sequence {
    fn from(number: u64) -> Self {
        Self {
            start: (number >> 32) as u32,
            change: number as u32,
        }
    }
}

/// How an endpoint came to be known to its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndpointKind {
    /// Written in the configuration (a port forward).
    Configured = 1,
    /// An address of the uplink.
    Interface = 2,
    /// What two others saw.
    Observed = 3,
}

/// Where a node may be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// How it is known.
    pub kind: EndpointKind,
    /// UDP address; never an IPv4-mapped one.
    pub address: SocketAddr,
}

impl Endpoint {
    /// An endpoint in canonical form: an IPv4-mapped address becomes IPv4, flow label and scope are dropped.
    pub fn new(kind: EndpointKind, address: SocketAddr) -> Self {
        Self {
            kind,
            address: crate::wire::plain_socket(address),
        }
    }

    fn encode(&self) -> [u8; 19] {
        let family = if self.address.is_ipv4() { 4 } else { 6 };
        let mut bytes = [0; 19];
        bytes[0] = (self.kind as u8) << 4 | family;
        bytes[1..3].copy_from_slice(&self.address.port().to_be_bytes());
        bytes[3..].copy_from_slice(&mapped(self.address.ip()).octets());
        bytes
    }

    fn decode(bytes: [u8; 19]) -> Option<Self> {
        let kind = match bytes[0] >> 4 {
            1 => EndpointKind::Configured,
            2 => EndpointKind::Interface,
            3 => EndpointKind::Observed,
            _ => return None,
        };
        let port = u16::from_be_bytes([bytes[1], bytes[2]]);
        let octets: [u8; 16] = *bytes.last_chunk().expect("19 bytes hold 16");
        let ip = plain(IpAddr::V6(Ipv6Addr::from(octets)));
        let family = if ip.is_ipv4() { 4 } else { 6 };
        (bytes[0] & 15 == family && port != 0).then_some(Self {
            kind,
            address: SocketAddr::new(ip, port),
        })
    }
}

impl PartialOrd for Endpoint {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Endpoint {
    /// The order on the wire.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.encode().cmp(&other.encode())
    }
}

/// Flag bit: the node has begun to use its addresses (its k3s has started) and keeps them.
pub const FLAG_SETTLED: u16 = 1;

/// Flag bit: the node computes IPv4 overlay addresses as wesher did. Nobody's address follows from it.
pub const FLAG_WESHER: u16 = 2;

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Which of its possible overlay addresses the node uses.
    pub attempt: u8,
    /// Bits: [`FLAG_SETTLED`], [`FLAG_WESHER`]. Unknown ones are ignored.
    pub flags: u16,
    /// The node's name.
    pub name: NodeName,
    /// Newer wins.
    pub sequence: Sequence,
    /// At most [`ENDPOINTS_MAX`], strictly ascending.
    pub endpoints: Vec<Endpoint>,
    /// Key ids that the node accepts: current, other (the same twice where there is one).
    pub key_ids: [u8; 2],
    /// MTU of its tunnel in bytes.
    pub mtu: u16,
    /// ed25519 public key.
    pub identity: [u8; 32],
    /// WireGuard public key.
    pub wireguard: [u8; 32],
    /// For later versions: type, length, value; types strictly ascending.
    pub tail: Vec<u8>,
}

/// In the tail: when the node was last brought up from a snapshot, seconds since 1970, 8 bytes.
const TAIL_RESTORED: u8 = 1;

impl Content {
    /// When the node was last brought up from a snapshot; 0 for never. Of two machines with one identity the later is
    /// the node.
    pub fn restored(&self) -> u64 {
        let mut reader = Reader::new(&self.tail);
        while let (Some(kind), Some(value)) = (reader.u8(), reader.short(TAIL_MAX)) {
            if kind == TAIL_RESTORED {
                return value.try_into().map_or(0, u64::from_be_bytes);
            }
        }
        0
    }
}

/// The tail of a node that was brought up from a snapshot then.
pub(crate) fn tail(restored: u64) -> Vec<u8> {
    let mut tail = Vec::new();
    if restored > 0 {
        tail.push(TAIL_RESTORED);
        put_short(&mut tail, &restored.to_be_bytes());
    }
    tail
}

/// A record whose signature holds.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    content: Content,
    raw: Arc<[u8]>,
}

impl Record {
    /// Signs `content` with `identity`, whose public key has to be the one inside.
    pub fn sign(content: Content, cluster: &ClusterName, identity: &Identity) -> Self {
        debug_assert_eq!(content.identity, identity.public());
        debug_assert!(content.endpoints.len() <= ENDPOINTS_MAX && content.endpoints.is_sorted());
        let mut raw = encode(&content);
        let signature = identity.sign(&signed_message(cluster, &raw));
        raw.extend_from_slice(&signature);
        Self {
            content,
            raw: raw.into(),
        }
    }

    /// Parses and verifies a record that fills `bytes`.
    pub fn open(bytes: &[u8], cluster: &ClusterName) -> Result<Self, RecordError> {
        let unverified = Unverified::parse(bytes)?;
        if unverified.raw.len() != bytes.len() {
            return Err(RecordError::Malformed("bytes follow it"));
        }
        unverified.verify(cluster)
    }

    /// What it says.
    pub fn content(&self) -> &Content {
        &self.content
    }

    /// The bytes as signed and relayed.
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// The node's name.
    pub fn name(&self) -> &NodeName {
        &self.content.name
    }

    /// Whether the node keeps its addresses: see [`FLAG_SETTLED`].
    pub fn is_settled(&self) -> bool {
        self.content.flags & FLAG_SETTLED != 0
    }

    /// How the node says that it computes IPv4 overlay addresses.
    pub fn addressing(&self) -> Addressing {
        if self.content.flags & FLAG_WESHER != 0 {
            Addressing::Wesher
        } else {
            Addressing::Hepto
        }
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.content.fmt(f)
    }
}

/// A parsed record whose signature nobody has checked yet.
#[derive(Debug, Clone)]
pub struct Unverified<'a> {
    content: Content,
    raw: &'a [u8],
}

impl<'a> Unverified<'a> {
    /// Parses the record at the front of `bytes`; what follows it is left alone.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, RecordError> {
        let mut reader = Reader::new(bytes);
        match reader.u8() {
            Some(VERSION) => {}
            Some(version) => return Err(RecordError::Version(version)),
            None => return Err(RecordError::Malformed("it is empty")),
        }
        let content = content(&mut reader)?;
        reader.take(SIGNATURE).ok_or(TRUNCATED)?;
        let raw = &bytes[..bytes.len() - reader.rest().len()];
        Ok(Self { content, raw })
    }

    /// What it claims.
    pub fn content(&self) -> &Content {
        &self.content
    }

    /// Its bytes.
    pub fn raw(&self) -> &'a [u8] {
        self.raw
    }

    /// Checks the signature (strictly: RFC 8032 and no small-order keys).
    pub fn verify(self, cluster: &ClusterName) -> Result<Record, RecordError> {
        let (signed, signature) = self.raw.split_last_chunk::<SIGNATURE>().ok_or(TRUNCATED)?;
        verify(
            &self.content.identity,
            &signed_message(cluster, signed),
            signature,
        )
        .then(|| Record {
            content: self.content,
            raw: self.raw.into(),
        })
        .ok_or(RecordError::Signature)
    }
}

/// Whether `signature` over `message` is `identity`'s.
pub(crate) fn verify(identity: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> bool {
    VerifyingKey::from_bytes(identity).is_ok_and(|key| {
        key.verify_strict(message, &Signature::from_bytes(signature))
            .is_ok()
    })
}

const TRUNCATED: RecordError = RecordError::Malformed("it is cut short");

fn content(reader: &mut Reader<'_>) -> Result<Content, RecordError> {
    let attempt = reader.u8().ok_or(TRUNCATED)?;
    let flags = reader.u16().ok_or(TRUNCATED)?;
    let name = reader.short(NODE_MAX).ok_or(TRUNCATED)?;
    let name = std::str::from_utf8(name)
        .ok()
        .and_then(|name| name.parse().ok());
    let name = name.ok_or(RecordError::Malformed("its name is not a node's name"))?;
    let sequence = Sequence::from(reader.u64().ok_or(TRUNCATED)?);
    let endpoints = endpoints(reader)?;
    let key_ids = reader.array().ok_or(TRUNCATED)?;
    let mtu = reader.u16().ok_or(TRUNCATED)?;
    if mtu < 1280 {
        return Err(RecordError::Malformed(
            "its MTU is below IPv6's minimum of 1280",
        ));
    }
    let identity = reader.array().ok_or(TRUNCATED)?;
    let wireguard = reader.array().ok_or(TRUNCATED)?;
    if wireguard == [0; 32] {
        return Err(RecordError::Malformed("its WireGuard key is zero"));
    }
    let tail = reader.short(TAIL_MAX).ok_or(TRUNCATED)?;
    if !is_tail(tail) {
        return Err(RecordError::Malformed(
            "its tail is not type, length, value in order",
        ));
    }
    Ok(Content {
        attempt,
        flags,
        name,
        sequence,
        endpoints,
        key_ids,
        mtu,
        identity,
        wireguard,
        tail: tail.to_vec(),
    })
}

fn endpoints(reader: &mut Reader<'_>) -> Result<Vec<Endpoint>, RecordError> {
    let number = usize::from(reader.u8().ok_or(TRUNCATED)?);
    if number > ENDPOINTS_MAX {
        return Err(RecordError::Malformed("it has more than 8 endpoints"));
    }
    let mut endpoints: Vec<Endpoint> = Vec::with_capacity(number);
    for _ in 0..number {
        let endpoint = Endpoint::decode(reader.array().ok_or(TRUNCATED)?)
            .ok_or(RecordError::Malformed("an endpoint is not one"))?;
        if endpoints.last().is_some_and(|last| *last >= endpoint) {
            return Err(RecordError::Malformed("its endpoints are not in order"));
        }
        endpoints.push(endpoint);
    }
    Ok(endpoints)
}

/// Whether `tail` is a sequence of type, length, value with strictly ascending types.
pub(crate) fn is_tail(tail: &[u8]) -> bool {
    let mut reader = Reader::new(tail);
    let mut last = None;
    while let Some(kind) = reader.u8() {
        if last.is_some_and(|last| last >= kind) || reader.short(TAIL_MAX).is_none() {
            return false;
        }
        last = Some(kind);
    }
    true
}

fn encode(content: &Content) -> Vec<u8> {
    let mut raw = Vec::with_capacity(RECORD_MAX);
    raw.extend_from_slice(&[VERSION, content.attempt]);
    raw.extend_from_slice(&content.flags.to_be_bytes());
    put_short(&mut raw, content.name.as_str().as_bytes());
    raw.extend_from_slice(&u64::from(content.sequence).to_be_bytes());
    raw.push(u8::try_from(content.endpoints.len()).expect("at most 8 endpoints"));
    for endpoint in &content.endpoints {
        raw.extend_from_slice(&endpoint.encode());
    }
    raw.extend_from_slice(&content.key_ids);
    raw.extend_from_slice(&content.mtu.to_be_bytes());
    raw.extend_from_slice(&content.identity);
    raw.extend_from_slice(&content.wireguard);
    put_short(&mut raw, &content.tail);
    raw
}

/// Writes a length byte and so many bytes.
pub(crate) fn put_short(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(u8::try_from(bytes.len()).expect("names and tails are shorter than 64 bytes"));
    out.extend_from_slice(bytes);
}

fn signed_message(cluster: &ClusterName, bytes: &[u8]) -> Vec<u8> {
    [CONTEXT, &[0], cluster.as_str().as_bytes(), &[0], bytes].concat()
}
