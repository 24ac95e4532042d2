//! What k3s is told: the config file, made purely from the node's settings and the operator's `k3s.args`.
//!
//! k3s reads a YAML mapping of its own flags (`k3s server --config FILE`), a list standing for a flag given many
//! times. Every string is written as a JSON string, which is a valid YAML scalar and needs no guess about what YAML
//! would make of `0600`, `yes` or `fd00::1`.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::refusal;
use crate::fault::{Exit, Fault};

/// Where k3s keeps its data, as the sandbox sees it.
pub const DATA: &str = "/var/lib/rancher/k3s";
/// Where k3s's settings are, as the sandbox sees it.
pub const ETC: &str = "/etc/rancher/k3s";
/// The port of the API server, and of k3s's own supervisor API.
pub const API_PORT: u16 = 6443;

/// Flags that the operator's value replaces instead of extending: with `--disable=servicelb` Traefik is back.
const REPLACED_LISTS: &[&str] = &["disable"];

/// What this node is to the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The master: API server, datastore, and a kubelet too.
    Server,
    /// Every other node.
    Agent,
}

impl Role {
    /// k3s's subcommand.
    pub fn command(self) -> &'static str {
        match self {
            Role::Server => "server",
            Role::Agent => "agent",
        }
    }
}

/// What the config file is made from. No secret is in it: they are in files of their own.
#[derive(Debug, Clone)]
pub struct Arguments {
    /// Server or agent.
    pub role: Role,
    /// This node's name, which is Kubernetes' too.
    pub node: String,
    /// The server's name: agents reach it by name, so that it may move.
    pub master: String,
    /// This node's overlay addresses, IPv4 first where both are.
    pub addresses: Vec<IpAddr>,
    /// The cluster's pod prefixes in order; IPv4 first.
    pub pods: Vec<IpNet>,
    /// The cluster's service prefixes in order; the first decides the API server's family.
    pub services: Vec<IpNet>,
    /// The overlay's interface.
    pub link: String,
    /// The uplink's static addresses; the public ones are shown as the node's external addresses.
    pub uplink: Vec<IpAddr>,
    /// Listen on the overlay address alone: only where no firewall closes the ports, since it costs the kubelet its
    /// other addresses and breaks charts that use 127.0.0.1.
    pub bind_overlay: bool,
    /// A cluster that hepto-node founded: it gets defaults that would harm an older one (`disable: traefik` deletes a
    /// Traefik that runs; `secrets-encryption` cannot simply be turned on).
    pub founded: bool,
    /// What kubelet is to keep from pods because the host's owner did not grant it (`system-reserved`).
    pub reserved: Option<String>,
    /// The operator's own arguments, in the form of k3s's command line.
    pub extra: Vec<String>,
}

impl Arguments {
    /// The same on a kernel without IPv6, where an IPv6 address that k3s is given is one it does not find on its link.
    #[must_use]
    pub fn without_ipv6(mut self) -> Self {
        self.addresses.retain(IpAddr::is_ipv4);
        self.uplink.retain(IpAddr::is_ipv4);
        self.pods.retain(|net| net.addr().is_ipv4());
        self.services.retain(|net| net.addr().is_ipv4());
        self
    }
}

/// The value of one flag.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Flag,
    Text(String),
    List(Vec<String>),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Flag => f.write_str("true"),
            Value::Text(text) => f.write_str(&quoted(text)),
            Value::List(items) => {
                let items: Vec<String> = items.iter().map(|item| quoted(item)).collect();
                write!(f, "[{}]", items.join(", "))
            }
        }
    }
}

/// A YAML double-quoted scalar. JSON's escapes are all YAML's too; control characters, which JSON leaves alone above
/// U+007E, never get here: [`check`] refuses them.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// An ordered mapping of flags to values.
#[derive(Debug, Default)]
struct Settings(Vec<(String, Value)>);

impl Settings {
    fn text(&mut self, name: &str, value: impl Into<String>) {
        self.0.push((name.to_owned(), Value::Text(value.into())));
    }

    fn flag(&mut self, name: &str) {
        self.0.push((name.to_owned(), Value::Flag));
    }

    fn list<T: Into<String>>(&mut self, name: &str, values: impl IntoIterator<Item = T>) {
        self.0.push((
            name.to_owned(),
            Value::List(values.into_iter().map(Into::into).collect()),
        ));
    }

