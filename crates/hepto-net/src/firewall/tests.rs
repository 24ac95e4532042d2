//! The rules in both dialects. That the kernel takes them and does as they say is shown in `tests/network`.

use super::*;
use crate::settings::Proto;

fn overlay() -> Overlay {
    let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    Overlay {
        link: "hepto0".into(),
        mtu: 1320,
        addresses: nets(&["fd00::9/64", "10.44.7.9/16"]),
        own: nets(&[
            "fd00::/64",
            "fd00:0:0:100::/56",
            "10.44.0.0/16",
            "10.42.0.0/16",
            "10.43.0.0/16",
        ]),
    }
}

fn wanted(open: &[OpenPort]) -> Ruleset {
    let on = Firewall::On {
        mesh_port: 51820,
        gossip_port: 7947,
        snapshot_port: 7948,
        open: open.to_vec(),
    };
    rules(&on, &overlay()).unwrap()
}

const HTTPS: OpenPort = OpenPort {
    proto: Proto::Tcp,
    port: 443,
};

#[test]
fn the_rules_as_json() {
    let document = nft::json(&nft::document(&wanted(&[HTTPS])));
    let lines: Vec<String> = document["nftables"]
        .as_array()
        .unwrap()
        .iter()
        .map(serde_json::Value::to_string)
        .collect();
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn the_rules_for_iptables() {
    let families = [false, true].map(|v6| iptables::document("", Some(&wanted(&[HTTPS])), v6));
    insta::assert_snapshot!(families.join("\n"));
}

#[test]
fn old_rules_for_iptables_are_taken_away_in_the_same_go() {
    let saved = "*raw\n:PREROUTING ACCEPT [0:0]\n:HEPTO-0-PRE - [0:0]\n-A PREROUTING -j HEPTO-0-PRE\n\
                 -A PREROUTING -j OTHER\n-A HEPTO-0-PRE -j DROP\nCOMMIT\n";
    insta::assert_snapshot!(iptables::document(saved, None, false), @r"
    *raw
    :HEPTO-0-PRE - [0:0]
    -D PREROUTING -j HEPTO-0-PRE
    -X HEPTO-0-PRE
    COMMIT
    *mangle
    COMMIT
    ");
}

#[test]
fn a_chains_name_fits_into_iptables() {
    let names = CHAINS.map(|chain| iptables::name(&wanted(&[]), chain));
    assert!(names.iter().all(|name| name.len() <= 28), "{names:?}");
}

#[test]
fn each_ruleset_has_a_digest_of_its_own() {
    assert_eq!(wanted(&[HTTPS]), wanted(&[HTTPS, HTTPS]));
    assert_ne!(wanted(&[HTTPS]).loaded(), wanted(&[]).loaded());
    assert_eq!(rules(&Firewall::Off, &overlay()), None);
}

#[test]
fn prefixes_do_not_overlap() {
    let nets =
        ["10.0.0.0/8", "10.44.0.0/16", "fd00::/48", "fd00::/64"].map(|net| net.parse().unwrap());
    insta::assert_snapshot!(format!("{:?}", by_family(&nets)), @"[[10.0.0.0/8], [fd00::/48]]");
}
