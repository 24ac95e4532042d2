//! Namespaces that are there already: adopted, refused, or half made by a run that died.

use std::fs;

use hepto_net::{Firewall, Network, UplinkKind, teardown};

use crate::lab::*;

#[test]
fn a_run_that_died_is_adopted_with_nothing_to_do() {
    isolated(
        "adoption::a_run_that_died_is_adopted_with_nothing_to_do",
        async || {
            wire();
            let mut network = open(settings()).await;
            inside("ip tuntap add hepto0 mode tun");
            converge(&mut network).await;
            usable(&mut network).await;
            let before = inside("ip -o link show uplink");
            drop(network);
            let mut network = open(settings()).await;
            assert_eq!(text(&converge(&mut network).await.steps), "");
            assert_eq!(inside("ip -o link show uplink"), before);
            close(network).await;
        },
    );
}

#[test]
fn changed_settings_are_applied_to_what_is_adopted() {
    isolated(
        "adoption::changed_settings_are_applied_to_what_is_adopted",
        async || {
            wire();
            let mut network = open(settings()).await;
            converge(&mut network).await;
            drop(network);
            let mut changed = settings();
            changed.uplink.addresses = vec![
                "192.0.2.2/24".parse().unwrap(),
                "2001:db8::1/60".parse().unwrap(),
            ];
            changed.uplink.mac = Some([2, 0, 0, 0, 0, 7]);
            changed.firewall = Firewall::Off;
            let mut network = open(changed).await;
            converge(&mut network).await;
            assert_eq!(text(&converge(&mut network).await.steps), "");
            let link = inside("ip address show uplink");
            for expected in ["02:00:00:00:00:07", "192.0.2.2/24", "2001:db8::1/60"] {
                assert!(link.contains(expected), "{expected}: {link}");
            }
            assert!(!link.contains("192.0.2.1/24"), "{link}");
            assert_eq!(inside("nft list ruleset"), "");
            close(network).await;
        },
    );
}

#[test]
fn a_link_that_only_has_the_uplinks_name_makes_room() {
    isolated(
        "adoption::a_link_that_only_has_the_uplinks_name_makes_room",
        async || {
            wire();
            let mut network = open(settings()).await;
            inside("ip link add uplink type bridge");
            assert!(is_up(&converge(&mut network).await));
            assert!(inside("ip -d link show uplink").contains("macvlan"));
            close(network).await;
        },
    );
}

#[test]
fn namespaces_of_others_are_refused_and_left_alone() {
    isolated(
        "adoption::namespaces_of_others_are_refused_and_left_alone",
        async || {
            ip(&format!("netns add {NAMESPACE}"));
            for (alias, found) in [
                (None, "by no one"),
                (Some("hepto:acides:venus"), "`hepto:acides:venus`"),
            ] {
                if let Some(alias) = alias {
                    inside(&format!("ip link set lo alias {alias}"));
                }
                let error = refused(settings()).await;
                assert_eq!(error.code(), "E-NET-FOREIGN");
                assert!(error.to_string().contains(found), "{error}");
                assert!(
                    error
                        .fix()
                        .unwrap()
                        .contains(&format!("ip netns delete {NAMESPACE}"))
                );
                assert_eq!(
                    codes(&teardown(NAMESPACE, MARKER, "ens1").await),
                    ["E-NET-FOREIGN"]
                );
                assert!(ip("netns list").contains(NAMESPACE), "it is still there");
            }
            ip(&format!("netns delete {NAMESPACE}"));
            fs::File::create(PIN).unwrap();
            run("mount", &format!("--bind /proc/self/ns/net {PIN}"));
            assert!(
                refused(settings())
                    .await
                    .to_string()
                    .contains("as the host's own")
            );
            run("umount", PIN);
            run("mount", &format!("--bind /proc/self/ns/uts {PIN}"));
            let error = refused(settings()).await;
            assert_eq!(error.code(), "E-NET-PIN", "{error}");
        },
    );
}

