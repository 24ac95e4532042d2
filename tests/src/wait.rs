//! Waiting on conditions.

use std::fmt::Display;
use std::thread;
use std::time::{Duration, Instant};

/// Asks again and again until the answer is `Ok`; gives it with the time that it took.
///
/// # Panics
/// When `patience` is over, with `what` was awaited and the last refusal.
pub fn within<T, E: Display>(
    patience: Duration,
    what: &str,
    mut ask: impl FnMut() -> Result<T, E>,
) -> (T, Duration) {
    let start = Instant::now();
    loop {
        match ask() {
            Ok(answer) => return (answer, start.elapsed()),
            Err(refusal) if start.elapsed() > patience => {
                panic!("not within {} s: {what}: {refusal}", patience.as_secs_f32());
            }
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Waits until `condition` holds; gives the time that it took.
///
/// # Panics
/// When `patience` is over.
pub fn until(patience: Duration, what: &str, mut condition: impl FnMut() -> bool) -> Duration {
    within(patience, what, || {
        condition().then_some(()).ok_or("it does not hold")
    })
    .1
}
