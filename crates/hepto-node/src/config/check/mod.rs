//! From [`File`] to [`Config`]: what the values mean, and every error of meaning at once.

mod addressing;
mod cluster;
mod gateway;
mod k3s;
mod k3s_source;
mod limits;
mod mesh;
mod metrics;
mod network;
mod node;
mod resolver;
mod shared;
mod snapshot;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::net::IpAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use hepto_mesh::address::Prefixes;
use ipnet::IpNet;

use super::diagnostic::{Diagnostic, Report, Source};
use super::file::{File, Spanned, Text};
use super::{Config, HostAddress, example, read};

pub use shared::shared;

/// Checks the text of the config file `path` on a machine with the addresses `host`.
pub fn check(path: &Path, text: &str, host: &[HostAddress]) -> Result<(Config, Report), Report> {
    let (config, report) = examine(path, text, Some(host));
    match config {
        Some(config) if report.errors() == 0 => Ok((config, report)),
        _ => {
            debug_assert_ne!(
                report.errors(),
                0,
                "a file is never refused without a reason"
            );
            Err(report)
        }
    }
}

/// Checks what can be checked on another machine: no file that the config names is looked at.
pub fn form(path: &Path, text: &str) -> Report {
    examine(path, text, None).1
}

fn examine(path: &Path, text: &str, machine: Option<&[HostAddress]>) -> (Option<Config>, Report) {
    let (file, mut checking) = Checking::of(text, machine);
    let config = config(path, &file, &mut checking);
    let mut diagnostics = checking.found;
    diagnostics.sort_by_key(|found| found.span.as_ref().map_or(usize::MAX, |span| span.start));
    let source = Source::new(path.display().to_string(), text, &checking.secrets);
    (
        config,
        Report {
            source,
            diagnostics,
        },
    )
}

/// Every section is checked, whatever the others hold.
fn config(path: &Path, file: &File, checking: &mut Checking<'_>) -> Option<Config> {
    let node = node::node(&file.node, checking);
    let network = network::network(&file.network, checking);
    let identity = cluster::identity(&file.cluster, checking);
    let plan = mesh::plan(&file.cluster, &file.mesh, identity.as_ref(), checking);
    let mesh = mesh::mesh(&file.mesh, checking);
    if let Some(plan) = &plan
        && plan.disjoint(&file.network, checking)
    {
        network::outside_overlay(&file.network, &plan.prefixes, checking);
        cluster::outside_overlay(&file.cluster, &plan.prefixes, checking);
        mesh::outside_overlay(&file.mesh, &plan.prefixes, checking);
    }
    let own_name = node.as_ref().map(|node| &node.name);
    if let Some((name, plan)) = own_name.zip(plan.as_ref()) {
        addressing::refuse_edge(&file.node, name, &plan.prefixes, checking);
    }
    let keys = cluster::keys(
        &file.cluster,
        &file.k3s,
        identity.as_ref(),
        own_name,
        checking,
    );
    let anchors = cluster::anchors(&file.cluster, identity.as_ref(), own_name, checking);
    let snapshot = snapshot::snapshot(&file.snapshot, checking);
    let k3s = k3s::k3s(&file.k3s, checking);
    let is_master = (own_name.zip(identity.as_ref())).is_some_and(|(own, ids)| *own == ids.master);
    let limits = limits::limits(
        &file.limits,
        k3s::is_enabled(&file.k3s),
        is_master,
        checking,
    );
    let metrics = metrics::metrics(&file.metrics, checking);
    node::secret_data(&file.node, node.as_ref(), keys.as_ref(), checking);

    let (identity, plan, keys, k3s) = (identity?, plan?, keys?, k3s?);
    Some(Config {
        path: path.to_owned(),
        node: node?,
        network: network?,
        mesh: mesh?,
        snapshot: snapshot?,
        cluster: super::Cluster {
            name: identity.name,
            master: identity.master,
            anchors,
            overlay_key: keys.overlay,
            prefixes: plan.prefixes,
            pod_cidrs: plan.pods,
            service_cidrs: plan.services,
            key_files: keys.files,
        },
        k3s: match k3s {
            None => None,
            Some(k3s) => Some(super::K3s {
                source: k3s.source,
                images: k3s.images,
                secret: keys.cluster?,
                args: k3s.args,
                drain: k3s.drain,
                upgrade_timeout: k3s.upgrade_timeout,
            }),
        },
        limits: limits?,
        metrics: metrics?,
    })
}

/// What all checks share: where to report, and what was reported already.
struct Checking<'a> {
    /// The machine's addresses; `None` where the config is another machine's.
    machine: Option<&'a [HostAddress]>,
    sections: BTreeMap<String, Range<usize>>,
    pruned: BTreeSet<String>,
    found: Vec<Diagnostic>,
    secrets: Vec<Range<usize>>,
    end: usize,
}

