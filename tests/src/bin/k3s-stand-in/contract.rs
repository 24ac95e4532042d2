//! Everything that k3s, kubelet and containerd need of the place in which they are started. Each line that is broken
//! is one sentence; all are found at once.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, ToSocketAddrs};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use crate::config::{Config, Role};

/// Folders that have to be the node's own mounts, and writable.
const OWN: [&str; 10] = [
    "/var/lib/rancher/k3s",
    "/var/lib/kubelet",
    "/var/lib/cni",
    "/var/log",
    "/etc/rancher",
    "/etc/cni",
    "/opt/cni",
    "/run",
    "/tmp",
    "/dev/shm",
];
/// Files that have to be the node's own mounts.
const FILES: [&str; 4] = [
    "/etc/hosts",
    "/etc/hostname",
    "/etc/resolv.conf",
    "/etc/machine-id",
];
/// What the kubelet writes, which would change the whole machine; it must meet private files.
const KERNEL: [(&str, &str); 3] = [
    ("/proc/sys/vm/overcommit_memory", "1"),
    ("/proc/sys/kernel/panic", "10"),
    ("/proc/sys/kernel/panic_on_oops", "1"),
];
/// All that may be in the environment.
const ENVIRONMENT: [&str; 9] = [
    "PATH",
    "HOME",
    "NOTIFY_SOCKET",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];

/// The lines that are broken.
#[derive(Default)]
struct Broken(Vec<String>);

impl Broken {
    fn unless(&mut self, holds: bool, line: impl Into<String>) {
        if !holds {
            self.0.push(line.into());
        }
    }
}

/// Checks everything.
pub fn check(config: &Config) -> Vec<String> {
    let mut broken = Broken::default();
    arguments(config, &mut broken);
    settings(config, &mut broken);
    match config.role {
        Role::Server => server(config, &mut broken),
        Role::Agent => agent(config, &mut broken),
    }
    files(config, &mut broken);
    environment(&mut broken);
    process(config, &mut broken);
    mounts(&mut broken);
    cgroups(&mut broken);
    network(config, &mut broken);
    broken.0
}

fn arguments(config: &Config, broken: &mut Broken) {
    let file = config.file.display();
    broken.unless(
        config.file == Path::new("/etc/rancher/k3s/config.yaml"),
        format!("the config file is {file}"),
    );
}

fn settings(config: &Config, broken: &mut Broken) {
    broken.unless(
        config.data == Path::new("/var/lib/rancher/k3s"),
        "data-dir is not /var/lib/rancher/k3s",
    );
    broken.unless(
        config.on("prefer-bundled-bin"),
        "prefer-bundled-bin is not true",
    );
    let kubelet = config.list("kubelet-arg");
    broken.unless(
        kubelet.contains(&"node-status-update-frequency=20s"),
        "kubelet-arg lacks node-status-update-frequency=20s",
    );
    // kube-proxy dies where it may not write the host's limit.
    let proxy = config.list("kube-proxy-arg");
    broken.unless(
        proxy.contains(&"conntrack-max-per-core=0"),
        "kube-proxy-arg lacks conntrack-max-per-core=0",
    );
    for secret in ["token", "agent-token", "cluster-secret"] {
        broken.unless(
            !config.values.contains_key(secret),
            format!("{secret} is in the config file"),
        );
    }
    for never in ["with-node-id", "rootless", "docker", "vpn-auth", "log"] {
        broken.unless(
            !config.values.contains_key(never),
            format!("{never} is set"),
        );
    }
}

fn server(config: &Config, broken: &mut Broken) {
    let is = |name: &str, value: &str| config.text(name) == Some(value);
    for (name, value) in [
        ("flannel-backend", "host-gw"),
        ("egress-selector-mode", "disabled"),
        ("write-kubeconfig-mode", "0600"),
    ] {
        broken.unless(is(name, value), format!("{name} is not {value}"));
    }
    broken.unless(
        config.on("flannel-ipv6-masq"),
        "flannel-ipv6-masq is not true",
    );
    let advertised = config
        .text("advertise-address")
        .and_then(|address| address.parse().ok());
    let services = config.text("service-cidr").unwrap_or_default();
    let family = services
        .split('/')
        .next()
        .and_then(|address| address.parse::<IpAddr>().ok());
    match (advertised, family) {
        (Some(address), Some(service)) => {
            broken.unless(
                config.addresses.contains(&address),
                "advertise-address is not a node-ip",
            );
            broken.unless(
                address.is_ipv4() == service.is_ipv4(),
                "advertise-address is not of the family of the first service-cidr",
            );
        }
        _ => broken.unless(false, "advertise-address or service-cidr is missing"),
    }
    let names = config.list("tls-san");
    let mut wanted: Vec<String> = config.addresses.iter().map(IpAddr::to_string).collect();
    wanted.push(config.node.clone());
    for name in wanted {
        broken.unless(
            names.contains(&name.as_str()),
            format!("tls-san lacks {name}"),
        );
    }
    for prefixes in ["cluster-cidr", "service-cidr"] {
        let families: Vec<bool> = config
            .text(prefixes)
            .unwrap_or_default()
            .split(',')
            .filter_map(|prefix| Some(prefix.split_once('/')?.0.parse::<IpAddr>().ok()?.is_ipv4()))
            .collect();
        let of_node: Vec<bool> = config.addresses.iter().map(IpAddr::is_ipv4).collect();
        broken.unless(
            families == of_node,
            format!("{prefixes} has other families than node-ip"),
        );
    }
    broken.unless(
        config.text("server").is_none(),
        "server is set on the server",
    );
}

