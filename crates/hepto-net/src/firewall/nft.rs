//! The rules in nftables' JSON, by the host's `nft`.

use std::borrow::Cow;
use std::path::Path;

use ipnet::IpNet;
use nftables::batch::Batch;
use nftables::expr::{
    CT, Expression, Meta, MetaKey, NamedExpression, Payload, PayloadField, Prefix, SetItem,
};
use nftables::schema::{Chain as NfChain, NfListObject, Nftables, Rule as NfRule, Table};
use nftables::stmt::{Match as NfMatch, Operator, Statement};
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};
use serde_json::Value;

use super::{CHAINS, Chain, Loaded, Match, OUTSIDE, Rule, Ruleset, TABLE, Verdict, run};
use crate::error::Error;
use crate::settings::Proto;

pub(super) fn load(nft: &Path, ruleset: &Ruleset) -> Result<(), Error> {
    apply(nft, &document(ruleset))
}

pub(super) fn unload(nft: &Path) -> Result<(), Error> {
    let mut batch = Batch::new();
    batch.add(NfListObject::Table(table()));
    batch.delete(NfListObject::Table(table()));
    apply(nft, &batch.to_nftables())
}

fn apply(nft: &Path, document: &Nftables) -> Result<(), Error> {
    run(nft, &["-j", "-f", "-"], &json(document).to_string())
        .map(drop)
        .map_err(|why| Error::Firewall { tool: "nft", why })
}

/// The document as nft takes it: the library writes `notrack` as a mere string, where nft wants an object.
pub(super) fn json(document: &Nftables) -> Value {
    let mut json = serde_json::to_value(document).expect("nftables' own types are always JSON");
    let commands = json.pointer_mut("/nftables").and_then(Value::as_array_mut);
    for command in commands.into_iter().flatten() {
        let statements = command
            .pointer_mut("/add/rule/expr")
            .and_then(Value::as_array_mut);
        for statement in statements
            .into_iter()
            .flatten()
            .filter(|statement| *statement == "notrack")
        {
            *statement = serde_json::json!({ "notrack": null });
        }
    }
    json
}

/// Which of our rulesets is loaded: the wanted one only if its mark and every rule are there.
pub(super) fn read(nft: &Path, wanted: Option<&Ruleset>) -> Option<Loaded> {
    let listing = run(nft, &["-j", "list", "table", "inet", TABLE], "").ok()?;
    let listing: Value = serde_json::from_str(&listing).ok()?;
    let objects = listing["nftables"].as_array()?;
    let whole = wanted.is_some_and(|wanted| {
        let marked = objects
            .iter()
            .any(|object| object["chain"]["name"] == mark(wanted));
        let hooked = objects
            .iter()
            .filter(|object| object["chain"]["hook"].is_string())
            .count();
        // Every rule has its reason beside it.
        let rules = objects.iter().filter_map(|object| object.get("rule"));
        let reasons = rules.map(|rule| (rule["chain"].as_str(), rule["comment"].as_str()));
        let expected = in_order(wanted).map(|rule| (Some(name(rule.chain)), Some(rule.why)));
        marked && hooked == CHAINS.len() && reasons.eq(expected)
    });
    Some(if whole {
        wanted?.loaded()
    } else {
        Loaded::other()
    })
}

/// A chain without hook or rules, only there to be found again.
fn mark(ruleset: &Ruleset) -> String {
    format!("rules-{}", ruleset.digest)
}

/// The rules chain by chain, as nft lists them.
fn in_order(ruleset: &Ruleset) -> impl Iterator<Item = &Rule> {
    CHAINS
        .into_iter()
        .flat_map(|chain| ruleset.rules.iter().filter(move |rule| rule.chain == chain))
}

/// One transaction: a table that is there is replaced.
pub(super) fn document(ruleset: &Ruleset) -> Nftables<'static> {
    let mut batch = Batch::new();
    batch.add(NfListObject::Table(table()));
    batch.delete(NfListObject::Table(table()));
    batch.add(NfListObject::Table(table()));
    batch.add(NfListObject::Chain(NfChain {
        family: NfFamily::INet,
        table: TABLE.into(),
        name: mark(ruleset).into(),
        ..NfChain::default()
    }));
    for chain in CHAINS {
        batch.add(NfListObject::Chain(base_chain(chain)));
    }
    for rule in in_order(ruleset) {
        batch.add(NfListObject::Rule(NfRule {
            family: NfFamily::INet,
            table: TABLE.into(),
            chain: name(rule.chain).into(),
            expr: rule
                .matches
                .iter()
                .flat_map(matching)
                .chain([verdict(rule.verdict)])
                .collect::<Vec<_>>()
                .into(),
            comment: Some(rule.why.into()),
            ..NfRule::default()
        }));
    }
    batch.to_nftables()
}

fn table() -> Table<'static> {
    Table {
        family: NfFamily::INet,
        name: TABLE.into(),
        handle: None,
    }
}

fn name(chain: Chain) -> &'static str {
    match chain {
        Chain::Prerouting => "prerouting",
        Chain::Output => "output",
        Chain::Input => "input",
        Chain::Forward => "forward",
        Chain::Postrouting => "postrouting",
    }
}

