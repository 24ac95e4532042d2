//! The Internet checksum (RFC 1071), summed in the machine's own byte order: its sum does not depend on the order, so
//! only what is stored is ever swapped, and that by storing native bytes.

/// Adds `bytes` to a ones-complement sum. All but the last piece must have an even length.
pub(crate) fn sum(mut total: u64, bytes: &[u8]) -> u64 {
    // Eight independent lanes, which the compiler turns into vectors.
    let mut lanes = [0u64; 8];
    let blocks = bytes.chunks_exact(32);
    let rest = blocks.remainder();
    for block in blocks {
        for (lane, word) in lanes.iter_mut().zip(block.chunks_exact(4)) {
            *lane += u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
        }
    }
    // A lane holds at most 65,536 / 32 sums of 32 bits: nothing overflows.
    for lane in lanes {
        total += lane;
    }
    let pairs = rest.chunks_exact(2);
    if let [last] = pairs.remainder() {
        total += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    for pair in pairs {
        total += u64::from(u16::from_ne_bytes([pair[0], pair[1]]));
    }
    total
}

/// The sum in 16 bits, not complemented.
pub(crate) fn fold(mut total: u64) -> u16 {
    while total >> 16 != 0 {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

/// The sum of the pseudo-header of TCP or UDP over IP: addresses, protocol, length of what follows the IP header.
pub(crate) fn pseudo(packet: &[u8], protocol: u8, length: usize) -> u64 {
    let addresses = if packet[0] >> 4 == 6 {
        &packet[8..40]
    } else {
        &packet[12..20]
    };
    // A length above 65,535 is none that IP can carry, but its halves would still sum rightly.
    let length = u64::from((length as u16).to_be()) + u64::from(((length >> 16) as u16).to_be());
    sum(length + u64::from(u16::from(protocol).to_be()), addresses)
}

/// Writes the checksum of an IPv4 header of `length` bytes into it.
pub(crate) fn set_ipv4(header: &mut [u8]) {
    header[10..12].fill(0);
    let checksum = !fold(sum(0, header));
    header[10..12].copy_from_slice(&checksum.to_ne_bytes());
}

/// The complement of `total`, with zero as its other form: a UDP checksum of zero would mean none.
pub(crate) fn finish(total: u64) -> [u8; 2] {
    let checksum = !fold(total);
    (if checksum == 0 { 0xffff } else { checksum }).to_ne_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against the definition of RFC 1071: big-endian words, one after another.
        #[test]
        fn sums_are_those_of_the_definition(bytes in prop::collection::vec(any::<u8>(), 0..2000), start in 0u64..0xffff) {
            let mut expected = u64::from((start as u16).to_be());
            for pair in bytes.chunks(2) {
                expected += u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
                expected = (expected & 0xffff) + (expected >> 16);
            }
            prop_assert_eq!(fold(sum(start, &bytes)).to_be(), expected as u16);
        }
    }

    #[test]
    fn the_largest_sum_does_not_overflow() {
        assert_eq!(fold(sum(u64::from(u32::MAX), &[0xff; 65_536])), 0xffff);
    }
}