fn agent(config: &Config, broken: &mut Broken) {
    let name = crate::agent::master(config);
    broken.unless(name.is_some(), "server is not https://NAME:6443");
    for only_server in [
        "agent-token-file",
        "cluster-cidr",
        "service-cidr",
        "advertise-address",
        "disable",
    ] {
        broken.unless(
            !config.values.contains_key(only_server),
            format!("{only_server} is set on an agent"),
        );
    }
    if let Some(name) = name {
        broken.unless(
            name.parse::<IpAddr>().is_err(),
            "the server is named by address: it could never move",
        );
        let resolved = (name, 6443u16)
            .to_socket_addrs()
            .map(|mut found| found.next());
        broken.unless(
            matches!(resolved, Ok(Some(_))),
            format!("the server's name {name} does not resolve"),
        );
    }
}

fn files(config: &Config, broken: &mut Broken) {
    let mut secret = vec![config.file.display().to_string()];
    let flags: &[&str] = match config.role {
        Role::Server => &["token-file", "agent-token-file"],
        Role::Agent => &["token-file"],
    };
    let mut tokens = BTreeSet::new();
    for flag in flags {
        match config.token(flag) {
            Ok(token) => {
                broken.unless(
                    token.len() >= 32,
                    format!("{flag}: shorter than 32 characters"),
                );
                broken.unless(tokens.insert(token), "token and agent-token are the same");
            }
            Err(error) => broken.unless(false, format!("{error:#}")),
        }
        secret.extend(config.text(flag).map(str::to_owned));
    }
    for path in secret {
        match fs::metadata(&path) {
            Ok(metadata) => {
                broken.unless(
                    metadata.mode() & 0o7777 == 0o600,
                    format!("{path} is not of mode 0600"),
                );
                broken.unless(metadata.uid() == 0, format!("{path} is not root's"));
            }
            Err(error) => broken.unless(false, format!("{path}: {error}")),
        }
    }
    let resolvers = config.text("resolv-conf").unwrap_or_default();
    let text = fs::read_to_string(resolvers).unwrap_or_default();
    let found: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("nameserver "))
        .map(str::trim)
        .collect();
    broken.unless(
        !found.is_empty(),
        format!("resolv-conf ({resolvers}) names no resolver"),
    );
    let loopback = |address: &&str| {
        address
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
    };
    broken.unless(
        !found.iter().any(loopback),
        "resolv-conf names a loopback, which pods cannot reach",
    );
}

fn environment(broken: &mut Broken) {
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        broken.unless(
            ENVIRONMENT.contains(&name.as_str()),
            format!("{name} is in the environment"),
        );
    }
    for name in ["PATH", "HOME"] {
        broken.unless(
            std::env::var_os(name).is_some(),
            format!("{name} is not in the environment"),
        );
    }
    let socket = std::env::var_os("NOTIFY_SOCKET").unwrap_or_default();
    let is_socket = fs::metadata(&socket).is_ok_and(|metadata| metadata.file_type().is_socket());
    broken.unless(
        is_socket,
        format!("NOTIFY_SOCKET ({}) is not a socket", socket.display()),
    );
}

fn process(config: &Config, broken: &mut Broken) {
    let own = std::process::id();
    broken.unless(own != 1, "k3s is PID 1: nobody would reap the shims");
    let parent = nix::unistd::getppid().as_raw();
    broken.unless(
        parent == 1,
        format!("k3s is a child of {parent}, not of the node's init"),
    );
    let init = fs::read("/proc/1/cmdline").unwrap_or_default();
    broken.unless(
        init.split(|byte| *byte == 0).any(|word| word == b"init"),
        "PID 1 is not hepto-node's init",
    );
    let this = fs::read_link("/proc/self").unwrap_or_default();
    broken.unless(
        this == Path::new(&own.to_string()),
        "/proc is of another pid namespace",
    );
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    broken.unless(
        host.trim() == config.node,
        format!("the hostname is {}", host.trim()),
    );
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = |name: &str| {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or("0");
        // The real-time ones from 32 on are no program's business, and the C library lets nobody change the first two.
        u64::from_str_radix(line.trim(), 16).unwrap_or(u64::MAX) & 0x7fff_ffff
    };
    // Rust itself ignores SIGPIPE (13), and SIGTERM (15) was blocked by us, a few lines ago.
    let (ignored, blocked) = (mask("SigIgn:") & !(1 << 12), mask("SigBlk:") & !(1 << 14));
    broken.unless(ignored == 0, format!("signals are ignored: {ignored:#x}"));
    broken.unless(blocked == 0, format!("signals are blocked: {blocked:#x}"));
    let score = fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    broken.unless(
        score.trim() == "0",
        format!("oom_score_adj is {}", score.trim()),
    );
    descriptors(broken);
}

