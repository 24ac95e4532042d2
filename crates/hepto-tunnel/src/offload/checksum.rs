//! The Internet checksum (RFC 1071), summed in the machine's own byte order: its sum does not depend on the order, so
//! only what is stored is ever swapped, and that by storing native bytes.

/// Bytes of a block. Its words are summed in independent lanes, which the compiler turns into vectors.
const BLOCK: usize = 64;

/// Adds `bytes` to a ones-complement sum. All but the last piece must have an even length.
pub(crate) fn sum(total: u64, bytes: &[u8]) -> u64 {
    let (whole, rest) = bytes.split_at(bytes.len() / BLOCK * BLOCK);
    let mut total = total + blocks(whole);
    let pairs = rest.chunks_exact(2);
    if let [last] = pairs.remainder() {
        total += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    for pair in pairs {
        total += u64::from(u16::from_ne_bytes([pair[0], pair[1]]));
    }
    total
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)] // A function for a processor that has AVX2 is called only there.
fn blocks(bytes: &[u8]) -> u64 {
    #[target_feature(enable = "avx2")]
    fn wide(bytes: &[u8]) -> u64 {
        lanes(bytes)
    }
    if bytes.len() >= 4 * BLOCK && std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has it.
        return unsafe { wide(bytes) };
    }
    lanes(bytes)
}

#[cfg(not(target_arch = "x86_64"))]
fn blocks(bytes: &[u8]) -> u64 {
    lanes(bytes)
}

/// The sum of whole blocks, as words of 32 bits. A lane holds at most 65,536 / 64 of them each way: nothing overflows.
#[inline(always)]
fn lanes(bytes: &[u8]) -> u64 {
    let (mut low, mut high) = ([0u64; 8], [0u64; 8]);
    for block in bytes.chunks_exact(BLOCK) {
        for (lane, word) in block.chunks_exact(8).enumerate() {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(word);
            let word = u64::from_ne_bytes(bytes);
            low[lane] += word & 0xffff_ffff;
            high[lane] += word >> 32;
        }
    }
    low.iter().sum::<u64>() + high.iter().sum::<u64>()
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
