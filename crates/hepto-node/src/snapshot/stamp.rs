//! A moment of the wall clock, to the second, as file names have it: `20261124T170020Z`.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seconds since 1970, UTC.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    serde::Serialize,
    serde::Deserialize,
    schemars::JsonSchema,
)]
pub struct Stamp(pub u64);

impl Stamp {
    /// Now, by this machine's clock; 1970 on one that says it is earlier.
    pub fn now() -> Stamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Stamp(since.map_or(0, |since| since.as_secs()))
    }

    /// Seconds from this to a later moment; 0 when it is not later.
    pub fn until(self, later: Stamp) -> u64 {
        later.0.saturating_sub(self.0)
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = UNIX_EPOCH + Duration::from_secs(self.0);
        let shown = humantime::format_rfc3339_seconds(time).to_string();
        f.write_str(&shown.replace(['-', ':'], ""))
    }
}

impl FromStr for Stamp {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if text.len() != 16 || !text.is_ascii() {
            return Err(());
        }
        let part = |from: usize, to: usize| &text[from..to];
        let (day, time) = (
            [part(0, 4), part(4, 6), part(6, 8)],
            [part(8, 11), part(11, 13), part(13, 16)],
        );
        let full = format!("{}{}", day.join("-"), time.join(":"));
        let time = humantime::parse_rfc3339(&full).map_err(drop)?;
        let since = time.duration_since(UNIX_EPOCH).map_err(drop)?;
        // Of several ways to write a moment, one is right.
        let stamp = Stamp(since.as_secs());
        (stamp.to_string() == text).then_some(stamp).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_the_calendar_has_them() {
        // By `date -u -d @SECONDS`.
        for (seconds, text) in [
            (0, "19700101T000000Z"),
            (951_782_399, "20000228T235959Z"),
            (951_827_696, "20000229T123456Z"),
            (1_709_164_800, "20240229T000000Z"),
            (1_767_225_599, "20251231T235959Z"),
            (1_795_539_620, "20261124T170020Z"),
            (4_107_542_400, "21000301T000000Z"),
        ] {
            assert_eq!(Stamp(seconds).to_string(), text);
            assert_eq!(text.parse(), Ok(Stamp(seconds)));
        }
    }

    #[test]
    fn what_is_no_moment_is_refused() {
        for text in [
            "",
            "20261324T000000Z",
            "20260230T000000Z",
            "20260101T240000Z",
            "19691231T235959Z",
            "2026-11-24T17:00Z",
            "+0261124T170020Z",
        ] {
            assert_eq!(text.parse::<Stamp>(), Err(()), "{text}");
        }
    }
}
