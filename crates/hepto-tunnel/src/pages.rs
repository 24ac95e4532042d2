//! Buffers that cost what is written to them, and that the kernel may have back until they are written again.
#![allow(unsafe_code)] // madvise changes memory behind the compiler's back.

use rustix::mm::{Advice, madvise};
use rustix::param::page_size;

/// A buffer of zeroes that takes memory page by page, as it is written. Where the kernel gives every program huge pages, the
/// first byte would take 2 MiB. A refusal costs memory and nothing else. kernel: admin-guide/mm/transhuge.rst.
pub(crate) fn buffer(length: usize) -> Box<[u8]> {
    let mut bytes = vec![0; length].into_boxed_slice();
    let (start, length) = whole_pages(&mut bytes);
    // SAFETY: the range lies in `bytes`. The advice changes nothing that can be read.
    let _ = unsafe { madvise(start.cast(), length, Advice::LinuxNoHugepage) };
    bytes
}

/// Gives the whole pages in `bytes` back. They read as zeroes from then on, so this takes buffers whose content nobody
/// needs any more. A refusal costs memory and nothing else.
pub(crate) fn give_back(bytes: &mut [u8]) {
    let (start, length) = whole_pages(bytes);
    // SAFETY: the range lies in `bytes`, which nobody else has. Private memory without a file behind it reads as zeroes
    // afterwards, and bytes may have any value.
    let _ = unsafe { madvise(start.cast(), length, Advice::LinuxDontNeed) };
}

/// Where the whole pages in `bytes` begin, and how many bytes they are.
fn whole_pages(bytes: &mut [u8]) -> (*mut u8, usize) {
    let page = page_size();
    let first = bytes.as_ptr().align_offset(page).min(bytes.len());
    let inner = &mut bytes[first..];
    (inner.as_mut_ptr(), inner.len() / page * page)
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

    /// What the kernel keeps of the mapping that has `address`.
    fn flags(address: usize) -> String {
        let maps = std::fs::read_to_string("/proc/self/smaps").expect("the list of mappings");
        let mut inside = false;
        for line in maps.lines() {
            if let Some((range, _)) = line.split_once(' ')
                && let Some((start, end)) = range.split_once('-')
                && let [Ok(start), Ok(end)] = [start, end].map(|at| usize::from_str_radix(at, 16))
            {
                inside = (start..end).contains(&address);
            }
            if inside && line.starts_with("VmFlags:") {
                return line.to_owned();
            }
        }
        panic!("no mapping has {address:x}");
    }

    #[test]
    fn a_buffer_takes_no_huge_pages() {
        let bytes = buffer(4 << 20);
        assert!(bytes.iter().all(|byte| *byte == 0));
        let known = std::path::Path::new("/sys/kernel/mm/transparent_hugepage").exists();
        let flags = flags(bytes.as_ptr() as usize + (2 << 20));
        assert_eq!(flags.contains(" nh"), known, "{flags}");
        assert!(buffer(0).is_empty());
    }
}