#[test]
fn a_name_taken_by_something_else_is_refused_and_left_alone() {
    isolated(
        "adoption::a_name_taken_by_something_else_is_refused_and_left_alone",
        async || {
            let refused_with = async |found: &str| {
                let error = refused(settings()).await;
                assert_eq!(error.code(), "E-NET-PIN");
                assert!(error.to_string().contains(found), "{error}");
                assert_eq!(
                    codes(&teardown(NAMESPACE, MARKER, "ens1").await),
                    ["E-NET-PIN"]
                );
            };
            fs::create_dir_all(PIN).unwrap();
            refused_with("a directory").await;
            fs::remove_dir(PIN).unwrap();
            fs::write(PIN, "notes").unwrap();
            refused_with("a file").await;
            assert_eq!(fs::read_to_string(PIN).unwrap(), "notes");
            fs::remove_file(PIN).unwrap();
            std::os::unix::fs::symlink("/proc/self/ns/net", PIN).unwrap();
            refused_with("a symbolic link").await;
        },
    );
}

#[test]
fn a_run_that_died_half_way_is_in_no_ones_way() {
    isolated(
        "adoption::a_run_that_died_half_way_is_in_no_ones_way",
        async || {
            // It died between the file and the mount on it.
            fs::create_dir_all("/run/netns").unwrap();
            fs::File::create(PIN).unwrap();
            close(open(settings()).await).await;
            fs::create_dir_all("/run/netns").unwrap();
            fs::File::create(PIN).unwrap();
            assert_eq!(codes(&teardown(NAMESPACE, MARKER, "ens1").await), [""; 0]);
            assert_nothing_left();
            assert_eq!(
                codes(&teardown(NAMESPACE, MARKER, "ens1").await),
                [""; 0],
                "twice is as good as once"
            );
        },
    );
}

/// Killed at every few milliseconds of its start: the next run takes over, or all is taken away.
#[test]
fn a_run_killed_at_any_moment_is_in_no_ones_way() {
    isolated(
        "adoption::a_run_killed_at_any_moment_is_in_no_ones_way",
        async || {
            wire();
            let me = std::env::current_exe().unwrap();
            for moment in 0..30 {
                let mut child = std::process::Command::new(&me)
                    .args(["--exact", "adoption::a_run_to_be_killed", "--ignored"])
                    .stdout(std::process::Stdio::null())
                    .spawn()
                    .unwrap();
                // Any moment will do: none is waited for.
                std::thread::sleep(std::time::Duration::from_millis(3 * moment));
                child.kill().unwrap();
                child.wait().unwrap();
                if moment % 3 == 2 {
                    assert_eq!(
                        codes(&teardown(NAMESPACE, MARKER, "ens1").await),
                        [""; 0],
                        "{moment}"
                    );
                    assert_nothing_left();
                    continue;
                }
                let mut network = open(linked()).await;
                assert!(is_up(&converge(&mut network).await), "{moment}");
                assert_eq!(text(&converge(&mut network).await.steps), "", "{moment}");
                if moment % 3 == 1 {
                    close(network).await;
                }
            }
            assert_eq!(codes(&teardown(NAMESPACE, MARKER, "ens1").await), [""; 0]);
            assert_nothing_left();
        },
    );
}

#[test]
#[ignore = "run by the test above, and killed"]
fn a_run_to_be_killed() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut network = open(linked()).await;
        converge(&mut network).await;
        std::future::pending::<()>().await;
    });
}

#[test]
fn two_nodes_live_side_by_side_on_one_parent() {
    isolated(
        "adoption::two_nodes_live_side_by_side_on_one_parent",
        async || {
            wire();
            let mut other = settings();
            other.namespace = "hepto-other.mars".into();
            other.marker = "hepto:other:mars".into();
            other.uplink.mac = Some(hepto_net::address::mac_for("other", "mars"));
            other.uplink.addresses = vec![
                "192.0.2.2/24".parse().unwrap(),
                "2001:db8::2/64".parse().unwrap(),
            ];
            let (mut one, mut two) = (open(settings()).await, open(other).await);
            assert!(is_up(&converge(&mut one).await) && is_up(&converge(&mut two).await));
            inside("ping -c 1 -W 5 192.0.2.2");
            assert_eq!(codes(&one.close().await), [""; 0]);
            assert_eq!(text(&converge(&mut two).await.steps), "");
            assert_eq!(codes(&two.close().await), [""; 0]);
            assert_nothing_left();
        },
    );
}

