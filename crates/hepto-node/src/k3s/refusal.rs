//! The k3s flags that an operator may not set in `k3s.args`, each with the reason and the way that is open.
//!
//! They are refused because hepto-node already decides them (addresses, names, secrets, paths) or because they
//! lead k3s out of its sandbox. All else passes through.

/// One refused flag.
#[derive(Debug, Clone, Copy)]
pub struct Refusal {
    /// Long name, as in `k3s server --help`.
    pub flag: &'static str,
    /// What would break: a clause that follows "it".
    pub reason: &'static str,
    /// What to do: a sentence without a full stop.
    pub fix: &'static str,
}

const fn refusal(flag: &'static str, reason: &'static str, fix: &'static str) -> Refusal {
    Refusal { flag, reason, fix }
}

const REMOVE: &str = "remove it";
const PATHS: &str = "remove it; `node.storage` says where data lives";
const NAMES: &str = "remove it; the name is `node.name`";
const ADDRESSES: &str =
    "remove it; addresses follow from the names, see `mesh.ipv4` and `cluster.ula`";
const SECRETS: &str = "remove it; name the key's file in `cluster.cluster_key_file`";
const PODS: &str = "set `cluster.pod_cidrs`";
const SERVICES: &str = "set `cluster.service_cidrs`";
const MASTER: &str = "remove it; the server is `cluster.master`";

/// Flags of `k3s server` and `k3s agent`.
pub const FLAGS: &[Refusal] = &[
    refusal(
        "config",
        "would replace the file that holds every setting of the sandbox",
        "put the settings in `k3s.args`",
    ),
    refusal(
        "data-dir",
        "moves k3s's data out of the folder that the sandbox keeps for it",
        PATHS,
    ),
    refusal(
        "log",
        "takes k3s's output away from the bounded log that the node keeps",
        REMOVE,
    ),
    refusal(
        "node-name",
        "would differ from the name by which the mesh knows this node",
        NAMES,
    ),
    refusal(
        "with-node-id",
        "appends to the name by which the mesh knows this node",
        NAMES,
    ),
    refusal(
        "node-ip",
        "takes the node off its overlay address",
        ADDRESSES,
    ),
    refusal(
        "advertise-address",
        "sends agents to an address outside the overlay",
        ADDRESSES,
    ),
    refusal(
        "advertise-port",
        "sends agents to a port where nothing listens",
        REMOVE,
    ),
    refusal(
        "bind-address",
        "takes one address and binds the kubelet too",
        "remove it; the node's firewall closes the ports",
    ),
    refusal(
        "https-listen-port",
        "moves the port by which agents know the server",
        REMOVE,
    ),
    refusal(
        "supervisor-port",
        "moves the port by which agents know the server",
        REMOVE,
    ),
    refusal(
        "apiserver-port",
        "moves the port by which agents know the server",
        REMOVE,
    ),
    refusal(
        "lb-server-port",
        "moves the port by which the node's own registration is seen",
        REMOVE,
    ),
    refusal(
        "server",
        "would lead to another server than the mesh waits for",
        MASTER,
    ),
    refusal("token", "would show a secret in the configuration", SECRETS),
    refusal(
        "token-file",
        "would replace the key that the cluster shares",
        SECRETS,
    ),
    refusal(
        "agent-token",
        "would show a secret in the configuration",
        SECRETS,
    ),
    refusal(
        "agent-token-file",
        "would replace the key that agents derive",
        SECRETS,
    ),
    refusal(
        "cluster-secret",
        "would show a secret in the configuration",
        SECRETS,
    ),
    refusal(
        "flannel-iface",
        "takes pod traffic off the encrypted overlay",
        REMOVE,
    ),
    refusal(
        "flannel-backend",
        "hides the pod routes that the tunnel follows",
        REMOVE,
    ),
    refusal(
        "flannel-conf",
        "hides the pod routes that the tunnel follows",
        REMOVE,
    ),
    refusal(
        "flannel-cni-conf",
        "hides the pod routes that the tunnel follows",
        REMOVE,
    ),
    refusal(
        "flannel-external-ip",
        "takes pod traffic off the encrypted overlay",
        REMOVE,
    ),
    refusal(
        "no-flannel",
        "hides the pod routes that the tunnel follows",
        REMOVE,
    ),
    refusal(
        "vpn-auth",
        "starts a second overlay and would show a secret",
        REMOVE,
    ),
    refusal("vpn-auth-file", "starts a second overlay", REMOVE),
    refusal(
        "cluster-cidr",
        "would differ from the prefixes that firewall and tunnel guard",
        PODS,
    ),
    refusal(
        "service-cidr",
        "would differ from the prefixes that the firewall guards",
        SERVICES,
    ),
    refusal(
        "egress-selector-mode",
        "must be `disabled`: kubelets are reached straight through the mesh",
        REMOVE,
    ),
    refusal(
        "resolv-conf",
        "would name a resolver that pods cannot reach",
        "set `network.dns`",
    ),
    refusal("docker", "runs pods outside of the sandbox", REMOVE),
    refusal(
        "container-runtime-endpoint",
        "runs pods outside of the sandbox",
        REMOVE,
    ),
    refusal(
        "image-service-endpoint",
        "keeps images outside of the sandbox",
        REMOVE,
    ),
    refusal(
        "rootless",
        "needs namespaces of its own inside the sandbox",
        REMOVE,
    ),
    refusal(
        "disable-agent",
        "leaves the master without a kubelet, so that the node never registers",
        REMOVE,
    ),
    refusal(
        "disable-apiserver",
        "leaves the cluster without its only API server",
        REMOVE,
    ),
    refusal(
        "disable-kube-proxy",
        "leaves ClusterIPs and NodePorts without their rules",
        REMOVE,
    ),
    refusal(
        "cluster-reset",
        "ends k3s after the reset, at each start again",
        "run it once by `hepto-node exec -- k3s server --cluster-reset`",
    ),
    refusal(
        "cluster-reset-restore-path",
        "ends k3s after the reset, at each start again",
        "run it once by `hepto-node exec`",
    ),
    refusal(
        "write-kubeconfig",
        "would write the administrator's key outside of the node's own folder",
        "use `hepto-node kubectl`",
    ),
    refusal(
        "write-kubeconfig-mode",
        "would let others read the administrator's key",
        "use `hepto-node kubectl`",
    ),
    refusal(
        "write-kubeconfig-group",
        "would let others read the administrator's key",
        "use `hepto-node kubectl`",
    ),
];