    /// Lays the operator's arguments over: a list of ours is extended, a single value replaced, the rest added.
    fn merge(&mut self, extra: Vec<Argument>) {
        for (name, values) in grouped(extra) {
            let given = match values.as_slice() {
                [None] => Value::Flag,
                [Some(one)] => Value::Text(one.clone()),
                // k3s takes a flag without value among others as `true`.
                many => Value::List(
                    many.iter()
                        .map(|value| value.clone().unwrap_or("true".into()))
                        .collect(),
                ),
            };
            let Some((_, ours)) = self.0.iter_mut().find(|(known, _)| *known == name) else {
                self.0.push((name, given));
                continue;
            };
            match (&mut *ours, given) {
                (Value::List(list), Value::Text(one)) if !replaced(&name) => list.push(one),
                (Value::List(list), Value::List(many)) if !replaced(&name) => list.extend(many),
                (ours, given) => *ours = given,
            }
        }
    }
}

fn replaced(name: &str) -> bool {
    REPLACED_LISTS.contains(&name)
}

/// One argument of the operator: `--name=value`, `--name value`, or `--name`.
#[derive(Debug, PartialEq, Eq)]
struct Argument {
    name: String,
    value: Option<String>,
}

/// All values of each name, names in order of first appearance.
fn grouped(arguments: Vec<Argument>) -> Vec<(String, Vec<Option<String>>)> {
    let mut groups: Vec<(String, Vec<Option<String>>)> = Vec::new();
    for argument in arguments {
        match groups.iter_mut().find(|(name, _)| *name == argument.name) {
            Some((_, values)) => values.push(argument.value),
            None => groups.push((argument.name, vec![argument.value])),
        }
    }
    groups
}

/// Reads the operator's arguments as k3s would. A value that stands alone belongs to the flag before it; the next word
/// after a component's flag (`--kubelet-arg`) is its value even where it begins with a dash.
///
/// # Errors
///
/// The positions (from 0) of words that belong to no flag.
fn parse(extra: &[String]) -> Result<Vec<Argument>, Vec<usize>> {
    let mut arguments: Vec<Argument> = Vec::new();
    let mut stray = Vec::new();
    let mut open = false;
    for (position, word) in extra.iter().enumerate() {
        let carrier = arguments
            .last()
            .is_some_and(|last| last.name.ends_with("-arg"));
        let name = word.strip_prefix("--").or_else(|| word.strip_prefix('-'));
        match name.filter(|_| !(open && carrier)) {
            Some(name) if !name.is_empty() && !name.starts_with(['-', '=']) => {
                let (name, value) = match name.split_once('=') {
                    Some((name, value)) => (name, Some(value.to_owned())),
                    None => (name, None),
                };
                open = value.is_none();
                arguments.push(Argument {
                    name: name.to_owned(),
                    value,
                });
            }
            None if open => {
                if let Some(last) = arguments.last_mut() {
                    last.value = Some(word.clone());
                }
                open = false;
            }
            _ => stray.push(position),
        }
    }
    if stray.is_empty() {
        Ok(arguments)
    } else {
        Err(stray)
    }
}

/// Judges the operator's `k3s.args` before anything is made: every argument that k3s could not read, or that would
/// break the sandbox, with the reason. Values are never repeated: they may be secret.
pub fn check(extra: &[String]) -> Vec<Fault> {
    let mut faults: Vec<Fault> = Vec::new();
    for (position, word) in extra.iter().enumerate() {
        if word.chars().any(char::is_control) {
            faults.push(malformed(
                position,
                "holds a control character",
                "remove it",
            ));
        }
    }
    let arguments = match parse(extra) {
        Ok(arguments) => arguments,
        Err(stray) => {
            let fix = "write each argument as \"--name=value\"";
            faults.extend(
                stray
                    .into_iter()
                    .map(|position| malformed(position, "belongs to no flag", fix)),
            );
            return faults;
        }
    };
    for argument in &arguments {
        if !argument
            .name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        {
            faults.push(
                Fault::new(
                    "E-K3S-ARG-FORM",
                    "a name in `k3s.args` is not one of a k3s flag",
                )
                .exit(Exit::BadConfig),
            );
        } else if let Some(refusal) = refusal::of_flag(&argument.name) {
            faults.push(refused(&format!("--{}", refusal.flag), refusal));
        } else if let Some(refusal) = argument
            .value
            .as_deref()
            .and_then(|value| refusal::of_component(&argument.name, value))
        {
            faults.push(refused(
                &format!("--{}={}", argument.name, refusal.flag),
                refusal,
            ));
        }
    }
    faults
}

fn malformed(position: usize, what: &str, fix: &str) -> Fault {
    let nth = position + 1;
    Fault::new(
        "E-K3S-ARG-FORM",
        format!("argument {nth} of `k3s.args` {what}"),
    )
    .fix(fix)
    .exit(Exit::BadConfig)
}

