//! `[snapshot]`: how often, for whom, how many.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::{Checking, Diagnostic};
use crate::config::Snapshot;
use crate::config::file::{SnapshotSection, Spanned, Text};
use crate::snapshot::age::Recipient;

/// Four a day.
const EVERY: Duration = Duration::from_secs(6 * 3600);
/// A datastore of a few MB is copied in a second; more often than this is more wear than use.
const OFTENEST: Duration = Duration::from_secs(60);
/// Two days of four.
const KEEP: usize = 8;
const SPACE: u64 = 1 << 30;
const AGENTS: usize = 2;
/// A homely line sends 4 Mbit/s beside all else.
const RATE: u64 = 512 << 10;

pub(super) fn snapshot(file: &SnapshotSection, checking: &mut Checking<'_>) -> Option<Snapshot> {
    let every = match &file.every {
        Some(text) => interval(text, checking),
        None => Some(Some(EVERY)),
    };
    let recipient = match &file.recipient {
        Some(text) => recipient(text, checking).map(Some),
        None => Some(None),
    };
    let keep = count(file.keep.as_ref(), "keep", 0..=1000, KEEP, checking);
    let agents = count(file.agents.as_ref(), "agents", 0..=50, AGENTS, checking);
    let space = size(file.space.as_ref(), "space", 0, SPACE, checking);
    let rate = size(file.rate.as_ref(), "rate", 1 << 10, RATE, checking);
    Some(Snapshot {
        every: every?,
        recipient: recipient?,
        keep: keep?,
        space: space?,
        agents: agents?,
        rate: rate?,
    })
}

fn interval(text: &Text, checking: &mut Checking<'_>) -> Option<Option<Duration>> {
    let written = text.get_ref();
    if written == "never" {
        return Some(None);
    }
    let found = match humantime::parse_duration(written) {
        Ok(every) if every >= OFTENEST => return Some(Some(every)),
        Ok(_) => Diagnostic::error(
            "E-SNAPSHOT-EVERY",
            format!("a snapshot each {written} is too often"),
        )
        .fix("write at least \"1m\"; \"6h\" is the default"),
        Err(_) => Diagnostic::error("E-SNAPSHOT-EVERY", format!("\"{written}\" is not a time"))
            .fix("write \"6h\", \"30m\", \"1day\" or \"never\""),
    };
    checking.report(found.at(text.span()));
    None
}

fn recipient(text: &Text, checking: &mut Checking<'_>) -> Option<Recipient> {
    let written = text.get_ref();
    if let Ok(recipient) = written.parse() {
        return Some(recipient);
    }
    let is_secret = written.to_ascii_uppercase().starts_with("AGE-SECRET-KEY-");
    let found = if is_secret {
        checking.secrets.push(text.span());
        Diagnostic::error("E-KEY-INLINE", "`recipient` is the operator's secret key, which opens every snapshot")
            .fix("write the public key that `hepto-node keys generate operator` printed, and make a new pair if others read this file")
    } else {
        Diagnostic::error("E-SNAPSHOT-KEY", format!("\"{written}\" is not a public key of the age format"))
            .fix("write the line that begins with age1, as `hepto-node keys generate operator --out FILE` printed it")
    };
    checking.report(found.at(text.span()));
    None
}

fn count(
    value: Option<&Spanned<i64>>,
    key: &str,
    range: RangeInclusive<i64>,
    default: usize,
    checking: &mut Checking<'_>,
) -> Option<usize> {
    let Some(value) = value else {
        return Some(default);
    };
    let number = *value.get_ref();
    if range.contains(&number) {
        return usize::try_from(number).ok();
    }
    let what = format!("`{key}` cannot be {number}");
    let found = Diagnostic::error("E-SNAPSHOT-COUNT", what).at(value.span());
    checking.report(found.fix(format!(
        "write a number from {} to {}",
        range.start(),
        range.end()
    )));
    None
}

/// Bytes, written as `512K`, `20M` or `1G`.
fn size(
    text: Option<&Text>,
    key: &str,
    least: u64,
    default: u64,
    checking: &mut Checking<'_>,
) -> Option<u64> {
    let Some(text) = text else {
        return Some(default);
    };
    let written = text.get_ref();
    let units = [("K", 10), ("M", 20), ("G", 30), ("", 0)];
    let bytes = units.iter().find_map(|(unit, shift)| {
        let number: u64 = written.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(1 << shift)
    });
    match bytes {
        Some(bytes) if bytes >= least => Some(bytes),
        _ => {
            let what = format!("`{key}` = \"{written}\" is not a number of bytes that can be");
            let found = Diagnostic::error("E-SNAPSHOT-SIZE", what).at(text.span());
            checking.report(found.fix("write it as \"512K\", \"20M\" or \"1G\""));
            None
        }
    }
}