/// Nothing but the three standard descriptors is handed down.
fn descriptors(broken: &mut Broken) {
    for entry in fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .flatten()
    {
        let target = fs::read_link(entry.path()).unwrap_or_default();
        // The listing itself holds one that leads back to it.
        let listing = target.starts_with("/proc") && target.ends_with("fd");
        let standard = ["0", "1", "2"]
            .iter()
            .any(|name| entry.file_name() == *name);
        let name = entry.file_name();
        broken.unless(
            standard || listing || target.as_os_str().is_empty(),
            format!(
                "descriptor {} ({}) was handed down",
                name.display(),
                target.display()
            ),
        );
    }
}

fn mounts(broken: &mut Broken) {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    // proc_pid_mountinfo(5): the fifth field is the mount point, the optional ones end with a dash.
    let at = |point: &str| {
        table
            .lines()
            .rfind(|line| line.split(' ').nth(4) == Some(point))
    };
    let shared = |line: &str| {
        let optional = line.split(' ').skip(6);
        optional
            .take_while(|field| *field != "-")
            .any(|field| field.starts_with("shared:"))
    };
    broken.unless(
        at("/").is_some_and(shared),
        "/ is not a shared mount: HostToContainer mounts would fail",
    );
    for folder in OWN {
        broken.unless(
            at(folder).is_some(),
            format!("{folder} is not the node's own mount"),
        );
        let probe = Path::new(folder).join(format!(".stand-in-{}", std::process::id()));
        let written = fs::write(&probe, "x").and_then(|()| fs::remove_file(&probe));
        broken.unless(
            written.is_ok(),
            format!("{folder} cannot be written: {written:?}"),
        );
    }
    for file in FILES {
        broken.unless(
            at(file).is_some(),
            format!("{file} is not the node's own mount"),
        );
    }
    let id = fs::read_to_string("/etc/machine-id").unwrap_or_default();
    broken.unless(
        id.trim().len() == 32,
        "/etc/machine-id does not hold 32 digits",
    );
    for (path, value) in KERNEL {
        // Where it is not private, writing would change the machine: only say so.
        if at(path).is_none() {
            broken.unless(false, format!("{path} is the machine's own"));
            continue;
        }
        let written = fs::write(path, value);
        let read = fs::read_to_string(path).unwrap_or_default();
        broken.unless(
            written.is_ok() && read.trim() == value,
            format!("{path} does not take {value}"),
        );
    }
    let log = fs::File::open("/dev/kmsg");
    broken.unless(
        log.is_ok(),
        "/dev/kmsg cannot be opened: the kubelet would exit",
    );
    broken.unless(
        Path::new("/sys/class/net/lo").exists(),
        "/sys is missing, or of another network namespace",
    );
    let address = std::env::var_os("NOTIFY_SOCKET").unwrap_or_default();
    broken.unless(
        !Path::new("/run/hepto").exists() || address.to_string_lossy().starts_with("/run/hepto"),
        "the control sockets of /run/hepto are seen inside",
    );
}

/// The node's cgroup is the root of what it sees, and it may make children in it, as the kubelet does.
fn cgroups(broken: &mut Broken) {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    for line in own.lines() {
        let path = line.splitn(3, ':').nth(2).unwrap_or_default();
        broken.unless(
            !path.starts_with("/.."),
            format!("outside of the node's own cgroup: {line}"),
        );
    }
    let hierarchies = crate::pod::hierarchies();
    broken.unless(
        !hierarchies.is_empty(),
        "no cgroup hierarchy is mounted on /sys/fs/cgroup",
    );
    for hierarchy in hierarchies {
        let folder = hierarchy.join(format!("stand-in-{}", std::process::id()));
        let made = fs::create_dir(&folder).and_then(|()| fs::remove_dir(&folder));
        broken.unless(
            made.is_ok(),
            format!("no cgroup can be made in {}: {made:?}", hierarchy.display()),
        );
    }
}

fn network(config: &Config, broken: &mut Broken) {
    let link = config.text("flannel-iface").unwrap_or_default();
    let on_link: Vec<IpAddr> = nix::ifaddrs::getifaddrs()
        .into_iter()
        .flatten()
        .filter(|interface| interface.interface_name == link)
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address
                .as_sockaddr_in()
                .map(|address| IpAddr::V4(address.ip()));
            v4.or_else(|| {
                address
                    .as_sockaddr_in6()
                    .map(|address| IpAddr::V6(address.ip()))
            })
        })
        .collect();
    for address in &config.addresses {
        broken.unless(
            on_link.contains(address),
            format!("node-ip {address} is not on flannel-iface {link:?}"),
        );
    }
    let names = (config.node.as_str(), 0u16).to_socket_addrs();
    let resolved: Vec<IpAddr> = names
        .into_iter()
        .flatten()
        .map(|address| address.ip())
        .collect();
    for address in &config.addresses {
        broken.unless(
            resolved.contains(address),
            format!("{} does not resolve to {address}", config.node),
        );
    }
}
