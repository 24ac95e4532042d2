//! The files that every node gets its own of: hosts, resolv.conf, hostname, machine-id, product UUID.
//!
//! Texts are made by pure functions. hosts and resolv.conf lie in the run directory, since `exec --net`
//! shows them too; what must outlive a reboot lies in the node's folder.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::{BINDS, Error, Settings, uapi};

/// Names in the run directory.
pub const HOSTS: &str = "hosts";
/// See [`HOSTS`].
pub const RESOLV_CONF: &str = "resolv.conf";
/// See [`HOSTS`].
pub const HOSTNAME: &str = "hostname";
/// In the node's folder.
pub const MACHINE_ID: &str = "machine-id";
/// In the node's folder.
pub const PRODUCT_UUID: &str = "product-uuid";

/// The text of /etc/hosts: loopback, then each node with its addresses, its own first.
pub fn hosts(nodes: &[(String, Vec<IpAddr>)]) -> String {
    let mut text = String::from(
        "# Written by hepto-node; changes are lost.\n127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n",
    );
    for (name, addresses) in nodes {
        for address in addresses {
            writeln!(text, "{address} {name}").expect("a String takes any write");
        }
    }
    text
}

/// The host's addresses, by whether the node reaches them.
#[derive(Debug, Clone, Default)]
pub struct HostAddresses {
    /// Out of reach: the node has a network of its own, and from behind an ipvlan or macvlan there is no way to the host.
    pub beyond: Vec<IpAddr>,
    /// Out of reach as well, but for a link between host and node.
    pub linkable: Vec<IpAddr>,
}

/// The resolvers that a resolv.conf names, but for those with a zone (`fe80::1%eth0`).
pub fn nameservers(text: &str) -> Vec<IpAddr> {
    let named = text.lines().filter_map(|line| {
        let (word, server) = line.trim().split_once(char::is_whitespace)?;
        (word == "nameserver").then(|| server.trim().parse().ok())?
    });
    named.collect()
}

/// The text of /etc/resolv.conf: `dns` when given, else what the host uses and the node can reach.
///
/// `host` is the host's own resolv.conf. Left out are resolvers at loopback and link-local addresses and at those of the
/// host's that are named in `own`. `search` and `options` lines are kept.
///
/// # Errors
/// [`Error::NoResolver`] when none is left.
pub fn resolv_conf(dns: &[IpAddr], host: &str, own: &HostAddresses) -> Result<String, Error> {
    let mut text = String::from("# Written by hepto-node; set network.dns to change it.\n");
    let (mut kept, mut refused) = (dns.to_vec(), Vec::new());
    for line in host.lines().map(str::trim) {
        match line.split_once(char::is_whitespace) {
            Some(("search" | "domain" | "options", _)) => {
                text.push_str(line);
                text.push('\n');
            }
            Some(("nameserver", server)) if dns.is_empty() => match server.trim().parse() {
                Ok(address) if reachable(address, own) => kept.push(address),
                // A zone (`fe80::1%eth0`) does not parse, and is link-local.
                _ => refused.push(server.trim()),
            },
            _ => {}
        }
    }
    if kept.is_empty() {
        let refused = if refused.is_empty() {
            "there are none".into()
        } else {
            refused.join(", ")
        };
        let mut named = nameservers(host).into_iter();
        let linkable = named.find(|address| own.linkable.contains(&address.to_canonical()));
        return Err(Error::NoResolver { refused, linkable });
    }
    let mut seen = HashSet::new();
    for address in kept.into_iter().filter(|address| seen.insert(*address)) {
        writeln!(text, "nameserver {address}").expect("a String takes any write");
    }
    Ok(text)
}

fn reachable(address: IpAddr, own: &HostAddresses) -> bool {
    let address = address.to_canonical();
    let local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(local
        || address.is_loopback()
        || address.is_unspecified()
        || own.beyond.contains(&address)
        || own.linkable.contains(&address))
}

/// Writes hosts and resolv.conf into the run directory, each in place: a file bound into a node keeps its
/// inode, and a rename would never be seen inside.
///
/// For a node without k3s this alone makes `exec --net` work.
///
/// # Errors
/// When a file cannot be written.
pub fn write_network(run_directory: &Path, hosts: &str, resolv_conf: &str) -> Result<(), Error> {
    write_hosts(run_directory, hosts)?;
    write_in_place(&run_directory.join(RESOLV_CONF), resolv_conf)
}

/// Writes the hosts file of a node in place; a node that runs sees it at once.
///
/// # Errors
/// When it cannot be written.
pub fn write_hosts(run_directory: &Path, text: &str) -> Result<(), Error> {
    write_in_place(&run_directory.join(HOSTS), text)
}

/// The files above, and those that outlive the node: its folders, machine-id and product UUID.
pub(super) fn prepare(settings: &Settings) -> Result<(), Error> {
    let directory = &settings.directory;
    make_folder(directory, 0o700)?;
    for (folder, _) in BINDS {
        make_folder(&directory.join(folder), 0o755)?;
    }
    make_folder(&settings.run_directory, 0o700)?;
    make_folder(&settings.run_directory.join(uapi::FOLDER), 0o700)?;
    write_network(
        &settings.run_directory,
        &settings.hosts,
        &settings.resolv_conf,
    )?;
    write_in_place(
        &settings.run_directory.join(HOSTNAME),
        &format!("{}\n", settings.node),
    )?;
    // machine-id(5): 32 hexadecimal digits, of a version 4 UUID.
    write_once(&directory.join(MACHINE_ID), |uuid| uuid.replace('-', ""))?;
    write_once(&directory.join(PRODUCT_UUID), str::to_owned)
}

