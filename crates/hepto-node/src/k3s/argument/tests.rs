use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn arguments(role: Role) -> Arguments {
    Arguments {
        role,
        node: if role == Role::Server {
            "grumpy".into()
        } else {
            "sleepy".into()
        },
        master: "grumpy".into(),
        addresses: vec![
            "10.44.7.9".parse().unwrap(),
            "fd12:3456:789a::9".parse().unwrap(),
        ],
        pods: vec![
            "10.42.0.0/16".parse().unwrap(),
            "fd12:3456:789a:100::/56".parse().unwrap(),
        ],
        services: vec![
            "10.43.0.0/16".parse().unwrap(),
            "fd12:3456:789a:200::/112".parse().unwrap(),
        ],
        link: "hepto0".into(),
        uplink: vec![],
        bind_overlay: false,
        founded: true,
        reserved: None,
        extra: vec![],
    }
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

/// The lines of a rendered file, as name and parsed value.
fn read(text: &str) -> BTreeMap<String, serde_json::Value> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) = line.split_once(": ").expect("name and value");
            (
                name.to_owned(),
                serde_json::from_str(value).expect("a JSON value"),
            )
        })
        .collect()
}

#[test]
fn what_the_owner_keeps_is_told_to_kubelet() {
    let told = |extra: &[&str]| {
        let arguments = Arguments {
            reserved: Some("cpu=2500m,memory=2147483648".into()),
            extra: extra.iter().map(ToString::to_string).collect(),
            ..arguments(Role::Agent)
        };
        let text = render(&arguments);
        let line = text.lines().find(|line| line.starts_with("kubelet-arg"));
        line.unwrap_or_default().to_owned()
    };
    let ours = "kubelet-arg: [\"node-status-update-frequency=20s\", \"system-reserved=cpu=2500m,memory=2147483648\"";
    assert_eq!(told(&[]), format!("{ours}]"));
    assert_eq!(
        told(&["--kubelet-arg=max-pods=20"]),
        format!("{ours}, \"max-pods=20\"]")
    );
}

#[test]
fn a_new_server_is_told_everything_that_the_mesh_decides() {
    insta::assert_snapshot!(render(&arguments(Role::Server)));
}

#[test]
fn an_agent_is_told_the_server_by_name() {
    insta::assert_snapshot!(render(&arguments(Role::Agent)));
}

#[test]
fn an_older_cluster_keeps_its_traefik_and_its_plain_secrets() {
    let text = render(&Arguments {
        founded: false,
        ..arguments(Role::Server)
    });
    let settings = read(&text);
    assert!(!settings.contains_key("disable"), "{text}");
    assert!(!settings.contains_key("secrets-encryption"), "{text}");
}

#[test]
fn lists_are_extended_and_single_values_replaced() {
    let extra = words(
        "--kubelet-arg=max-pods=20 --kubelet-arg image-gc-high-threshold=70 --tls-san=api.example.org \
         --disable=servicelb --node-label=home=a --node-label=power=battery --secrets-encryption=false --debug",
    );
    assert!(check(&extra).is_empty());
    insta::assert_snapshot!(render(&Arguments {
        extra,
        ..arguments(Role::Server)
    }));
}

#[test]
fn only_public_addresses_of_the_uplink_are_shown_outside() {
    let uplink = [
        "192.168.1.5",
        "100.64.0.3",
        "203.0.113.9",
        "fd00::1",
        "fe80::1",
        "2001:db8::9",
    ];
    let uplink = uplink
        .iter()
        .map(|address| address.parse().unwrap())
        .collect();
    let settings = read(&render(&Arguments {
        uplink,
        ..arguments(Role::Agent)
    }));
    assert_eq!(settings["node-external-ip"], "203.0.113.9,2001:db8::9");
}

#[test]
fn the_api_server_is_advertised_in_the_family_of_the_first_service_prefix() {
    let mut of = arguments(Role::Server);
    of.services.reverse();
    assert_eq!(read(&render(&of))["advertise-address"], "fd12:3456:789a::9");
}

