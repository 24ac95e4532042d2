//! Our own overlay addresses beside everyone else's: all nodes compute them alike, and no two are the same.

use std::collections::BTreeSet;
use std::time::Instant;

use super::{Core, Notice, Output, Settings, notice};
use crate::address::Addressing;
use crate::record::{FLAG_SETTLED, FLAG_WESHER};

/// The flags of our own record.
pub(super) fn flags(settings: &Settings, settled: bool) -> u16 {
    let wesher = settings.prefixes.addressing() == Addressing::Wesher;
    let flag = |set: bool, bit: u16| if set { bit } else { 0 };
    flag(settled, FLAG_SETTLED) | flag(wesher, FLAG_WESHER)
}

impl Core {
    /// Says who computes IPv4 addresses in another way, and who does no longer.
    pub(super) fn compare_addressing(&mut self) {
        let ours = self.book.own().addressing();
        let ways: Vec<_> = self
            .book
            .entries()
            .map(|entry| (entry.record.name().clone(), entry.record.addressing()))
            .collect();
        for (name, theirs) in ways {
            if theirs != ours {
                self.notice(Notice::AddressingDiffers { name, theirs });
            } else if self.noticed.remove(&(notice::ADDRESSING, name.to_string())) {
                self.outputs
                    .push_back(Output::Notice(Notice::AddressingAgrees { name }));
            }
        }
    }

    /// Two names may compute one IPv4 address. Who has not settled, and is not the lower of two such, moves on to the next
    /// attempt that nobody holds.
    pub(super) fn avoid_collision(&mut self, now: Instant) {
        let address = self.book.own_overlay().v4;
        let own = self.book.own().content().clone();
        let rivals = self
            .book
            .entries()
            .filter(|entry| entry.record.addressing() == self.book.own().addressing())
            .filter(|entry| entry.overlay.v4 == address);
        let strongest =
            rivals.min_by_key(|entry| (!entry.record.is_settled(), entry.record.name()));
        let Some(rival) = strongest else {
            return;
        };
        let (name, rival_settled) = (rival.record.name().clone(), rival.record.is_settled());
        if self.settled {
            if rival_settled {
                self.notice(Notice::AddressConflict {
                    name,
                    holder: own.name,
                    address,
                });
            }
            return;
        }
        if !rival_settled && own.name < name {
            return;
        }
        let taken: BTreeSet<_> = self.book.entries().map(|entry| entry.overlay.v4).collect();
        let prefixes = &self.settings.prefixes;
        let free = (1..=u8::MAX).map(|step| own.attempt.wrapping_add(step));
        let mut free = free.map(|attempt| (attempt, prefixes.overlay_v4(&own.name, attempt)));
        let Some((attempt, to)) = free.find(|(_, to)| !taken.contains(to)) else {
            // wesher's way knows no second attempt.
            return self.notice(Notice::AddressConflict {
                name: own.name,
                holder: name,
                address,
            });
        };
        self.notice(Notice::AddressMoved {
            holder: name,
            from: address,
            to,
        });
        let mut content = own;
        content.attempt = attempt;
        content.sequence.change = content.sequence.change.saturating_add(1);
        self.publish(content, now);
        self.outputs
            .extend([Output::Save, Output::Attempt(attempt)]);
    }
}
