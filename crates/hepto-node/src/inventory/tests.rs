//! The guide's inventory as it is printed, with real values put in, and what must be refused.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::{Literal, nodes, read};
use crate::config::{Report, Severity, Source};

const OVERLAY: &str = "abcdefghijklmnopqrstuvwxyz012345";
const CLUSTER: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345";

/// The guide's own example, comments and all, with its placeholders replaced and a second node.
const GUIDE: &str = r#"[cluster]
nodename ansible_host=1.2.3.4 iface=ens1 ip=2001:1234::1/64,192.168.123.123/24 gw=2001:1234::ffff,192.168.123.254
sleepy ansible_host=1.2.3.5 iface=ens1 ip=2001:1234::2/64,192.168.123.124/24 gw=2001:1234::ffff,192.168.123.254 network_mode=macvlan

[cluster:vars]
ansible_user=root # utilisateur pour la connexion SSH aux machines
storage_base=/srv # emplacement de stockage pour les données de base du noeud (sera suivi du nom du noeud)
anchors=["2001:2345::1","sleepy.example.org"] # liste des ancres du cluster
master=nodename # nom du noeud master du cluster
mtu=1400 # MTU convenu pour le cluster
overlay_key=abcdefghijklmnopqrstuvwxyz012345 # clé d'overlay de 32 caractères aléatoires
cluster_key=ABCDEFGHIJKLMNOPQRSTUVWXYZ012345 # clé du cluster de 32 caractères aléatoires
"#;

/// The nodes' configs, and all that is said.
fn import(text: &str) -> (Option<super::Nodes>, String) {
    let (inventory, mut found) = read(text);
    let (nodes, more) = nodes(&inventory, Path::new("/etc/hepto"));
    found.extend(more);
    let report = Report {
        source: Source::new("inventory.ini".to_owned(), text, &[]),
        diagnostics: found,
    };
    let nodes = nodes.filter(|_| report.errors() == 0);
    (nodes, report.render(false))
}

/// What is said about the guide's inventory with each of the edits alone.
fn said_after(edits: &[(&str, &str)]) -> String {
    let said = edits.iter().map(|(from, to)| {
        assert!(GUIDE.contains(from), "no {from:?} in the guide");
        import(&GUIDE.replacen(from, to, 1)).1
    });
    said.map(|text| without_comment_notice(&text))
        .collect::<Vec<_>>()
        .join("\n\n--------\n\n")
}

fn without_comment_notice(said: &str) -> String {
    let parts = said
        .split("\n\n")
        .filter(|part| !part.starts_with("warning[W-INV-COMMENT]"));
    parts.collect::<Vec<_>>().join("\n\n")
}

#[test]
fn the_guides_inventory_becomes_configs() {
    let (nodes, said) = import(GUIDE);
    let nodes = nodes.expect("a good inventory");
    let configs: Vec<&str> = nodes
        .nodes
        .iter()
        .map(|node| node.config.as_str())
        .collect();
    insta::assert_snapshot!(
        "guide",
        format!("{}\n--------\n{said}", configs.join("\n--------\n"))
    );
    assert!(nodes.named_here);
    assert_eq!(nodes.keys.overlay.as_str(), OVERLAY);
    assert_eq!(nodes.keys.cluster.as_str(), CLUSTER);
    assert!(nodes.keys.agent.len() == 32 && *nodes.keys.agent != *nodes.keys.cluster);
    let (again, _) = import(GUIDE);
    assert_eq!(
        again.expect("good").cluster,
        nodes.cluster,
        "the made name is the same at every import"
    );
}

#[test]
fn two_homes_may_have_the_same_private_address_and_one_may_not() {
    let same = GUIDE.replace("192.168.123.124", "192.168.123.123");
    let (nodes, said) = import(&same);
    assert!(nodes.is_none() && said.contains("E-INV-ADDR-DUP"), "{said}");
    let elsewhere = same.replace("2001:1234::2/64", "2001:1235::2/64").replace(
        "gw=2001:1234::ffff,192.168.123.254 network",
        "gw=2001:1235::ffff,192.168.123.254 network",
    );
    let (nodes, said) = import(&elsewhere);
    assert!(
        nodes.is_some() && said.contains("W-INV-ADDR-PRIVATE"),
        "{said}"
    );
    assert!(!said.contains("E-INV-ADDR-DUP"), "{said}");
}

#[test]
fn keys_are_never_shown() {
    let edits = [
        (
            "iface=ens1",
            "iface=ens1 overlay_key='QRSTUVWXYZ0123456789' oops",
        ),
        ("overlay_key=", "overlay_key = é"),
    ];
    let said = said_after(&edits);
    assert!(said.contains("overlay_key='****"), "{said}");
    for secret in [OVERLAY, CLUSTER, "QRSTUVWXYZ0123456789"] {
        assert!(!said.contains(secret), "{said}");
    }
}

