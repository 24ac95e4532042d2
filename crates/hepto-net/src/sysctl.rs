//! Kernel settings of the namespace. `/proc/sys/net` shows the namespace of the thread that looks, so these run on a
//! thread inside.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::settings::{HOST_LINK, UPLINK};

/// A setting: its path below `/proc/sys`, the value, what does not work without it.
#[derive(Debug, Clone, Copy)]
struct Sysctl(&'static str, &'static str, &'static str);

/// Of the whole namespace, set before any link goes up: links made later take `default` over. kernel: ip-sysctl.rst.
const NAMESPACE: &[Sysctl] = &[
    Sysctl(
        "net/ipv6/conf/all/disable_ipv6",
        "0",
        "the node has no IPv6",
    ),
    Sysctl(
        "net/ipv6/conf/default/disable_ipv6",
        "0",
        "the node has no IPv6",
    ),
    Sysctl(
        "net/ipv4/ip_forward",
        "1",
        "pods do not reach other nodes over IPv4",
    ),
    Sysctl(
        "net/ipv6/conf/all/forwarding",
        "1",
        "pods do not reach other nodes over IPv6",
    ),
    Sysctl(
        "net/ipv6/conf/default/forwarding",
        "1",
        "pods do not reach other nodes over IPv6",
    ),
    // Loose: an answer may leave by another link than its question came in.
    Sysctl(
        "net/ipv4/conf/all/rp_filter",
        "2",
        "packets that come by another way than they would go are dropped",
    ),
    Sysctl(
        "net/ipv4/conf/default/rp_filter",
        "2",
        "packets that come by another way than they would go are dropped",
    ),
    // Otherwise removing an address removes its prefix's others, and their routes, too.
    Sysctl(
        "net/ipv4/conf/all/promote_secondaries",
        "1",
        "a changed address interrupts its neighbours",
    ),
    Sysctl(
        "net/ipv4/conf/default/promote_secondaries",
        "1",
        "a changed address interrupts its neighbours",
    ),
];

/// Of a namespace with pods on a bridge. kernel: br_netfilter, Linux 5.3 or later.
const BRIDGES: &[Sysctl] = &[
    Sysctl(
        "net/bridge/bridge-nf-call-iptables",
        "1",
        "a pod does not reach Services that lead to its own node",
    ),
    Sysctl(
        "net/bridge/bridge-nf-call-ip6tables",
        "1",
        "a pod does not reach Services that lead to its own node",
    ),
];

pub(crate) fn of_namespace(filter_bridges: bool) -> Vec<(String, String)> {
    let bridges = if filter_bridges { BRIDGES } else { &[] };
    NAMESPACE
        .iter()
        .chain(bridges)
        .map(|Sysctl(path, value, _)| ((*path).into(), (*value).into()))
        .collect()
}

/// Of the uplink. `auto`: addresses come from router advertisements, which a router (forwarding is on) only reads at
/// `accept_ra` 2.
pub(crate) fn of_uplink(auto: bool) -> Vec<(String, String)> {
    let per_link = |setting: &str, value: &str| {
        (
            format!("net/ipv6/conf/{UPLINK}/{setting}"),
            value.to_owned(),
        )
    };
    vec![
        per_link("accept_ra", if auto { "2" } else { "0" }),
        per_link("autoconf", if auto { "1" } else { "0" }),
        per_link("use_tempaddr", "0"),
        // The kernel makes no link-local address: ipvlans share their parent's hardware address.
        per_link("addr_gen_mode", "1"),
    ]
}

/// Of the link into the mesh: no member shall advertise itself as a router there.
pub(crate) fn of_overlay(link: &str) -> Vec<(String, String)> {
    vec![(format!("net/ipv6/conf/{link}/accept_ra"), "0".into())]
}

/// Of the node's end of the pair between host and node.
pub(crate) fn of_host_link(ipv6: bool) -> Vec<(String, String)> {
    let mut settings = of_host_end(HOST_LINK, ipv6);
    // A host may answer questions from its own network alone (`arp_ignore`): they are asked by the pair's addresses.
    settings.push((
        format!("net/ipv4/conf/{HOST_LINK}/arp_announce"),
        "2".into(),
    ));
    settings
}

/// Of the host's end: neither end makes the other its router, and each has the addresses that it is given.
pub(crate) fn of_host_end(name: &str, ipv6: bool) -> Vec<(String, String)> {
    if !ipv6 {
        return Vec::new();
    }
    let per_link = |setting: &str, value: &str| {
        let path = format!("net/ipv6/conf/{name}/{setting}");
        (path, value.to_owned())
    };
    vec![per_link("accept_ra", "0"), per_link("addr_gen_mode", "1")]
}

/// Whether a link that is made in the calling thread's namespace gets IPv6: not where it is switched off for all.
pub fn gives_ipv6() -> bool {
    let disabled = fs::read_to_string(file("net/ipv6/conf/default/disable_ipv6"));
    disabled.is_ok_and(|value| value.trim() == "0")
}

/// What gives a kernel IPv6 that was started without it. kernel: ipv6.rst.
pub const IPV6_ON: &str =
    "remove ipv6.disable=1 from the kernel's command line (/etc/default/grub), update-grub, reboot";

/// The settings of a kernel without IPv6 that are missing are all one.
const IPV6: &str = "net/ipv6";

/// What does not work without this setting.
fn cost(path: &str) -> &'static str {
    match NAMESPACE
        .iter()
        .chain(BRIDGES)
        .find(|sysctl| sysctl.0 == path)
    {
        Some(Sysctl(_, _, cost)) => cost,
        None if path == IPV6 => "the node has no IPv6",
        None if path.ends_with("accept_ra") => {
            "router advertisements on the link may change addresses and routes"
        }
        None => "IPv6 addresses other than the configured ones may appear",
    }
}

