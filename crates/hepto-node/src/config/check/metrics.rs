//! `[metrics]`: whether the place can be listened at, as far as its text tells.

use std::net::SocketAddr;

use super::{Checking, Diagnostic};
use crate::config::Metrics;
use crate::config::file::{MetricsSection, Text};

/// The section, or nothing when it is wrong.
pub(super) fn metrics(file: &MetricsSection, checking: &mut Checking<'_>) -> Option<Metrics> {
    let listen = match &file.listen {
        Some(text) => Some(address(text, checking)?),
        None => None,
    };
    Some(Metrics { listen })
}

fn address(text: &Text, checking: &mut Checking<'_>) -> Option<SocketAddr> {
    let written = text.get_ref();
    let address = written.parse::<SocketAddr>().ok();
    let Some(address) = address.filter(|address| address.port() != 0) else {
        let what = format!("\"{written}\" is not an address of this machine with a port");
        let found = Diagnostic::error("E-METRICS-ADDR", what).at(text.span());
        checking.report(found.fix("write it as in \"127.0.0.1:9586\" or \"[::1]:9586\""));
        return None;
    };
    if !address.ip().is_loopback() {
        let what = format!(
            "whoever reaches {address} reads the metrics: they are not encrypted and ask for no password"
        );
        let found = Diagnostic::warning("W-METRICS-OPEN", what).at(text.span());
        let port = address.port();
        checking.report(found.fix(format!(
            "write \"127.0.0.1:{port}\", or let only Prometheus through this machine's firewall"
        )));
    }
    Some(address)
}