#[test]
fn optional_variables_and_other_ways_to_write_them() {
    let text = GUIDE
        .replace("mtu=1400", "mtu=\"1500\"")
        .replace("gw=2001:1234::ffff,192.168.123.254 network", "gw='[\"fe80::1\", {\"via\": \"198.51.100.1\", \"onlink\": True}]' k3s_enabled=False network")
        .replace("[cluster:vars]", "[cluster:vars]\ncluster_name=acides\nmesh_port=51821\ndns=192.168.123.254\nhost_link=True\nk3s_args=['--debug']");
    let (nodes, said) = import(&text);
    let nodes = nodes.unwrap_or_else(|| panic!("{said}"));
    insta::assert_snapshot!("optional", nodes.nodes[1].config);
    assert_eq!(
        (nodes.cluster.as_str(), nodes.named_here),
        ("acides", false)
    );
}

#[test]
fn a_key_of_digits_stays_what_was_written() {
    let digits = "12345678901234567890123456789012";
    let (nodes, _) = import(&GUIDE.replace(OVERLAY, digits));
    assert_eq!(nodes.expect("good").keys.overlay.as_str(), digits);
    let exponent = "1234567890123456789012345678901e5";
    let (nodes, _) = import(&GUIDE.replace(OVERLAY, &exponent[1..]));
    assert_eq!(nodes.expect("good").keys.overlay.as_str(), &exponent[1..]);
}

#[test]
fn lines_that_are_refused() {
    insta::assert_snapshot!(said_after(&[
        ("[cluster]", "[cluster ]"),
        ("[cluster]", "[cluster:nodes]"),
        ("iface=ens1", "iface=\"ens1"),
        ("iface=ens1", "iface ens1"),
        ("nodename ansible", "node[3:1] ansible"),
        ("master=nodename", "master nodename"),
        ("[cluster:vars]", "[clusters:vars]"),
        ("[cluster:vars]", "[all:children]\nhomes\n[cluster:vars]"),
        (
            "[cluster:vars]",
            "[a:children]\nb\n[b:children]\na\n[cluster:vars]"
        ),
    ]));
}

#[test]
fn nodes_that_are_refused() {
    insta::assert_snapshot!(said_after(&[
        ("sleepy ansible", "nodename ansible"),
        ("master=nodename", "master=nodenam"),
        ("2001:1234::2/64", "2001:1234::1/64"),
        ("iface=ens1", "storage_base=srv"),
        ("sleepy ansible", "Sleepy_ ansible"),
        (
            "network_mode=macvlan",
            "network_mode=vlan mtu=1300 anchors=[\"a\",\"b\"]"
        ),
        ("gw=2001:1234::ffff", "gw=2001:1235::ffff"),
        ("mtu=1400", "mtu=lots"),
        ("mtu=1400", "mtu={}"),
        ("mtu=1400", "dns=[[1]]"),
        ("overlay_key=", "overlay_key=x"),
        (CLUSTER, OVERLAY),
        ("network_mode=macvlan", "netwrk_mode=macvlan owner=paul"),
        ("[cluster:vars]", "[others]\npaul\n[cluster:vars]"),
    ]));
    insta::assert_snapshot!(
        "empty",
        format!("{}\n\n{}", import("").1, import("[cluster]\n").1)
    );
}

#[test]
fn ranges_groups_and_their_variables() {
    let text = GUIDE
        .replace(" ip=2001:1234::1/64,192.168.123.123/24", "")
        .replace("nodename ansible", "nodename ip=192.168.123.1/24 ansible")
        .replace("sleepy ", "n[1:2] ")
        .replace(" ip=2001:1234::2/64,192.168.123.124/24", "")
        .replace("gw=2001:1234::ffff,192.168.123.254", "gw=192.168.123.254")
        .replace("[cluster]\n", "[attic]\nn1 ip=192.168.123.2/24\nn2 ip=192.168.123.3/24\n[attic:vars]\niface=wlan0\nmtu=1400\n[cluster:children]\nattic\n[cluster]\n")
        .replace("iface=ens1 gw=192.168.123.254 network_mode", "gw=192.168.123.254 network_mode");
    let (nodes, said) = import(&text);
    let nodes = nodes.unwrap_or_else(|| panic!("{said}"));
    let names: Vec<&str> = nodes.nodes.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names, ["n1", "n2", "nodename"]);
    assert!(
        nodes.nodes[1].config.contains("interface = \"wlan0\""),
        "a child group's variable"
    );
    assert!(
        nodes.nodes[2].config.contains("interface = \"ens1\""),
        "a host's own variable"
    );
}