/// One-letter forms of refused flags.
pub const SHORT: &[(&str, &str)] = &[
    ("c", "config"),
    ("d", "data-dir"),
    ("l", "log"),
    ("i", "node-ip"),
    ("s", "server"),
    ("t", "token"),
    ("o", "write-kubeconfig"),
];

/// Refused flags of the components, as (the k3s flag that carries them, the flags).
pub const COMPONENTS: &[(&str, &[Refusal])] = &[
    (
        "kubelet-arg",
        &[
            refusal(
                "root-dir",
                "moves the kubelet's data out of the folder that the sandbox keeps for it",
                PATHS,
            ),
            refusal(
                "hostname-override",
                "would differ from the name by which the mesh knows this node",
                NAMES,
            ),
            refusal(
                "node-ip",
                "takes the node off its overlay address",
                ADDRESSES,
            ),
            refusal(
                "config",
                "would replace the kubelet's configuration that k3s writes",
                "give single settings by `--kubelet-arg`",
            ),
            refusal(
                "cgroup-root",
                "moves pods out of the node's own cgroup",
                REMOVE,
            ),
            refusal("kubeconfig", "would lead to another API server", MASTER),
            refusal(
                "container-runtime-endpoint",
                "runs pods outside of the sandbox",
                REMOVE,
            ),
            refusal(
                "resolv-conf",
                "would name a resolver that pods cannot reach",
                "set `network.dns`",
            ),
            refusal(
                "healthz-port",
                "moves the port that tells whether the node is ready",
                REMOVE,
            ),
            refusal(
                "healthz-bind-address",
                "moves the address that tells whether the node is ready",
                REMOVE,
            ),
            refusal(
                "register-node",
                "keeps the node from registering, so that it is never ready",
                REMOVE,
            ),
        ],
    ),
    (
        "kube-proxy-arg",
        &[
            refusal(
                "config",
                "would replace kube-proxy's configuration that k3s writes",
                "give single settings by `--kube-proxy-arg`",
            ),
            refusal(
                "hostname-override",
                "would differ from the name by which the mesh knows this node",
                NAMES,
            ),
            refusal(
                "conntrack-max-per-core",
                "asks for a limit that only the host can set",
                REMOVE,
            ),
            refusal(
                "conntrack-min",
                "asks for a limit that only the host can set",
                REMOVE,
            ),
            refusal(
                "cluster-cidr",
                "would differ from the prefixes that firewall and tunnel guard",
                PODS,
            ),
        ],
    ),
    (
        "kube-apiserver-arg",
        &[
            refusal(
                "advertise-address",
                "sends agents to an address outside the overlay",
                ADDRESSES,
            ),
            refusal(
                "bind-address",
                "takes the API server off the address that k3s expects",
                REMOVE,
            ),
            refusal("secure-port", "moves the port that k3s expects", REMOVE),
            refusal(
                "service-cluster-ip-range",
                "would differ from the prefixes that the firewall guards",
                SERVICES,
            ),
        ],
    ),
    (
        "kube-controller-manager-arg",
        &[
            refusal(
                "cluster-cidr",
                "would differ from the prefixes that firewall and tunnel guard",
                PODS,
            ),
            refusal(
                "service-cluster-ip-range",
                "would differ from the prefixes that the firewall guards",
                SERVICES,
            ),
            refusal(
                "allocate-node-cidrs",
                "leaves nodes without pod networks",
                REMOVE,
            ),
        ],
    ),
];

/// The refusal of a flag of k3s itself, by its long or short name.
pub fn of_flag(name: &str) -> Option<&'static Refusal> {
    let long = SHORT
        .iter()
        .find(|(short, _)| *short == name)
        .map_or(name, |(_, long)| long);
    FLAGS.iter().find(|refusal| refusal.flag == long)
}

/// The refusal of a component's flag, given as the value (`name=value`, perhaps with dashes) of `carrier`.
pub fn of_component(carrier: &str, value: &str) -> Option<&'static Refusal> {
    let name = value
        .trim_start_matches('-')
        .split('=')
        .next()
        .unwrap_or_default();
    let (_, refusals) = COMPONENTS.iter().find(|(flag, _)| *flag == carrier)?;
    refusals.iter().find(|refusal| refusal.flag == name)
}
