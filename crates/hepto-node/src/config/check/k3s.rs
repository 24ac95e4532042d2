//! `[k3s]`: its arguments, the drain; where it comes from is in `k3s_source`.

use std::ops::Range;
use std::time::Duration;

use super::{Checking, Diagnostic, k3s_source};
use crate::config::file::{K3sSection, Text};
use crate::fault::Fault;
use crate::k3s::acquire::{Archive, EMBEDDED, Source};
use crate::k3s::argument;

/// How long a stop waits for workloads to move away.
pub const DEFAULT_DRAIN: Duration = Duration::from_secs(60);

/// The unit gives a stop 180 s in all, and k3s needs its share.
const LONGEST_DRAIN: Duration = Duration::from_secs(120);

/// How long another k3s may take to be ready: images of a new version come over a home's line.
const DEFAULT_UPGRADE: Duration = Duration::from_secs(600);
const LEAST_UPGRADE: Duration = Duration::from_secs(10);
const LONGEST_UPGRADE: Duration = Duration::from_secs(7200);

/// Arguments whose value is a secret: it would stand in this file, and in the process list for everyone to read.
const SECRETS: &[&str] = &[
    "--datastore-endpoint",
    "--etcd-s3-access-key",
    "--etcd-s3-secret-key",
    "--vpn-auth",
];

/// Arguments whose value is a secret that hepto-node itself gives to k3s.
const TOKENS: &[&str] = &["--token", "-t", "--agent-token", "--cluster-secret"];

/// `[k3s]` before the cluster's secret joins it.
pub(super) struct Program {
    pub(super) source: Source,
    pub(super) images: Option<Archive>,
    pub(super) args: Vec<String>,
    pub(super) drain: Duration,
    pub(super) upgrade_timeout: Duration,
}

/// `Some(None)` where k3s is off.
pub(super) fn k3s(file: &K3sSection, checking: &mut Checking<'_>) -> Option<Option<Program>> {
    let args = arguments(file.args.as_ref(), checking);
    let drain = match &file.drain {
        Some(text) => drain(text, checking),
        None => Some(DEFAULT_DRAIN),
    };
    let upgrade_timeout = match &file.upgrade_timeout {
        Some(text) => upgrade_timeout(text, checking),
        None => Some(DEFAULT_UPGRADE),
    };
    if !is_enabled(file) {
        return Some(None);
    }
    let source = k3s_source::source(file, EMBEDDED, checking);
    let images = k3s_source::images(file, source.as_ref(), checking);
    Some(Some(Program {
        source: source?,
        images: images?,
        args,
        drain: drain?,
        upgrade_timeout: upgrade_timeout?,
    }))
}

pub(super) fn is_enabled(file: &K3sSection) -> bool {
    file.enabled
        .as_ref()
        .is_none_or(|enabled| *enabled.get_ref())
}

fn arguments(texts: Option<&Vec<Text>>, checking: &mut Checking<'_>) -> Vec<String> {
    let texts = texts.map(Vec::as_slice).unwrap_or_default();
    let mut after_secret = false;
    for text in texts {
        let (name, value) = text
            .get_ref()
            .split_once('=')
            .unwrap_or((text.get_ref(), ""));
        let is_secret = SECRETS.contains(&name) || TOKENS.contains(&name);
        if after_secret || (is_secret && !value.is_empty()) {
            checking.secrets.push(text.span());
        }
        after_secret = is_secret && value.is_empty();
        if SECRETS.contains(&name) {
            let what = format!(
                "the k3s argument `{name}` would show a secret to everyone on this machine"
            );
            let found = Diagnostic::error("E-K3S-ARG-SECRET", what).at(text.span());
            checking.report(found.fix("remove it: this version cannot hand this secret to k3s"));
        }
    }
    let arguments: Vec<String> = texts.iter().map(|text| text.get_ref().clone()).collect();
    for fault in argument::check(&arguments) {
        let found = Diagnostic::error(fault.code, fault.what.as_str()).at(place(&fault, texts));
        checking.report(match fault.fix {
            Some(fix) => found.fix(fix),
            None => found,
        });
    }
    arguments
}

/// Where the argument stands that a fault names in its first backticks; else all of them.
fn place(fault: &Fault, texts: &[Text]) -> Range<usize> {
    let flag = fault
        .what
        .split('`')
        .nth(1)
        .map_or("", |shown| shown.split('=').next().unwrap_or(shown));
    let named = |text: &&Text| text.get_ref().split('=').next() == Some(flag);
    let bounds = || Some(texts.first()?.span().start..texts.last()?.span().end);
    texts
        .iter()
        .find(named)
        .map(Text::span)
        .or_else(bounds)
        .unwrap_or_default()
}

fn drain(text: &Text, checking: &mut Checking<'_>) -> Option<Duration> {
    let written = text.get_ref();
    let found = match time(written) {
        Some(drain) if drain <= LONGEST_DRAIN => return Some(drain),
        Some(_) => Diagnostic::error(
            "E-K3S-DRAIN",
            format!("a drain of {written} is longer than a stop may take"),
        )
        .fix("use at most \"120s\""),
        None => Diagnostic::error("E-K3S-DRAIN", format!("\"{written}\" is not a time"))
            .fix("write \"60s\" or \"2m\""),
    };
    checking.report(found.at(text.span()));
    None
}

fn upgrade_timeout(text: &Text, checking: &mut Checking<'_>) -> Option<Duration> {
    let written = text.get_ref();
    let bounds = LEAST_UPGRADE..=LONGEST_UPGRADE;
    if let Some(timeout) = time(written).filter(|timeout| bounds.contains(timeout)) {
        return Some(timeout);
    }
    let what = format!("\"{written}\" is not a time from 10s to 120m");
    let found = Diagnostic::error("E-K3S-UPGRADE-TIMEOUT", what);
    checking.report(found.fix("write \"10m\" or \"600s\"").at(text.span()));
    None
}

/// Seconds or minutes.
fn time(written: &str) -> Option<Duration> {
    [("s", 1), ("m", 60)].iter().find_map(|(unit, seconds)| {
        let number: u64 = written.strip_suffix(unit)?.parse().ok()?;
        Some(Duration::from_secs(number.checked_mul(*seconds)?))
    })
}