/// A host's variables as JSON.
type Variables = BTreeMap<String, serde_json::Value>;

/// Compares with what `ansible/record.py` recorded of Ansible itself. The differences are those named in the cases:
/// comments that Ansible keeps, and a host that it merges where we refuse it.
#[test]
fn ansible_reads_the_same() {
    let recorded: BTreeMap<String, Option<BTreeMap<String, Variables>>> =
        serde_json::from_str(include_str!("ansible/recorded.json")).expect("JSON");
    let cases = include_str!("ansible/cases.txt").split("\n=== ").skip(1);
    let mut compared = 0;
    for (name, text) in cases.map(|case| case.split_once('\n').expect("a name and an inventory")) {
        let (inventory, found) = read(text);
        let refused = found.iter().any(|found| found.severity == Severity::Error);
        let Some(hosts) = &recorded[name] else {
            assert!(refused, "{name}: Ansible refuses it");
            compared += 1;
            continue;
        };
        assert_eq!(
            refused,
            name.contains("merged by Ansible"),
            "{name}: {found:?}"
        );
        let ours: BTreeSet<&str> = inventory.hosts().collect();
        assert_eq!(ours, hosts.keys().map(String::as_str).collect(), "{name}");
        for (host, theirs) in hosts {
            let ours = inventory.variables(host);
            // SSH's port and the weight of a group are no variables of a node.
            let theirs: BTreeMap<&str, _> = theirs
                .iter()
                .map(|(key, value)| (key.as_str(), value))
                .filter(|(key, _)| *key != "ansible_port")
                .collect();
            let keys = ours
                .keys()
                .copied()
                .filter(|key| *key != "ansible_group_priority");
            assert_eq!(
                keys.collect::<Vec<_>>(),
                theirs.keys().copied().collect::<Vec<_>>(),
                "{name}: {host}"
            );
            for (key, theirs) in theirs {
                let value = &ours[key].value;
                let kept = name.contains("kept by Ansible") && is_with_comment(value, theirs);
                assert!(
                    kept || is_same(value, theirs),
                    "{name}: {host}: {key}: {value:?} is not {theirs}"
                );
            }
        }
        compared += 1;
    }
    assert_eq!(compared, recorded.len(), "every recorded case is compared");
}

/// Whether theirs is ours with a comment behind it.
fn is_with_comment(ours: &Literal, theirs: &serde_json::Value) -> bool {
    let (Literal::Text(ours), Some(theirs)) = (ours, theirs.as_str()) else {
        return false;
    };
    theirs
        .strip_prefix(ours.as_str())
        .is_some_and(|rest| rest.trim_start().starts_with('#') && rest.starts_with([' ', '\t']))
}

fn is_same(ours: &Literal, theirs: &serde_json::Value) -> bool {
    match ours {
        Literal::Text(text) => theirs.as_str() == Some(text),
        Literal::Number(text) => theirs["number"].as_str().is_some_and(|theirs| number(text) == number(theirs)),
        Literal::Truth(truth) => theirs.as_bool() == Some(*truth),
        Literal::Nothing => theirs.is_null(),
        Literal::List(items) => theirs.as_array().is_some_and(|theirs| {
            theirs.len() == items.len() && items.iter().zip(theirs).all(|(ours, theirs)| is_same(ours, theirs))
        }),
        Literal::Dict(pairs) => theirs.as_object().is_some_and(|theirs| {
            let same = |(key, value): &(Literal, Literal)| {
                matches!(key, Literal::Text(key) if theirs.get(key).is_some_and(|theirs| is_same(value, theirs)))
            };
            theirs.len() == pairs.len() && pairs.iter().all(same)
        }),
    }
}

/// The value of a number as Python writes it.
fn number(text: &str) -> f64 {
    let plain = text.replace('_', "").to_lowercase();
    let (sign, digits) = plain
        .strip_prefix('-')
        .map_or((1.0, plain.as_str()), |digits| (-1.0, digits));
    let radix = match digits.get(..2) {
        Some("0x") => 16,
        Some("0o") => 8,
        Some("0b") => 2,
        _ => return sign * digits.parse::<f64>().expect(text),
    };
    sign * u64::from_str_radix(&digits[2..], radix).expect(text) as f64
}

proptest::proptest! {
    #[test]
    fn garbage_never_panics(text in "([a-z\\[\\]:='\"#,. \\\\0-9é]{0,40}\n){0,8}") {
        import(&text);
        import(&format!("{GUIDE}{text}"));
    }
}
