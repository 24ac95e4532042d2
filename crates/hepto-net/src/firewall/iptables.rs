//! The rules in iptables' restore format, for hosts without nft. Judged in the tables `raw` and `mangle`, before
//! `filter`, where Kubernetes puts its own rules at the top.

use std::fmt::Write;
use std::path::PathBuf;

use ipnet::IpNet;

use super::{CHAINS, Chain, Loaded, Match, OUTSIDE, Rule, Ruleset, Verdict, program, run};
use crate::error::Error;

/// iptables' programs of both families.
#[derive(Debug, Clone)]
pub(super) struct Programs {
    families: [Family; 2],
}

#[derive(Debug, Clone)]
struct Family {
    v6: bool,
    restore: PathBuf,
    save: PathBuf,
}

impl Programs {
    pub fn find(folders: &[PathBuf]) -> Option<Programs> {
        let family = |v6, restore, save| {
            Some(Family {
                v6,
                restore: program(folders, restore)?,
                save: program(folders, save)?,
            })
        };
        Some(Programs {
            families: [
                family(false, "iptables-restore", "iptables-save")?,
                family(true, "ip6tables-restore", "ip6tables-save")?,
            ],
        })
    }

    pub fn load(&self, ruleset: &Ruleset) -> Result<(), Error> {
        self.families
            .iter()
            .try_for_each(|family| family.replace(Some(ruleset)))
    }

    pub fn unload(&self) -> Result<(), Error> {
        self.families
            .iter()
            .try_for_each(|family| family.replace(None))
    }

    /// Which of our rulesets is loaded: the wanted one only if both families have every rule of it.
    pub fn read(&self, wanted: Option<&Ruleset>) -> Option<Loaded> {
        let saved: Vec<String> = self
            .families
            .iter()
            .map(|family| family.saved().unwrap_or_default())
            .collect();
        if !saved.iter().any(|saved| saved.lines().any(is_ours)) {
            return None;
        }
        let whole = wanted.is_some_and(|wanted| {
            self.families
                .iter()
                .zip(&saved)
                .all(|(family, saved)| is_whole(saved, wanted, family.v6))
        });
        Some(if whole {
            wanted?.loaded()
        } else {
            Loaded::other()
        })
    }
}

impl Family {
    /// Both tables as they are; a table that no one has used is empty.
    fn saved(&self) -> Result<String, String> {
        Ok(run(&self.save, &["-t", "raw"], "")? + &run(&self.save, &["-t", "mangle"], "")?)
    }

    fn replace(&self, ruleset: Option<&Ruleset>) -> Result<(), Error> {
        let said = |why| Error::Firewall {
            tool: "iptables-restore",
            why,
        };
        let saved = self.saved().map_err(said)?;
        let input = document(&saved, ruleset, self.v6);
        run(&self.restore, &["--noflush", "-w", "5"], &input)
            .map(drop)
            .map_err(said)
    }
}

const PREFIX: &str = "HEPTO-";

fn is_ours(line: &str) -> bool {
    line.split(' ')
        .any(|word| word.trim_start_matches(':').starts_with(PREFIX))
}

/// A chain of our own, with the digest in its name.
pub(super) fn name(ruleset: &Ruleset, chain: Chain) -> String {
    format!("{PREFIX}{}-{}", ruleset.digest, builtin(chain).1)
}

/// The table, the short name (a chain's name holds 28 characters) and the chain from which ours is called.
fn builtin(chain: Chain) -> (&'static str, &'static str, &'static str) {
    match chain {
        Chain::Prerouting => ("raw", "PRE", "PREROUTING"),
        Chain::Output => ("raw", "OUT", "OUTPUT"),
        Chain::Input => ("mangle", "IN", "INPUT"),
        Chain::Forward => ("mangle", "FWD", "FORWARD"),
        Chain::Postrouting => ("mangle", "POST", "POSTROUTING"),
    }
}

fn is_whole(saved: &str, wanted: &Ruleset, v6: bool) -> bool {
    CHAINS.into_iter().all(|chain| {
        let name = name(wanted, chain);
        let called = format!("-A {} -j {name}", builtin(chain).2);
        let rules = saved
            .lines()
            .filter(|line| line.starts_with(&format!("-A {name} ")))
            .count();
        let expected: usize = wanted
            .rules
            .iter()
            .filter(|rule| rule.chain == chain)
            .map(|rule| lines(rule, v6).len())
            .sum();
        saved.lines().any(|line| line == called) && rules == expected
    })
}