#[test]
fn a_dead_nodes_network_is_taken_away() {
    isolated("adoption::a_dead_nodes_network_is_taken_away", async || {
        wire();
        let mut network = open(settings()).await;
        inside("ip tuntap add hepto0 mode tun");
        converge(&mut network).await;
        // Someone still holds the namespace: the links must go all the same.
        let entry = network.entry();
        drop(network);
        assert_eq!(codes(&teardown(NAMESPACE, MARKER, "ens1").await), [""; 0]);
        assert_nothing_left();
        let links = entry.run(|| run("ip", "-o link")).unwrap();
        assert!(
            !links.contains("uplink") && !links.contains("hepto0"),
            "{links}"
        );
    });
}

#[test]
fn the_pin_goes_whatever_was_mounted_on_it() {
    isolated(
        "adoption::the_pin_goes_whatever_was_mounted_on_it",
        async || {
            let network = open(settings()).await;
            run("mount", &format!("--bind /proc/self/ns/net {PIN}"));
            // iproute2 makes a namespace of its own beside ours, sharing the folder.
            ip("netns add beside");
            close(network).await;
            assert!(ip("netns list").contains("beside"), "others stay");
            ip("netns delete beside");
            assert_eq!(codes(&open(settings()).await.close().await), [""; 0]);
            let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
            assert!(
                !mounts.contains("/run/netns"),
                "the last one takes the folder's mount away: {mounts}"
            );
        },
    );
}

#[test]
fn a_run_that_fails_half_way_leaves_nothing() {
    isolated(
        "adoption::a_run_that_fails_half_way_leaves_nothing",
        async || {
            // No tool for the firewall: seen only after the namespace is there.
            fs::create_dir("/run/empty").unwrap();
            for folder in ["/usr/sbin", "/usr/local/sbin"] {
                run("mount", &format!("--bind /run/empty {folder}"));
            }
            let error = refused(settings()).await;
            assert_eq!(error.code(), "E-NET-FIREWALL-TOOL", "{error}");
            assert!(error.fix().unwrap().contains("network.firewall = \"none\""));
            let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
            assert!(!mounts.contains("netns"), "{mounts}");
            let mut off = settings();
            off.firewall = Firewall::Off;
            assert_eq!(codes(&open(off).await.close().await), [""; 0]);
        },
    );
}

#[test]
fn without_privileges_it_says_so() {
    isolated("adoption::without_privileges_it_says_so", async || {
        let me = std::env::current_exe().unwrap();
        let test = "adoption::without_privileges_it_says_so_without_capabilities";
        let output = std::process::Command::new("setpriv")
            .args(["--bounding-set", "-all", "--inh-caps", "-all", "--"])
            .arg(me)
            .args(["--exact", test, "--ignored", "--nocapture"])
            .output()
            .unwrap();
        let said =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && said.contains("1 passed"),
            "{said}"
        );
    });
}

#[test]
#[ignore = "run by the test above, without capabilities"]
fn without_privileges_it_says_so_without_capabilities() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let error = runtime.block_on(async { Network::open(settings()).await.err().unwrap() });
    assert_eq!(error.code(), "E-NET-PERM", "{error}");
    assert!(error.is_permission());
    assert!(error.fix().unwrap().contains("as root"));
}

#[test]
fn a_switch_to_a_kind_the_kernel_lacks_keeps_the_namespace() {
    isolated(
        "adoption::a_switch_to_a_kind_the_kernel_lacks_keeps_the_namespace",
        async || {
            wire();
            let mut network = open(settings()).await;
            converge(&mut network).await;
            drop(network);
            let mut changed = settings();
            changed.uplink.kind = UplinkKind::Ipvlan;
            let mut network = open(changed).await;
            match network.converge().await {
                Ok(converged) => assert!(is_up(&converged)),
                Err(error) => assert_eq!(error.code(), "E-NET-IPVLAN", "{error}"),
            }
            close(network).await;
        },
    );
}
