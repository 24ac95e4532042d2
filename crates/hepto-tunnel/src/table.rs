//! Who is where: peers by key, by the index in their packets, and by inner address.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;

use ip_network::IpNetwork;
use ip_network_table::IpNetworkTable;
use ipnet::IpNet;

use crate::peer::Peer;

/// Bits of an index that name the peer. The two above them, of the 24, are for the generation of the keys.
const INDEX_BITS: u32 = 22;

/// An immutable table: a change makes a new one that shares the peers.
pub(crate) struct Table {
    entries: Vec<Entry>,
    routes: IpNetworkTable<u32>,
    indexes: HashMap<u32, u32>,
}

/// A peer and its networks.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) peer: Arc<Peer>,
    pub(crate) allowed_ips: Vec<IpNet>,
}

impl Table {
    /// A table of `entries`. Of two that name the same network, the later has it.
    pub(crate) fn new(entries: Vec<Entry>) -> Table {
        let mut routes = IpNetworkTable::new();
        let mut indexes = HashMap::with_capacity(entries.len());
        for (slot, entry) in (0u32..).zip(&entries) {
            indexes.insert(entry.peer.index, slot);
            for network in &entry.allowed_ips {
                if let Ok(network) = IpNetwork::new_truncate(network.addr(), network.prefix_len()) {
                    routes.insert(network, slot);
                }
            }
        }
        Table {
            entries,
            routes,
            indexes,
        }
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The peer in a slot that this table gave.
    pub(crate) fn peer(&self, slot: u32) -> &Arc<Peer> {
        &self.entries[slot as usize].peer
    }

    /// The slot of the peer whose networks hold `address`, by the longest prefix.
    pub(crate) fn route(&self, address: IpAddr) -> Option<u32> {
        match address {
            IpAddr::V4(v4) => self.routes.longest_match_ipv4(v4).map(|(_, slot)| *slot),
            IpAddr::V6(v6) => self.routes.longest_match_ipv6(v6).map(|(_, slot)| *slot),
        }
    }

    /// The slot of the peer that was given `index`.
    pub(crate) fn indexed(&self, index: u32) -> Option<u32> {
        self.indexes.get(&index).copied()
    }

    /// The slot of the peer with that key.
    pub(crate) fn keyed(&self, public_key: &[u8; 32]) -> Option<u32> {
        let place = self
            .entries
            .iter()
            .position(|entry| entry.peer.public_key == *public_key)?;
        u32::try_from(place).ok()
    }

    /// An index that no peer has, and that nobody can guess from earlier ones.
    pub(crate) fn free_index(&self) -> u32 {
        loop {
            // The standard library seeds each of these from the kernel's randomness.
            let random =
                RandomState::new().build_hasher().finish() as u32 & ((1 << INDEX_BITS) - 1);
            if !self.indexes.contains_key(&random) {
                return random;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;
    use crate::peer::PeerConfig;
    use crate::protocol::Door;

    fn entry(door: &Door, number: u8, networks: &[&str]) -> Entry {
        let config = PeerConfig {
            public_key: [number; 32],
            preshared_key: [0; 32],
            allowed_ips: vec![],
            endpoint: None,
        };
        let allowed_ips = networks
            .iter()
            .map(|text| text.parse().expect("a network"))
            .collect();
        Entry {
            peer: Arc::new(Peer::new(door, &config, u32::from(number))),
            allowed_ips,
        }
    }

    fn route(table: &Table, address: &str) -> Option<u32> {
        table.route(address.parse().expect("an address"))
    }

    #[test]
    fn the_longest_prefix_wins() {
        let door = Door::new([1; 32]);
        let table = Table::new(vec![
            entry(
                &door,
                7,
                &["10.42.0.0/16", "fd00:0:0:100::/56", "10.44.0.7/32"],
            ),
            entry(&door, 8, &["10.42.3.0/24", "fd00:0:0:103::/64"]),
        ]);
        assert_eq!(route(&table, "10.42.1.1"), Some(0));
        assert_eq!(route(&table, "10.42.3.1"), Some(1));
        assert_eq!(route(&table, "10.44.0.7"), Some(0));
        assert_eq!(route(&table, "10.44.0.8"), None);
        assert_eq!(route(&table, "fd00:0:0:103::9"), Some(1));
        assert_eq!(route(&table, "fd00:0:0:104::9"), Some(0));
        assert_eq!(route(&table, "fd00::1"), None);
    }

    #[test]
    fn the_later_peer_has_a_disputed_network() {
        let door = Door::new([1; 32]);
        let (a, b) = (
            entry(&door, 7, &["10.44.0.7/32"]),
            entry(&door, 8, &["10.44.0.7/32"]),
        );
        assert_eq!(
            route(&Table::new(vec![a.clone(), b.clone()]), "10.44.0.7"),
            Some(1)
        );
        assert_eq!(route(&Table::new(vec![b, a]), "10.44.0.7"), Some(1));
    }

    #[test]
    fn host_bits_in_a_network_are_ignored() {
        let table = Table::new(vec![entry(&Door::new([1; 32]), 7, &["10.42.3.9/24"])]);
        assert_eq!(route(&table, "10.42.3.200"), Some(0));
    }

    #[test]
    fn peers_are_found_by_key_and_index() {
        let door = Door::new([1; 32]);
        let table = Table::new(vec![entry(&door, 7, &[]), entry(&door, 8, &[])]);
        assert_eq!(
            (table.keyed(&[8; 32]), table.keyed(&[9; 32])),
            (Some(1), None)
        );
        assert_eq!((table.indexed(7), table.indexed(9)), (Some(0), None));
    }

    #[test]
    fn indexes_are_fresh_and_leave_room_for_generations() {
        let table = Table::new(vec![]);
        let drawn: HashSet<u32> = (0..64).map(|_| table.free_index()).collect();
        assert!(drawn.len() > 60, "64 draws from four million");
        assert!(drawn.iter().all(|index| index >> INDEX_BITS == 0));
    }

    proptest! {
        /// Against the definition: of all networks that hold the address, the longest; of equal ones, the last.
        #[test]
        fn routing_is_longest_prefix(
            networks in prop::collection::vec((any::<[u8; 2]>(), 8u8..=32), 1..24),
            address in any::<[u8; 2]>(),
        ) {
            let door = Door::new([1; 32]);
            let network = |bytes: [u8; 2], length| IpNet::new(IpAddr::from([10, bytes[0] & 3, bytes[1] & 3, 0]), length).expect("at most 32");
            let entries = (1u8..).zip(&networks).map(|(number, &(bytes, length))| Entry {
                allowed_ips: vec![network(bytes, length).trunc()], ..entry(&door, number, &[])
            }).collect();
            let address = IpAddr::from([10, address[0] & 3, address[1] & 3, 0]);
            let expected = (0u32..).zip(&networks)
                .filter(|(_, (bytes, length))| network(*bytes, *length).contains(&address))
                .max_by_key(|(slot, (_, length))| (*length, *slot)).map(|(slot, _)| slot);
            prop_assert_eq!(Table::new(entries).route(address), expected);
        }
    }
}