#[test]
fn a_kernel_without_ipv6_is_given_no_ipv6_address() {
    for role in [Role::Server, Role::Agent] {
        let mut of = arguments(role);
        of.services.reverse();
        of.uplink = vec![
            "203.0.113.9".parse().unwrap(),
            "2001:db8::9".parse().unwrap(),
        ];
        let settings = read(&render(&of.without_ipv6()));
        assert_eq!(settings["node-ip"], "10.44.7.9");
        assert_eq!(settings["node-external-ip"], "203.0.113.9");
        let text = format!("{settings:?}");
        for family in ["fd12:", "2001:"] {
            assert!(!text.contains(family), "{text}");
        }
        if role == Role::Server {
            assert_eq!(settings["cluster-cidr"], "10.42.0.0/16");
            assert_eq!(settings["service-cidr"], "10.43.0.0/16");
            assert_eq!(settings["advertise-address"], "10.44.7.9");
        }
    }
}

#[test]
fn without_a_firewall_the_api_listens_on_the_overlay_alone() {
    let settings = read(&render(&Arguments {
        bind_overlay: true,
        ..arguments(Role::Server)
    }));
    assert_eq!(settings["bind-address"], "10.44.7.9");
    assert!(!read(&render(&arguments(Role::Server))).contains_key("bind-address"));
}

#[test]
fn every_refused_flag_is_refused_in_each_way_of_writing_it() {
    for refusal in refusal::FLAGS {
        for line in [
            format!("--{}", refusal.flag),
            format!("--{}=x", refusal.flag),
            format!("-{} x", refusal.flag),
        ] {
            let faults = check(&words(&line));
            assert_eq!(faults.len(), 1, "{line}: {faults:?}");
            assert_eq!(faults[0].code, "E-K3S-ARG-REFUSED", "{line}");
            assert!(faults[0].fix.is_some());
        }
    }
    for (short, long) in refusal::SHORT {
        assert!(
            refusal::FLAGS.iter().any(|refusal| refusal.flag == *long),
            "{long} is refused"
        );
        assert_eq!(check(&words(&format!("-{short} x"))).len(), 1, "-{short}");
    }
    for (carrier, refusals) in refusal::COMPONENTS {
        for refusal in *refusals {
            for line in [
                format!("--{carrier}={}=1", refusal.flag),
                format!("--{carrier} --{}=1", refusal.flag),
            ] {
                let faults = check(&words(&line));
                assert!(
                    faults.iter().any(|fault| fault.code == "E-K3S-ARG-REFUSED"),
                    "{line}: {faults:?}"
                );
            }
        }
    }
}

#[test]
fn a_refused_secret_is_not_repeated() {
    let faults = check(&words(
        "--token=hunter2hunter2 -t hunter2hunter2 --agent-token hunter2hunter2",
    ));
    assert_eq!(faults.len(), 3);
    assert!(
        faults
            .iter()
            .all(|fault| !fault.to_string().contains("hunter2")),
        "{faults:?}"
    );
}

#[test]
fn words_that_belong_to_no_flag_are_refused_by_position() {
    let faults = check(&words("--debug=true stray --flannel-iface=x"));
    insta::assert_snapshot!(
        faults
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("\n")
    );
    assert_eq!(
        check(&["--node-label=a\nb".to_owned()]).len(),
        1,
        "a line break would end the YAML line"
    );
    assert_eq!(check(&words("--")).len(), 1);
    assert_eq!(check(&words("--node_label=x")).len(), 1);
}

proptest! {
    /// Whatever passes the check arrives in the file with its exact value, on one line, beside all of ours.
    #[test]
    fn values_survive_the_file(value in "\\PC{0,40}", name in "x-[a-z]{1,12}") {
        let extra = vec![format!("--{name}={value}")];
        prop_assume!(check(&extra).is_empty());
        let ours = read(&render(&arguments(Role::Server)));
        let merged = read(&render(&Arguments { extra, ..arguments(Role::Server) }));
        prop_assert_eq!(merged[&name].as_str(), Some(value.as_str()));
        for (name, value) in ours {
            prop_assert_eq!(&merged[&name], &value);
        }
    }

    /// No line of arguments, however broken, makes the check or the writing panic.
    #[test]
    fn any_arguments_are_judged(extra in proptest::collection::vec("[-=a-z ]{0,8}", 0..6)) {
        let _ = check(&extra);
        let _ = render(&Arguments { extra, ..arguments(Role::Agent) });
    }
}