impl<'a> Checking<'a> {
    /// What a text says as far as its form is sound, and what is to be reported of that.
    fn of(text: &str, machine: Option<&'a [HostAddress]>) -> (File, Checking<'a>) {
        let reading = read::read(text);
        let checking = Checking {
            machine,
            sections: reading.sections,
            pruned: reading.pruned,
            found: reading.diagnostics,
            secrets: Vec::new(),
            end: text.trim_end().len(),
        };
        (reading.file, checking)
    }

    fn report(&mut self, found: Diagnostic) {
        self.found.push(found);
    }

    /// The value, or the error that it is missing, unless what stood there was wrong and is reported.
    fn required<'v, T>(&mut self, section: &str, key: &str, value: Option<&'v T>) -> Option<&'v T> {
        let path = format!("{section}.{key}");
        if value.is_none() && !self.was_wrong(section, key) {
            let found = Diagnostic::error(
                "E-CONFIG-MISSING",
                format!("`{key}` is missing from [{section}]"),
            )
            .at(self.section(section));
            self.report(match example(&path) {
                Some(example) => found.fix(format!("add below [{section}]: {example}")),
                None => found,
            });
        }
        value
    }

    /// Whether something stood there that was wrong, and is reported.
    fn was_wrong(&self, section: &str, key: &str) -> bool {
        self.pruned.contains(section) || self.pruned.contains(&format!("{section}.{key}"))
    }

    /// Where a section begins; the end of the file for one that is not there.
    fn section(&self, section: &str) -> Range<usize> {
        self.sections
            .get(section)
            .cloned()
            .unwrap_or(self.end..self.end)
    }

    /// The value parsed, or its parser's error, whose text says after a semicolon what to do.
    fn parse<T>(&mut self, text: &Text, code: impl FnOnce(&T::Err) -> &'static str) -> Option<T>
    where
        T: FromStr,
        T::Err: Display,
    {
        match text.get_ref().parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.report(from_sentence(code(&error), &error.to_string()).at(text.span()));
                None
            }
        }
    }

    /// A network prefix without bits of a single host.
    fn prefix(&mut self, text: &Text) -> Option<IpNet> {
        let written = text.get_ref();
        let refused = match written.parse::<IpNet>() {
            Ok(net) if net == net.trunc() => return Some(net),
            Ok(net) => Diagnostic::error(
                "E-NET-PREFIX",
                format!("{written} is an address within a network, not a network"),
            )
            .fix(format!("write `\"{}\"`", net.trunc())),
            Err(_) => Diagnostic::error(
                "E-NET-PREFIX",
                format!("\"{written}\" is not a network prefix"),
            )
            .fix("write it as an address, a slash and a length, as in \"10.42.0.0/16\""),
        };
        self.report(refused.at(text.span()));
        None
    }

    /// An absolute path.
    fn path(&mut self, text: &Text, path: &str) -> Option<PathBuf> {
        let written = PathBuf::from(text.get_ref());
        if written.is_absolute() {
            return Some(written);
        }
        let found = Diagnostic::error(
            "E-PATH-RELATIVE",
            format!("`{path}` is not an absolute path"),
        )
        .at(text.span());
        self.report(found.fix("write the whole path, beginning with /"));
        None
    }

    fn is_host(&self, address: IpAddr) -> Option<&HostAddress> {
        self.machine?.iter().find(|host| host.address == address)
    }
}

/// Why a value is refused, before it is known where it stands.
struct Refused {
    what: String,
    fix: String,
}

impl Refused {
    fn report(self, code: &'static str, text: &Text) -> Diagnostic {
        Diagnostic::error(code, self.what)
            .at(text.span())
            .fix(self.fix)
    }
}

/// A library's sentence: what is wrong, and after the last semicolon what to do.
fn from_sentence(code: &'static str, sentence: &str) -> Diagnostic {
    match sentence.rsplit_once("; ") {
        Some((what, fix)) => Diagnostic::error(code, what).fix(fix),
        None => Diagnostic::error(code, sentence),
    }
}

/// Refuses what lies inside the overlay: nothing outside can be reached there.
fn refuse_inner(
    checking: &mut Checking<'_>,
    prefixes: &Prefixes,
    texts: &[(IpAddr, Range<usize>)],
    what: &str,
) {
    for (address, span) in texts {
        if prefixes.is_inner(*address) {
            let sentence = format!("{address} lies inside the overlay, where {what} cannot be");
            let found = Diagnostic::error("E-NET-INNER", sentence).at(span.clone());
            checking.report(found.fix("write an address of the Internet or of the home's network"));
        }
    }
}

/// The values that are addresses, with their places.
fn addresses_of(texts: Option<&Vec<Text>>) -> Vec<(IpAddr, Range<usize>)> {
    let parsed = |text: &Spanned<String>| Some((text.get_ref().parse().ok()?, text.span()));
    texts.into_iter().flatten().filter_map(parsed).collect()
}

#[cfg(test)]
mod tests;
