//! Replay windows: which counters of a sender have been seen.

/// A sliding window of 64 counters, as RFC 4303 §3.4.3 describes it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Window {
    top: u64,
    seen: u64,
}

impl Window {
    /// Width in counters.
    pub const WIDTH: u64 = 64;

    /// Whether `counter` is new; it is seen from now on. What lies below the window counts as seen; 0 is never new.
    pub fn accept(&mut self, counter: u64) -> bool {
        if counter == 0 {
            return false;
        }
        if counter > self.top {
            let ahead = counter - self.top;
            self.seen = if ahead < Self::WIDTH {
                self.seen << ahead
            } else {
                0
            } | 1;
            self.top = counter;
            return true;
        }
        let behind = self.top - counter;
        if behind >= Self::WIDTH || self.seen >> behind & 1 == 1 {
            return false;
        }
        self.seen |= 1 << behind;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_counter_passes_once() {
        let mut window = Window::default();
        assert!(!window.accept(0));
        assert!(window.accept(5) && window.accept(3) && window.accept(4));
        assert!(!window.accept(5) && !window.accept(3));
        assert!(window.accept(5 + 63) && window.accept(6));
        assert!(!window.accept(4), "below the window");
        assert!(
            window.accept(u64::MAX) && !window.accept(u64::MAX) && window.accept(u64::MAX - 63)
        );
    }

    proptest! {
        #[test]
        fn nothing_passes_twice(counters in proptest::collection::vec(0u64..200, 0..400)) {
            let mut window = Window::default();
            let mut passed = std::collections::BTreeSet::new();
            for counter in counters {
                if window.accept(counter) {
                    prop_assert!(passed.insert(counter));
                }
            }
        }
    }
}