/// Priorities (linux/netfilter_ipv4.h): -300 raw, before tracking (-200) and destination translation (-100); 90 just
/// before source translation (100).
fn base_chain(chain: Chain) -> NfChain<'static> {
    let (hook, priority) = match chain {
        Chain::Prerouting => (NfHook::Prerouting, -300),
        Chain::Output => (NfHook::Output, -300),
        Chain::Input => (NfHook::Input, 0),
        Chain::Forward => (NfHook::Forward, -10),
        Chain::Postrouting => (NfHook::Postrouting, 90),
    };
    NfChain {
        family: NfFamily::INet,
        table: TABLE.into(),
        name: name(chain).into(),
        _type: Some(NfChainType::Filter),
        hook: Some(hook),
        prio: Some(priority),
        policy: Some(NfChainPolicy::Accept),
        ..NfChain::default()
    }
}

fn verdict(verdict: Verdict) -> Statement<'static> {
    match verdict {
        Verdict::Accept => Statement::Accept(None),
        Verdict::Drop => Statement::Drop(None),
        Verdict::Untracked => Statement::Notrack,
    }
}

fn matching(matching: &Match) -> Vec<Statement<'static>> {
    use Operator::{EQ, IN};
    match matching {
        Match::From(link) => vec![compare(meta(MetaKey::Iifname), EQ, text(link.clone()))],
        Match::FromOutside => vec![compare(meta(MetaKey::Iifname), EQ, set(OUTSIDE.map(text)))],
        Match::ToOutside => vec![compare(meta(MetaKey::Oifname), EQ, set(OUTSIDE.map(text)))],
        Match::Source(nets) => vec![compare(
            payload(protocol(nets), "saddr"),
            EQ,
            prefixes(nets),
        )],
        Match::Destination(nets) => vec![compare(
            payload(protocol(nets), "daddr"),
            EQ,
            prefixes(nets),
        )],
        Match::SourcePort(proto, port) => vec![compare(
            payload(transport(*proto), "sport"),
            EQ,
            number(*port),
        )],
        Match::DestinationPort(proto, port) => vec![compare(
            payload(transport(*proto), "dport"),
            EQ,
            number(*port),
        )],
        Match::AnyDestinationPort(port) => vec![
            compare(meta(MetaKey::L4proto), EQ, set(["tcp", "udp"].map(text))),
            compare(payload("th", "dport"), EQ, number(*port)),
        ],
        Match::Known => vec![compare(
            tracked("state"),
            IN,
            Expression::List(["established", "related"].map(text).into()),
        )],
        Match::Translated => vec![compare(tracked("status"), IN, text("dnat"))],
        Match::Icmp(types) => vec![compare(
            payload("icmp", "type"),
            EQ,
            set(types.iter().map(|kind| number(*kind))),
        )],
        Match::Icmpv6(types) => vec![compare(
            payload("icmpv6", "type"),
            EQ,
            set(types.iter().map(|kind| number(*kind))),
        )],
        Match::HopLimit(limit) => vec![compare(payload("ip6", "hoplimit"), EQ, number(*limit))],
    }
}

fn compare(
    left: Expression<'static>,
    op: Operator,
    right: Expression<'static>,
) -> Statement<'static> {
    Statement::Match(NfMatch { left, right, op })
}

fn text(text: impl Into<Cow<'static, str>>) -> Expression<'static> {
    Expression::String(text.into())
}

fn number(number: impl Into<u32>) -> Expression<'static> {
    Expression::Number(number.into())
}

fn set(items: impl IntoIterator<Item = Expression<'static>>) -> Expression<'static> {
    Expression::Named(NamedExpression::Set(
        items.into_iter().map(SetItem::Element).collect(),
    ))
}

fn meta(key: MetaKey) -> Expression<'static> {
    Expression::Named(NamedExpression::Meta(Meta { key }))
}

fn tracked(key: &'static str) -> Expression<'static> {
    Expression::Named(NamedExpression::CT(CT {
        key: key.into(),
        family: None,
        dir: None,
    }))
}

fn payload(protocol: &'static str, field: &'static str) -> Expression<'static> {
    let field = PayloadField {
        protocol: protocol.into(),
        field: field.into(),
    };
    Expression::Named(NamedExpression::Payload(Payload::PayloadField(field)))
}

fn prefixes(nets: &[IpNet]) -> Expression<'static> {
    set(nets.iter().map(|net| {
        Expression::Named(NamedExpression::Prefix(Prefix {
            addr: Box::new(text(net.network().to_string())),
            len: net.prefix_len().into(),
        }))
    }))
}

/// A match on addresses has those of one family.
fn protocol(nets: &[IpNet]) -> &'static str {
    if nets.iter().all(|net| net.addr().is_ipv4()) {
        "ip"
    } else {
        "ip6"
    }
}

fn transport(proto: Proto) -> &'static str {
    match proto {
        Proto::Tcp => "tcp",
        Proto::Udp => "udp",
    }
}
