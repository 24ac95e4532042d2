//! Faults that a test cannot plant in the kernel it runs on, planted in a folder that stands for the host's root.

use std::os::unix::fs::symlink;

use super::super::Level;
use super::*;

/// A host of which only these files are known.
fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, Host) {
    let root = tempfile::tempdir().expect("a folder");
    let host = Host::new(root.path());
    for (path, contents) in files {
        let path = host.at(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, contents).expect("a file");
    }
    (root, host)
}

/// The code of a finding, whose fix has these words.
fn found(finding: Finding, words: &str) -> &'static str {
    let fix = finding.fix.unwrap_or_default();
    assert!(fix.contains(words), "{words:?} is not in {fix:?}");
    finding.code.expect("a code")
}

#[test]
fn a_kernel_without_ipv6_is_found_and_matters_for_who_has_an_address() {
    let (_root, off) = host(&[]);
    assert_eq!(found(off.ipv6(true), "ipv6.disable=1"), "E-PREFLIGHT-IPV6");
    assert_eq!(found(off.ipv6(false), "ipv6.disable=1"), "W-PREFLIGHT-IPV6");
    let (_root, on) = host(&[("/proc/net/if_inet6", "")]);
    assert_eq!(on.ipv6(true).level, Level::Ok);
}

#[test]
fn a_kernel_without_a_kind_of_namespace_is_found() {
    let all = ["net", "mnt", "pid", "uts", "ipc"].map(|kind| format!("/proc/self/ns/{kind}"));
    let files: Vec<(&str, &str)> = all.iter().map(|path| (path.as_str(), "")).collect();
    let (_root, host) = host(&files);
    assert_eq!(host.namespaces(false).level, Level::Ok);
    let finding = host.namespaces(true);
    assert!(finding.what.contains("cgroup"), "{}", finding.what);
    assert_eq!(
        found(finding, "distribution's own kernel"),
        "E-PREFLIGHT-KERNEL"
    );
}

#[test]
fn macvlan_on_wifi_is_found() {
    // The loopback is there on every machine; the signs of Wi-Fi are the folder's.
    for sign in ["wireless/link", "phy80211/index"] {
        let (_root, host) = host(&[(&format!("/sys/class/net/lo/{sign}"), "")]);
        assert_eq!(
            found(host.interface("lo", Mode::Macvlan), "\"ipvlan\""),
            "E-PREFLIGHT-WIFI"
        );
        assert_ne!(
            host.interface("lo", Mode::Ipvlan).code,
            Some("E-PREFLIGHT-WIFI")
        );
    }
    let (_root, host) = host(&[]);
    assert_ne!(
        host.interface("lo", Mode::Macvlan).code,
        Some("E-PREFLIGHT-WIFI")
    );
}

#[test]
fn selinux_that_enforces_is_found() {
    let (_root, enforcing) = host(&[("/sys/fs/selinux/enforce", "1")]);
    let finding = enforcing.selinux().expect("a finding");
    assert_eq!(found(finding, "k3s-selinux"), "W-PREFLIGHT-SELINUX");
    let (_root, permissive) = host(&[("/sys/fs/selinux/enforce", "0")]);
    assert!(permissive.selinux().is_none());
}

#[test]
fn cgroup_v1_is_refused_from_kubernetes_1_35_on() {
    let (_root, v1) = host(&[("/proc/cgroups", "")]);
    let told = ["--kubelet-arg=fail-cgroupv1=false".to_owned()];
    let code = |minor, args: &[String]| {
        let finding = v1.cgroup_v1(minor, args).expect("a finding");
        finding.code.map(|_| found(finding, "fail-cgroupv1=false"))
    };
    assert_eq!(
        code(minor("v1.35.0+k3s1"), &[]),
        Some("E-PREFLIGHT-CGROUP-V1")
    );
    assert_eq!(
        code(minor("v1.34.2+k3s1"), &[]),
        Some("W-PREFLIGHT-CGROUP-V1")
    );
    assert_eq!(code(None, &[]), Some("W-PREFLIGHT-CGROUP-V1"));
    assert_eq!(code(Some(35), &told), None);
    let (_root, v2) = host(&[("/sys/fs/cgroup/cgroup.controllers", "cpu memory pids")]);
    assert!(v2.cgroup_v1(Some(35), &[]).is_none());
}

#[test]
fn a_controller_counts_when_it_is_enabled() {
    let text = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t2\t3\t1\nmemory\t0\t1\t0\npids\t4\t9\t1\n";
    assert_eq!(enabled_controllers(text), ["cpu", "pids"]);
    let (_root, v1) = host(&[("/proc/cgroups", text)]);
    let finding = v1.controllers();
    assert!(finding.what.contains("v1 lacks memory"), "{}", finding.what);
    assert_eq!(
        found(finding, "cgroup_enable=memory"),
        "E-PREFLIGHT-CGROUPS"
    );
    let (_root, v2) = host(&[("/sys/fs/cgroup/cgroup.controllers", "cpu memory")]);
    assert!(v2.controllers().what.contains("v2 lacks pids"));
}

#[test]
fn an_old_hepto_and_a_k3s_of_the_hosts_own_are_found_and_a_nodes_own_is_not() {
    let (_root, host) = host(&[
        ("/proc/10/comm", "wesher\n"),
        ("/proc/11/comm", "k3s-server\n"),
        ("/proc/12/comm", "k3s-agent\n"),
        ("/proc/13/comm", "bash\n"),
    ]);
    for (process, namespace) in [("self", 1), ("10", 2), ("11", 1), ("12", 3), ("13", 1)] {
        let folder = host.at(&format!("/proc/{process}/ns"));
        fs::create_dir_all(&folder).expect("a folder");
        symlink(format!("pid:[{namespace}]"), folder.join("pid")).expect("a link");
    }
    let finding = host.neighbours();
    assert!(
        finding.what.ends_with("runs k3s-server, wesher"),
        "{}",
        finding.what
    );
    assert_eq!(found(finding, "podman pod stop"), "W-PREFLIGHT-NEIGHBOURS");
}

#[test]
fn a_port_that_is_taken_is_found_unless_the_node_has_it() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its own");
    assert_eq!(
        found(metrics(address, false), "ss -ltnp"),
        "W-PREFLIGHT-METRICS"
    );
    assert_eq!(metrics(address, true).level, Level::Ok);
    let elsewhere = "192.0.2.1:9586".parse().expect("an address");
    assert_eq!(
        found(metrics(elsewhere, true), "127.0.0.1"),
        "W-PREFLIGHT-METRICS"
    );
}
