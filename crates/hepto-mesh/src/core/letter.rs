//! Spreading what is to be said in one turn of a conversation over as many datagrams as it takes.

use super::book::Object;
use crate::seal::message::{FLAG_MORE, Item, Part, SyncWriter};

/// What goes into the datagrams of one turn.
#[derive(Debug, Default)]
pub(super) struct Letter<'a> {
    pub own: Option<&'a [u8]>,
    pub digest: Option<&'a [Item]>,
    pub wants: Vec<(u8, u64)>,
    pub objects: Vec<Object<'a>>,
}

impl Letter<'_> {
    /// Spreads the letter over at most `limit` bodies, each begun by `begin`. Says whether something was left over.
    pub fn write(
        &self,
        limit: usize,
        mut begin: impl FnMut() -> SyncWriter,
    ) -> (Vec<Vec<u8>>, bool) {
        let mut pages = Pages {
            done: Vec::new(),
            page: None,
            limit,
        };
        let mut more = false;
        if let Some(own) = self.own {
            more |= !pages.push(&mut begin, &Part::Own(own));
        }
        if let Some(digest) = self.digest {
            more |= !pages.push_digest(&mut begin, digest);
        }
        more |= !pages.push_wants(&mut begin, &self.wants);
        for object in &self.objects {
            more |= !match object {
                Object::Record(record) => pages.push(&mut begin, &Part::Record(record.raw())),
                Object::Statement(statement) => {
                    pages.push(&mut begin, &Part::Statement(statement.raw()))
                }
            };
        }
        if more && let Some(page) = &mut pages.page {
            page.set_flag(FLAG_MORE);
        }
        pages.done.extend(pages.page.map(SyncWriter::finish));
        (pages.done, more)
    }
}

struct Pages {
    done: Vec<Vec<u8>>,
    page: Option<SyncWriter>,
    limit: usize,
}

impl Pages {
    /// A page with room for anything; `None`: the limit is reached.
    fn turn(&mut self, begin: &mut impl FnMut() -> SyncWriter) -> Option<&mut SyncWriter> {
        let used = self.done.len() + usize::from(self.page.is_some());
        if used >= self.limit {
            return None;
        }
        self.done.extend(self.page.take().map(SyncWriter::finish));
        Some(self.page.insert(begin()))
    }

    fn push(&mut self, begin: &mut impl FnMut() -> SyncWriter, part: &Part<'_>) -> bool {
        if self.page.as_mut().is_some_and(|page| page.push(part)) {
            return true;
        }
        self.turn(begin).is_some_and(|page| page.push(part))
    }

    /// Splits the digest by ranges of hashes that leave no gap, so that what is missing is known to be missing.
    fn push_digest(&mut self, begin: &mut impl FnMut() -> SyncWriter, digest: &[Item]) -> bool {
        let mut rest = digest;
        let mut first = 0;
        loop {
            let room = self.page.as_ref().map_or(0, SyncWriter::digest_room);
            let room = if room >= 8 {
                room
            } else {
                match self.turn(begin) {
                    Some(page) => page.digest_room(),
                    None => return false,
                }
            };
            let mut length = room.min(rest.len());
            // Objects of one hash stay together: a range ends between two hashes.
            while length < rest.len() && rest[length - 1].hash == rest[length].hash {
                length -= 1;
            }
            let (items, after) = rest.split_at(length);
            let last = if after.is_empty() {
                u64::MAX
            } else {
                items.last().map_or(first, |item| item.hash)
            };
            let part = Part::Digest {
                first,
                last,
                items: items.to_vec(),
            };
            if !self.push(begin, &part) {
                return false;
            }
            if after.is_empty() {
                return true;
            }
            rest = after;
            first = last.saturating_add(1);
        }
    }

    fn push_wants(&mut self, begin: &mut impl FnMut() -> SyncWriter, wants: &[(u8, u64)]) -> bool {
        let mut rest = wants;
        while !rest.is_empty() {
            let room = match self.page.as_ref().map_or(0, SyncWriter::wants_room) {
                0 => match self.turn(begin) {
                    Some(page) => page.wants_room(),
                    None => return false,
                },
                room => room,
            };
            let (now, after) = rest.split_at(room.min(rest.len()));
            if !self.push(begin, &Part::Wants(now.to_vec())) {
                return false;
            }
            rest = after;
        }
        true
    }
}