fn make_folder(path: &Path, mode: u32) -> Result<(), Error> {
    if path.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(path)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)))
        .map_err(|error| Error::file("create", path, error))
}

fn write_in_place(path: &Path, text: &str) -> Result<(), Error> {
    // Written over, then cut: at no moment does a reader find the file empty.
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o644);
    options
        .open(path)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())
                .and_then(|()| file.set_len(text.len() as u64))
        })
        .map_err(|error| Error::file("write", path, error))
}

fn write_once(path: &Path, shape: impl Fn(&str) -> String) -> Result<(), Error> {
    if fs::metadata(path).is_ok_and(|file| file.len() > 0) {
        return Ok(());
    }
    let source = Path::new("/proc/sys/kernel/random/uuid");
    let uuid = fs::read_to_string(source).map_err(|error| Error::file("read", source, error))?;
    write_in_place(path, &format!("{}\n", shape(uuid.trim())))
}

/// What to hide of a key file: its folder, or the file alone where the folder holds more than secrets.
pub fn mask(key_file: &Path) -> PathBuf {
    match key_file.parent() {
        Some(folder) if !super::mount::vital(folder) => folder.to_owned(),
        _ => key_file.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_has_each_address_of_each_node() {
        let nodes = [
            (
                "grumpy".to_owned(),
                vec!["10.44.7.9".parse().unwrap(), "fd00::9".parse().unwrap()],
            ),
            ("sleepy".to_owned(), vec!["10.44.1.2".parse().unwrap()]),
        ];
        let text = hosts(&nodes);
        assert!(text.contains("127.0.0.1 localhost\n"));
        assert!(text.ends_with("10.44.7.9 grumpy\nfd00::9 grumpy\n10.44.1.2 sleepy\n"));
    }

    #[test]
    fn resolvers_that_the_node_cannot_reach_are_left_out() {
        let host = "# x\nsearch home.arpa\nnameserver 127.0.0.53\nnameserver ::1\nnameserver fe80::1%eth0\n\
                    nameserver fe80::1\nnameserver 169.254.1.1\nnameserver 192.168.1.10\nnameserver 192.168.1.1\n\
                    options edns0\nnameserver 192.168.1.1\n";
        let own = HostAddresses {
            beyond: vec!["192.168.1.10".parse().unwrap()],
            linkable: Vec::new(),
        };
        let text = resolv_conf(&[], host, &own).unwrap();
        let kept: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            kept,
            [
                "search home.arpa",
                "options edns0",
                "nameserver 192.168.1.1"
            ]
        );
    }

    #[test]
    fn no_resolver_left_names_those_refused() {
        let own = HostAddresses::default();
        let error = resolv_conf(&[], "nameserver 127.0.0.53\n", &own).unwrap_err();
        assert_eq!(error.code(), "E-DNS-NONE");
        assert!(error.to_string().contains("127.0.0.53"));
        let link = "network.host_link";
        assert!(!error.fix().unwrap().contains(link), "it would not help");
        assert!(resolv_conf(&[], "", &own).is_err());
    }

    #[test]
    fn a_link_to_the_host_is_named_where_it_would_help() {
        let mut own = HostAddresses {
            beyond: vec!["10.8.0.1".parse().unwrap()],
            linkable: vec!["192.168.1.10".parse().unwrap()],
        };
        let host = "nameserver 10.8.0.1\nnameserver 192.168.1.10\n";
        let error = resolv_conf(&[], host, &own).unwrap_err();
        let fix = error.fix().unwrap();
        assert!(
            fix.contains("network.host_link = true") && fix.contains("192.168.1.10"),
            "{fix}"
        );
        own.linkable.clear();
        let text = resolv_conf(&[], host, &own).unwrap();
        assert_eq!(
            nameservers(&text),
            ["192.168.1.10".parse::<IpAddr>().unwrap()]
        );
    }

    #[test]
    fn configured_resolvers_replace_the_hosts() {
        let dns = ["2001:db8::53".parse().unwrap()];
        let host = "nameserver 192.168.1.1\nsearch home.arpa\n";
        let text = resolv_conf(&dns, host, &HostAddresses::default()).unwrap();
        assert!(text.contains("nameserver 2001:db8::53") && !text.contains("192.168.1.1"));
        assert!(text.contains("search home.arpa"));
    }

    #[test]
    fn a_rewrite_keeps_the_inode() {
        use std::os::unix::fs::MetadataExt;
        let folder = tempfile::tempdir().unwrap();
        write_hosts(folder.path(), "a long first text\n").unwrap();
        let before = fs::metadata(folder.path().join(HOSTS)).unwrap().ino();
        write_hosts(folder.path(), "short\n").unwrap();
        assert_eq!(
            fs::metadata(folder.path().join(HOSTS)).unwrap().ino(),
            before
        );
        assert_eq!(
            fs::read_to_string(folder.path().join(HOSTS)).unwrap(),
            "short\n"
        );
    }

    #[test]
    fn a_key_in_a_folder_of_the_system_hides_the_file_alone() {
        assert_eq!(mask(Path::new("/etc/hepto/a.key")), Path::new("/etc/hepto"));
        assert_eq!(mask(Path::new("/etc/a.key")), Path::new("/etc/a.key"));
        assert_eq!(mask(Path::new("/root/a.key")), Path::new("/root/a.key"));
    }
}
