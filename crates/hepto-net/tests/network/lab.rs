//! A machine to try things on: a street with a neighbour, and this test's own "host" on it.

use std::future::Future;
use std::net::IpAddr;
use std::process::{Command, Output};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

use hepto_net::{
    Bandwidth, Converged, Error, Event, Firewall, Gateway, Network, OpenPort, Overlay, Proto,
    Rates, Settings, Step, Uplink, UplinkKind, UplinkState,
};

pub const MARKER: &str = "hepto:acides:mars";
pub const NAMESPACE: &str = "hepto-acides.mars";
pub const PIN: &str = "/run/netns/hepto-acides.mars";

/// Long enough for any machine, short enough to notice.
pub const PATIENCE: Duration = Duration::from_secs(10);

const ISOLATED: &str = "HEPTO_NET_TEST";

/// Runs the test in namespaces of its own; `name` is the test's full name.
pub fn isolated<F: Future<Output = ()>>(name: &str, test: impl FnOnce() -> F) {
    if std::env::var_os(ISOLATED).is_some() {
        ip("link set lo up");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(test());
        return;
    }
    let me = std::env::current_exe().unwrap();
    let script = "mount -t tmpfs tmpfs /run && mkdir /run/lock && exec \"$@\"";
    let output = Command::new("unshare")
        .args(["--net", "--mount", "sh", "-c", script, "sh"])
        .arg(me)
        .args(["--exact", name, "--nocapture", "--test-threads", "1"])
        .env(ISOLATED, "1")
        .env("RUST_BACKTRACE", "0")
        .output()
        .expect("unshare, of util-linux, starts");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "as root, in namespaces of its own:\n{said}"
    );
    assert!(
        said.contains("1 passed"),
        "no test is called {name}:\n{said}"
    );
}

/// Runs `ip` with these words on the host; it must succeed.
pub fn ip(words: &str) -> String {
    run("ip", words)
}

/// Runs `ip` inside the node's namespace.
pub fn inside(words: &str) -> String {
    run("ip", &format!("netns exec {NAMESPACE} {words}"))
}

/// Runs work in the named namespace, on a thread of its own.
pub fn within<T: Send + 'static>(namespace: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let file = std::fs::File::open(format!("/run/netns/{namespace}")).unwrap();
    std::thread::spawn(move || {
        setns(file, CloneFlags::CLONE_NEWNET).unwrap();
        work()
    })
    .join()
    .unwrap()
}

pub fn run(program: &str, words: &str) -> String {
    let output = try_run(program, words);
    assert!(
        output.status.success(),
        "{program} {words}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

pub fn try_run(program: &str, words: &str) -> Output {
    Command::new(program)
        .args(words.split_whitespace())
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"))
}

/// Waits for something that only looking can tell.
pub fn until(condition: impl Fn() -> bool) {
    let end = std::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(std::time::Instant::now() < end, "waited in vain");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The host's `ens1`, a wire to a neighbour in a namespace called `lan` with these addresses.
pub fn wire() {
    ip("netns add lan");
    parent();
    for address in ["192.0.2.254/24", "2001:db8::ffff/64"] {
        ip(&format!("-n lan address add {address} dev ens1 nodad"));
    }
}

/// Plugs in `ens1`, also a second time.
pub fn parent() {
    ip("link add ens1 type veth peer name ens1 netns lan");
    ip("link set ens1 up");
    ip("-n lan link set ens1 up");
}

pub fn settings() -> Settings {
    let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    Settings {
        namespace: NAMESPACE.into(),
        marker: MARKER.into(),
        uplink: Uplink {
            parent: "ens1".into(),
            kind: UplinkKind::Macvlan,
            mac: Some(hepto_net::address::mac_for("acides", "mars")),
            mtu: Some(1400),
            addresses: nets(&["192.0.2.1/24", "2001:db8::1/64"]),
            auto: false,
            gateways: vec![
                gateway("192.0.2.254", false),
                gateway("2001:db8::ffff", false),
            ],
            tune: false,
        },
        overlay: Overlay {
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
        },
        host_link: false,
        firewall: Firewall::On {
            mesh_port: 51820,
            gossip_port: 7947,
            snapshot_port: 7948,
            open: vec![OpenPort {
                proto: Proto::Tcp,
                port: 443,
            }],
        },
        bandwidth: Bandwidth {
            rates: Rates::default(),
            mesh_port: 51820,
        },
        filter_bridges: false,
    }
}

/// The same with the pair between host and node.
pub fn linked() -> Settings {
    Settings {
        host_link: true,
        ..settings()
    }
}

pub fn gateway(via: &str, onlink: bool) -> Gateway {
    Gateway {
        via: via.parse().unwrap(),
        onlink,
    }
}

pub async fn open(settings: Settings) -> Network {
    Network::open(settings)
        .await
        .unwrap_or_else(|error| panic!("{error}"))
}

pub async fn converge(network: &mut Network) -> Converged {
    network
        .converge()
        .await
        .unwrap_or_else(|error| panic!("{error}"))
}

pub fn is_up(converged: &Converged) -> bool {
    matches!(converged.uplink, UplinkState::Up { .. })
}

pub fn text(steps: &[Step]) -> String {
    steps.iter().map(|step| format!("{step}\n")).collect()
}

/// Waits for the event that is asked for; others are passed over.
pub async fn event(network: &mut Network, wanted: impl Fn(&Event) -> bool) -> Event {
    let mut others = Vec::new();
    loop {
        match tokio::time::timeout(PATIENCE, network.event()).await {
            Ok(event) => {
                let event = event.unwrap();
                if wanted(&event) {
                    return event;
                }
                others.push(event);
            }
            Err(_) => panic!("waited in vain; seen: {others:?}"),
        }
    }
}

/// Waits until both addresses of the uplink are usable.
pub async fn usable(network: &mut Network) {
    let wanted: [IpAddr; 2] = ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
    let all = |event: &Event| match event {
        Event::Addresses(addresses) => wanted.iter().all(|address| addresses.contains(address)),
        _ => false,
    };
    event(network, all).await;
}

/// Closes, and makes sure that nothing is left.
pub async fn close(network: Network) {
    assert_eq!(codes(&network.close().await), [""; 0]);
    assert_nothing_left();
}

pub fn assert_nothing_left() {
    assert!(!std::path::Path::new(PIN).exists(), "the pin is left");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(NAMESPACE), "a mount is left: {mounts}");
    let links = ip("-o link show type macvlan");
    assert_eq!(links, "", "a link is left");
    let links = ip("-o link show type veth");
    assert!(!links.contains("hepto-"), "a pair is left: {links}");
}

pub fn codes(errors: &[Error]) -> Vec<&'static str> {
    errors.iter().map(Error::code).collect()
}

pub async fn refused(settings: Settings) -> Error {
    match Network::open(settings).await {
        Ok(_) => panic!("it was not refused"),
        Err(error) => error,
    }
}
