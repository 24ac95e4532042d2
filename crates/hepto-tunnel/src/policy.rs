//! How the scheduler is to take a thread of the data path: as one that is waited for, or as one with bulk to carry.
#![allow(unsafe_code)] // musl's function of this system call does nothing but fail.

/// Bytes in a tick of the timer that make a thread carry bulk: 134 Mbit/s.
const BULK: usize = 4 << 20;

/// The scheduling policy of the calling thread, which follows what it carries.
///
/// A thread that is woken for each packet takes the processor from whoever has it, on a full machine often from the other
/// half of the tunnel, in the middle of a batch. With `SCHED_BATCH` it waits for its turn, and finds a larger batch then
/// (sched(7)). It costs a lone packet beside bulk some of its speed, so it is for bulk alone.
#[derive(Debug, Default)]
pub(crate) struct Policy {
    tick: u64,
    bytes: usize,
    batch: bool,
}

impl Policy {
    /// Counts `bytes` that were carried.
    pub(crate) fn carried(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Looks, with the timer's ticks so far, whether the policy is still right. Costs nothing within a tick.
    pub(crate) fn follow(&mut self, tick: u64) {
        if let Some(batch) = self.due(tick) {
            apply(batch);
        }
    }

    /// The policy to change to, if a tick ended and there is one.
    fn due(&mut self, tick: u64) -> Option<bool> {
        let passed = tick.wrapping_sub(self.tick);
        if passed == 0 {
            return None;
        }
        self.tick = tick;
        let carried = std::mem::take(&mut self.bytes) as u64;
        let batch = carried / passed >= BULK as u64;
        (batch != std::mem::replace(&mut self.batch, batch)).then_some(batch)
    }
}

/// Sets the calling thread's policy. Where that is forbidden, all stays as it is: slower, nothing else.
fn apply(batch: bool) {
    let policy = if batch {
        libc::SCHED_BATCH
    } else {
        libc::SCHED_OTHER
    };
    // Both policies know the priority 0 alone; the niceness stays.
    let priority: libc::c_int = 0;
    // SAFETY: the kernel reads one int, which is all of `struct sched_param`, and it outlives the call.
    unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, policy, &raw const priority) };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_this_thread() -> libc::c_long {
        // SAFETY: takes an integer.
        unsafe { libc::syscall(libc::SYS_sched_getscheduler, 0) }
    }

    #[test]
    fn it_follows_what_is_carried_tick_by_tick() {
        let mut policy = Policy::default();
        policy.carried(BULK);
        assert_eq!(policy.due(0), None, "the tick is under way");
        assert_eq!(policy.due(1), Some(true));
        policy.carried(BULK);
        assert_eq!(policy.due(2), None, "it is right already");
        policy.carried(2 * BULK - 1);
        assert_eq!(
            policy.due(4),
            Some(false),
            "two ticks, less than bulk in each"
        );
        assert_eq!(policy.due(5), None);
    }

    #[test]
    fn the_kernel_is_told() {
        assert_eq!(of_this_thread(), libc::SCHED_OTHER.into());
        let mut policy = Policy::default();
        policy.carried(BULK);
        policy.follow(1);
        assert_eq!(of_this_thread(), libc::SCHED_BATCH.into());
        policy.follow(2);
        assert_eq!(of_this_thread(), libc::SCHED_OTHER.into());
    }
}
