//! Waiting on conditions.

use std::env;
use std::fmt::Display;
use std::thread;
use std::time::{Duration, Instant};

/// How long to wait on this machine for what takes `usual` elsewhere: `HEPTO_PATIENCE` times as long, for virtual
/// machines without help of the processor.
///
/// # Panics
/// When `HEPTO_PATIENCE` is set and no number.
#[must_use]
pub fn patience(usual: Duration) -> Duration {
    let factor = env::var("HEPTO_PATIENCE").map_or(1, |text| {
        text.parse()
            .unwrap_or_else(|error| panic!("HEPTO_PATIENCE={text}: {error}"))
    });
    usual * factor
}

/// Asks again and again until the answer is `Ok`; gives it with the time that it took.
///
/// # Panics
/// When [`patience`] of `limit` is over, with `what` was awaited and the last refusal.
pub fn within<T, E: Display>(
    limit: Duration,
    what: &str,
    mut ask: impl FnMut() -> Result<T, E>,
) -> (T, Duration) {
    let limit = patience(limit);
    let start = Instant::now();
    loop {
        match ask() {
            Ok(answer) => return (answer, start.elapsed()),
            Err(refusal) if start.elapsed() > limit => {
                panic!("not within {} s: {what}: {refusal}", limit.as_secs_f32());
            }
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Waits until `condition` holds; gives the time that it took.
///
/// # Panics
/// When [`patience`] of `limit` is over.
pub fn until(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) -> Duration {
    within(limit, what, || {
        condition().then_some(()).ok_or("it does not hold")
    })
    .1
}