fn file(path: &str) -> PathBuf {
    Path::new("/proc/sys").join(path)
}

/// Whether this kernel has IPv6: not where it was started with `ipv6.disable=1`.
pub fn has_ipv6() -> bool {
    file("net/ipv6").join("conf").is_dir()
}

/// The current values; those that this kernel does not have are left out.
pub(crate) fn read(paths: &[String]) -> BTreeMap<String, String> {
    let value = |path: &String| {
        Some((
            path.clone(),
            fs::read_to_string(file(path)).ok()?.trim_end().to_owned(),
        ))
    };
    paths.iter().filter_map(value).collect()
}

/// Sets one. Never fails the node: what it costs is said, once.
pub(crate) fn write(path: &str, value: &str) -> io::Result<()> {
    fs::write(file(path), value)
}

/// Says once of each setting that it is missing or cannot be written, and what that costs.
#[derive(Debug, Default)]
pub(crate) struct Reported(BTreeSet<String>);

impl Reported {
    pub fn report(&mut self, path: &str, error: &io::Error) {
        let Some((sysctl, fix)) = self.find(path, error.kind(), has_ipv6()) else {
            return;
        };
        tracing::warn!(code = "W-NET-SYSCTL", fix, sysctl, %error, "{}", cost(sysctl));
    }

    /// What is to be said to be missing, and what to do; nothing when that was said before.
    fn find<'a>(
        &mut self,
        path: &'a str,
        kind: ErrorKind,
        has_ipv6: bool,
    ) -> Option<(&'a str, &'static str)> {
        let switched_off = !has_ipv6 && path.starts_with("net/ipv6/");
        let path = if switched_off { IPV6 } else { path };
        if !self.0.insert(path.to_owned()) {
            return None;
        }
        let fix = match kind {
            _ if switched_off => IPV6_ON,
            ErrorKind::NotFound if path.starts_with("net/bridge/") => {
                "load the kernel's module br_netfilter (modprobe br_netfilter)"
            }
            ErrorKind::NotFound => "use another kernel, if you need it: this one lacks the setting",
            _ => "make /proc/sys writable for the node",
        };
        Some((path, fix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_the_kernel_lacks_are_left_out() {
        let paths = ["net/ipv4/ip_forward".to_owned(), "net/none/such".to_owned()];
        assert_eq!(
            read(&paths).into_keys().collect::<Vec<_>>(),
            ["net/ipv4/ip_forward"]
        );
    }

    #[test]
    fn each_setting_is_reported_once() {
        let mut reported = Reported::default();
        reported.report("net/ipv4/ip_forward", &ErrorKind::NotFound.into());
        reported.report("net/ipv4/ip_forward", &ErrorKind::NotFound.into());
        assert_eq!(reported.0.len(), 1);
    }

    #[test]
    fn a_kernel_without_ipv6_is_told_of_once_with_what_switches_it_on() {
        let mut reported = Reported::default();
        let mut find = |path, has_ipv6| reported.find(path, ErrorKind::NotFound, has_ipv6);
        let forwarding = "net/ipv6/conf/all/forwarding";
        assert_eq!(find(forwarding, false), Some((IPV6, IPV6_ON)));
        assert_eq!(cost(IPV6), "the node has no IPv6");
        assert_eq!(find("net/ipv6/conf/uplink/accept_ra", false), None);
        // One that this kernel alone lacks.
        let (path, fix) = find(forwarding, true).expect("it was not told of");
        assert!(path == forwarding && fix != IPV6_ON);
        assert_eq!(find(forwarding, true), None);
    }
}