fn refused(shown: &str, refusal: &refusal::Refusal) -> Fault {
    Fault::new(
        "E-K3S-ARG-REFUSED",
        format!("`{shown}` in `k3s.args` is refused: it {}", refusal.reason),
    )
    .fix(refusal.fix)
    .exit(Exit::BadConfig)
}

/// The text of k3s's config file.
///
/// `arguments.extra` must have passed [`check`]; what has not is left out.
pub fn render(arguments: &Arguments) -> String {
    let mut settings = common(arguments);
    match arguments.role {
        Role::Server => server(&mut settings, arguments),
        Role::Agent => {
            settings.text("server", format!("https://{}:{API_PORT}", arguments.master));
        }
    }
    settings.merge(parse(&arguments.extra).unwrap_or_default());
    let mut text = String::from(
        "# Written by hepto-node at each start: set `k3s.args` in the node's own file instead.\n",
    );
    for (name, value) in &settings.0 {
        text.push_str(&format!("{name}: {value}\n"));
    }
    text
}

/// The settings of both roles.
fn common(arguments: &Arguments) -> Settings {
    let mut settings = Settings::default();
    settings.text("data-dir", DATA);
    settings.text("node-name", &arguments.node);
    // The same families as the CIDRs.
    settings.text("node-ip", joined(&arguments.addresses));
    let public: Vec<IpAddr> = arguments.uplink.iter().copied().filter(public).collect();
    if !public.is_empty() {
        settings.text("node-external-ip", joined(&public));
    }
    settings.text("flannel-iface", &arguments.link);
    settings.text("token-file", format!("{ETC}/token"));
    settings.text("resolv-conf", format!("{ETC}/resolv.conf"));
    // The host's own iptables or containerd may be of any age.
    settings.flag("prefer-bundled-bin");
    // Homes: fewer writes to the datastore, and a node is not lost for a short cut (the server's half is 120 s).
    let reserved = arguments.reserved.iter();
    let kubelet = reserved.map(|reserved| format!("system-reserved={reserved}"));
    settings.list(
        "kubelet-arg",
        ["node-status-update-frequency=20s".to_owned()]
            .into_iter()
            .chain(kubelet),
    );
    // Conntrack's limits are the host's; inside a network namespace kube-proxy may not write them.
    settings.list("kube-proxy-arg", ["conntrack-max-per-core=0"]);
    settings
}

/// The settings of the master alone.
fn server(settings: &mut Settings, arguments: &Arguments) {
    if arguments.bind_overlay
        && let Some(address) = arguments.addresses.first()
    {
        settings.text("bind-address", address.to_string());
    }
    // Of the family of the first service prefix, or the API server refuses to start.
    if let Some(address) = advertised(arguments) {
        settings.text("advertise-address", address.to_string());
    }
    let names = std::iter::once(arguments.node.clone());
    settings.list(
        "tls-san",
        names.chain(arguments.addresses.iter().map(IpAddr::to_string)),
    );
    // Plain routes by way of the overlay, which the tunnel follows; a second encapsulation would cost 50 bytes.
    settings.text("flannel-backend", "host-gw");
    // Pods have unique local addresses: they leave through the node's public one.
    settings.flag("flannel-ipv6-masq");
    settings.text("cluster-cidr", joined(&arguments.pods));
    settings.text("service-cidr", joined(&arguments.services));
    // Kubelets are reached straight through the mesh.
    settings.text("egress-selector-mode", "disabled");
    settings.text("agent-token-file", format!("{ETC}/agent-token"));
    settings.text("write-kubeconfig-mode", "0600");
    settings.list(
        "kube-controller-manager-arg",
        ["node-monitor-grace-period=120s"],
    );
    if arguments.founded {
        settings.flag("secrets-encryption");
        settings.list("disable", ["traefik", "servicelb"]);
    }
}

/// The address at which the API server is told to agents.
fn advertised(arguments: &Arguments) -> Option<IpAddr> {
    let wants_v4 = arguments
        .services
        .first()
        .is_none_or(|prefix| prefix.addr().is_ipv4());
    let fits = arguments
        .addresses
        .iter()
        .find(|address| address.is_ipv4() == wants_v4);
    fits.or(arguments.addresses.first()).copied()
}

fn joined<T: ToString>(items: &[T]) -> String {
    items
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

/// Reachable from anywhere, as far as the address itself can tell.
fn public(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let shared = v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64;
            !(v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_unspecified()
                || shared)
        }
        // 2000::/3 is all that is given out as global unicast.
        IpAddr::V6(v6) => v6.segments()[0] & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests;