/// Takes away what `saved` shows of ours and puts the ruleset there; atomic for each table.
pub(super) fn document(saved: &str, ruleset: Option<&Ruleset>, v6: bool) -> String {
    let mut text = String::new();
    for table in ["raw", "mangle"] {
        let old = saved
            .split_once(&format!("*{table}\n"))
            .map_or("", |(_, rest)| rest);
        let old = old.split_once("COMMIT").map_or("", |(table, _)| table);
        let mut removals = String::new();
        let mut add = |line: std::fmt::Arguments| {
            text.write_fmt(line).expect("a string grows");
            text.push('\n');
        };
        add(format_args!("*{table}"));
        // A declared chain that is there is emptied.
        let chains = |line: &str| {
            line.strip_prefix(':')
                .and_then(|line| line.split(' ').next())
                .map(str::to_owned)
        };
        for chain in old
            .lines()
            .filter_map(chains)
            .filter(|name| name.starts_with(PREFIX))
        {
            add(format_args!(":{chain} - [0:0]"));
            writeln!(removals, "-X {chain}").expect("a string grows");
        }
        for call in old
            .lines()
            .filter_map(|line| line.strip_prefix("-A "))
            .filter(|line| is_ours(line))
        {
            if !call.starts_with(PREFIX) {
                add(format_args!("-D {call}"));
            }
        }
        text.push_str(&removals);
        if let Some(ruleset) = ruleset {
            put(&mut text, table, ruleset, v6);
        }
        text.push_str("COMMIT\n");
    }
    text
}

fn put(text: &mut String, table: &str, ruleset: &Ruleset, v6: bool) {
    for chain in CHAINS
        .into_iter()
        .filter(|chain| builtin(*chain).0 == table)
    {
        let name = name(ruleset, chain);
        writeln!(text, ":{name} - [0:0]").expect("a string grows");
        for rule in ruleset.rules.iter().filter(|rule| rule.chain == chain) {
            for line in lines(rule, v6) {
                writeln!(text, "-A {name}{line}").expect("a string grows");
            }
        }
        writeln!(text, "-I {} 1 -j {name}", builtin(chain).2).expect("a string grows");
    }
}

/// A rule in one family; several lines where it names several addresses, types or protocols, none where it is of the
/// other family.
fn lines(rule: &Rule, v6: bool) -> Vec<String> {
    let mut lines = vec![String::new()];
    // `-p` comes before the options of its protocol.
    for options in rule.matches.iter().map(|matching| options(matching, v6)) {
        lines = lines
            .iter()
            .flat_map(|line| options.iter().map(move |option| merge(line, option)))
            .collect();
    }
    let verdict = match rule.verdict {
        // Not ACCEPT: that would end the whole table.
        Verdict::Accept => "-j RETURN",
        Verdict::Drop => "-j DROP",
        Verdict::Untracked => "-j CT --notrack",
    };
    lines
        .into_iter()
        .map(|line| format!("{line} {verdict}"))
        .collect()
}

/// The line with one more option. A protocol may be named only once.
fn merge(line: &str, option: &str) -> String {
    let named = option
        .strip_prefix("-p udp ")
        .filter(|_| line.contains("-p udp"));
    format!("{line} {}", named.unwrap_or(option))
}

fn options(matching: &Match, v6: bool) -> Vec<String> {
    let only = |family: bool, options: Vec<String>| if family == v6 { options } else { Vec::new() };
    let each = |flag: &str, nets: &[IpNet]| {
        nets.iter()
            .filter(|net| net.addr().is_ipv6() == v6)
            .map(|net| format!("{flag} {net}"))
            .collect()
    };
    match matching {
        Match::From(link) => vec![format!("-i {link}")],
        Match::FromOutside => OUTSIDE.map(|link| format!("-i {link}")).into(),
        Match::ToOutside => OUTSIDE.map(|link| format!("-o {link}")).into(),
        Match::Source(nets) => each("-s", nets),
        Match::Destination(nets) => each("-d", nets),
        Match::SourcePort(proto, port) => vec![format!("-p {proto} --sport {port}")],
        Match::DestinationPort(proto, port) => vec![format!("-p {proto} --dport {port}")],
        Match::AnyDestinationPort(port) => ["tcp", "udp"]
            .map(|proto| format!("-p {proto} --dport {port}"))
            .into(),
        Match::Known => vec!["-m conntrack --ctstate ESTABLISHED,RELATED".into()],
        Match::Translated => vec!["-m conntrack --ctstate DNAT".into()],
        Match::Icmp(types) => only(
            false,
            types
                .iter()
                .map(|kind| format!("-p icmp --icmp-type {kind}"))
                .collect(),
        ),
        Match::Icmpv6(types) => only(
            true,
            types
                .iter()
                .map(|kind| format!("-p icmpv6 --icmpv6-type {kind}"))
                .collect(),
        ),
        Match::HopLimit(limit) => only(true, vec![format!("-m hl --hl-eq {limit}")]),
    }
}
