//! Fixtures of the core's own tests.

use std::net::SocketAddr;
use std::time::Instant;

use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use crate::address::Prefixes;
use crate::identity::Identity;
use crate::name::ClusterName;
use crate::record::{Content, Endpoint, EndpointKind, Record, Sequence};

/// Some moment: only differences matter.
#[allow(clippy::disallowed_methods)]
pub(crate) fn now() -> Instant {
    Instant::now()
}

pub(crate) fn cluster() -> ClusterName {
    "acides".parse().expect("a name")
}

pub(crate) fn prefixes() -> Prefixes {
    let ipv4 = "10.44.0.0/16".parse().expect("a prefix");
    Prefixes::new(&cluster(), None, ipv4).expect("a plan")
}

pub(crate) fn identity(seed: u64) -> Identity {
    Identity::generate(&mut ChaCha20Rng::seed_from_u64(seed))
}

/// The identity of a name in these tests.
pub(crate) fn identity_of(name: &str) -> Identity {
    identity(
        name.bytes()
            .fold(1000, |seed, byte| seed * 31 + u64::from(byte)),
    )
}

/// What the node `name` says after `change` changes.
pub(crate) fn content(name: &str, change: u32, endpoints: &[&str]) -> Content {
    let identity = identity_of(name);
    let address = |text: &&str| text.parse::<SocketAddr>().expect("an address");
    let mut endpoints: Vec<Endpoint> = endpoints
        .iter()
        .map(|text| Endpoint::new(EndpointKind::Interface, address(text)))
        .collect();
    endpoints.sort();
    Content {
        attempt: 0,
        flags: 0,
        name: name.parse().expect("a name"),
        sequence: Sequence { start: 1, change },
        endpoints,
        key_ids: [1, 1],
        mtu: 1320,
        identity: identity.public(),
        wireguard: identity.wireguard_public(),
        tail: Vec::new(),
    }
}

pub(crate) fn record(name: &str, change: u32, endpoints: &[&str]) -> Record {
    Record::sign(
        content(name, change, endpoints),
        &cluster(),
        &identity_of(name),
    )
}
