//! Memory that the kernel may have back until it is written again.
#![allow(unsafe_code)] // madvise changes memory behind the compiler's back.

use rustix::mm::{Advice, madvise};
use rustix::param::page_size;

/// Gives the whole pages in `bytes` back. They read as zeroes from then on, so this takes buffers whose content nobody
/// needs any more. A refusal costs memory and nothing else.
pub(crate) fn give_back(bytes: &mut [u8]) {
    let page = page_size();
    let whole = bytes.as_ptr().align_offset(page);
    let Some(inner) = bytes.get_mut(whole..) else {
        return;
    };
    let length = inner.len() / page * page;
    // SAFETY: the range lies in `bytes`, which nobody else has. Private memory without a file behind it reads as zeroes
    // afterwards, and bytes may have any value.
    let _ = unsafe { madvise(inner.as_mut_ptr().cast(), length, Advice::LinuxDontNeed) };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pages of `bytes` that have memory.
    fn resident(bytes: &[u8]) -> usize {
        let page = page_size();
        let start = bytes.as_ptr() as usize / page * page;
        let count = (bytes.as_ptr() as usize + bytes.len() - start).div_ceil(page);
        let mut map = vec![0u8; count];
        // SAFETY: the range covers `bytes`, which is mapped, and `map` has a byte for each of its pages.
        let result = unsafe { libc::mincore(start as *mut _, count * page, map.as_mut_ptr()) };
        assert_eq!(result, 0);
        map.iter().filter(|page| **page & 1 == 1).count()
    }

    #[test]
    fn whole_pages_go_and_what_stands_beside_stays() {
        let page = page_size();
        let mut bytes = vec![7u8; 100 * page];
        assert!(resident(&bytes) >= 100);
        let middle = page / 2..99 * page;
        give_back(&mut bytes[middle.clone()]);
        assert!(resident(&bytes) <= 4, "{} pages", resident(&bytes));
        let stays = |range: std::ops::Range<usize>| bytes[range].iter().all(|byte| *byte == 7);
        assert!(stays(0..middle.start) && stays(middle.end..100 * page));
        bytes[middle].fill(8);
        give_back(&mut bytes[..page / 2]);
        give_back(&mut []);
        assert_eq!(bytes[page], 8);
    }
}
