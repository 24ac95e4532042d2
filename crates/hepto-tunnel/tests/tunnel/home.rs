//! Two homes on a wire: network namespaces that exist as long as the test holds them, and tunnels in them.

use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hepto_tunnel::{Options, PeerConfig, PeerReport, Socket, Tun, Tunnel};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

pub const PSK: [u8; 32] = [9; 32];
pub const MTU: usize = 1320;

/// For what should come; on a busy machine too.
pub const SOON: Duration = Duration::from_secs(10);

/// Long enough for what should not come to have come.
pub const NOT_SOON: Duration = Duration::from_millis(700);

/// A network namespace. The kernel removes it, with all links in it, when this and its sockets are gone.
#[derive(Clone)]
pub struct Home {
    namespace: Arc<File>,
}

impl Home {
    pub fn new() -> Home {
        let namespace = std::thread::spawn(|| {
            // SAFETY: takes flags, and changes this thread alone.
            let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
            assert_eq!(
                result,
                0,
                "these tests need root: {}",
                io::Error::last_os_error()
            );
            File::open("/proc/thread-self/ns/net").expect("the namespace")
        })
        .join()
        .expect("a namespace");
        let home = Home {
            namespace: Arc::new(namespace),
        };
        home.ip("link set lo up");
        home
    }

    /// Runs `body` on a thread inside.
    pub fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    // SAFETY: takes a descriptor that is open, and changes this thread alone.
                    let result =
                        unsafe { libc::setns(self.namespace.as_raw_fd(), libc::CLONE_NEWNET) };
                    assert_eq!(result, 0, "setns: {}", io::Error::last_os_error());
                    body()
                })
                .join()
                .expect("it did not panic")
        })
    }

    /// Runs `ip` inside.
    pub fn ip(&self, arguments: &str) {
        self.run(|| {
            let output = Command::new("ip")
                .args(arguments.split(' '))
                .output()
                .expect("iproute2 is installed");
            assert!(
                output.status.success(),
                "ip {arguments}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        });
    }

    /// A path that names the namespace for as long as this lives.
    pub fn path(&self) -> String {
        format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            self.namespace.as_raw_fd()
        )
    }

    /// Waits until the kernel delivers to `address`: it makes the route to an IPv6 address of its own a little after
    /// the address.
    pub fn settle(&self, address: &str) {
        let socket = self.udp(address);
        let itself = socket.local_addr().expect("bound");
        socket
            .set_read_timeout(Some(Duration::from_millis(20)))
            .expect("a timeout");
        wait("the address to be usable", SOON, || {
            socket.send_to(b"me", itself).is_ok() && socket.recv(&mut [0; 2]).is_ok()
        });
    }

    pub fn udp(&self, address: &str) -> UdpSocket {
        self.run(|| UdpSocket::bind(address).unwrap_or_else(|error| panic!("{address}: {error}")))
    }
}

/// A tunnel in a home: number 1 or 2 of a pair on one wire.
pub struct Node {
    pub home: Home,
    pub tunnel: Tunnel,
    pub number: u8,
    /// What the sink was given: payload, from, to, from_peer.
    pub heard: Arc<Mutex<Vec<Heard>>>,
}

pub type Heard = (Vec<u8>, SocketAddr, Option<IpAddr>, bool);

impl Node {
    /// Link `wire` has 192.0.2.`number` and 2001:db8::`number`; `hepto0` has 10.44.0.`number` and fd44::`number`.
    pub fn start(home: Home, number: u8, change: impl FnOnce(&mut Options) + Send) -> Node {
        home.ip(&format!("addr add 192.0.2.{number}/24 dev wire"));
        home.ip(&format!("addr add 2001:db8::{number}/64 dev wire nodad"));
        home.ip("link set wire up");
        let heard = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&heard);
        let tunnel = home.run(|| {
            let tun = Tun::open("hepto0").expect("a TUN");
            let socket = Socket::open(51820).expect("the port");
            let mut options = Options::new(Zeroizing::new(private(number)));
            change(&mut options);
            let sink = Box::new(move |datagram: hepto_tunnel::Datagram<'_>| {
                let heard = (
                    datagram.bytes.to_vec(),
                    datagram.from,
                    datagram.to,
                    datagram.from_peer,
                );
                sink.lock().expect("no panic").push(heard);
            });
            Tunnel::start(options, tun, socket, sink).expect("threads")
        });
        home.ip(&format!("link set hepto0 mtu {MTU} up"));
        home.ip(&format!("addr add 10.44.0.{number}/16 dev hepto0"));
        home.ip(&format!("addr add fd44::{number}/64 dev hepto0 nodad"));
        home.settle(&format!("[fd44::{number}]:0"));
        Node {
            home,
            tunnel,
            number,
            heard,
        }
    }

    /// Makes `other` a peer, with its own two addresses.
    pub fn know(&self, other: u8, preshared_key: [u8; 32]) {
        self.tunnel.set_peer(config(other, preshared_key));
    }

    pub fn report(&self, other: u8) -> PeerReport {
        let key = public(other);
        self.tunnel
            .peers()
            .into_iter()
            .find(|peer| peer.public_key == key)
            .expect("a known peer")
    }

    /// Sends one datagram from inner address to inner address, again each 100 ms until it arrives.
    pub fn reaches(&self, other: &Node, within: Duration) -> bool {
        ["10.44.0.", "fd44::"]
            .iter()
            .all(|prefix| self.reaches_by(other, prefix, within))
    }

    fn reaches_by(&self, other: &Node, prefix: &str, within: Duration) -> bool {
        let bind = |number: u8| {
            SocketAddr::new(format!("{prefix}{number}").parse().expect("an address"), 0).to_string()
        };
        let (from, to) = (
            self.home.udp(&bind(self.number)),
            other.home.udp(&bind(other.number)),
        );
        let target = to.local_addr().expect("bound");
        to.set_read_timeout(Some(Duration::from_millis(100)))
            .expect("a timeout");
        let deadline = Instant::now() + within;
        let mut buffer = [0; 64];
        while Instant::now() < deadline {
            // A link that is down, or no route: the deadline decides.
            let _ = from.send_to(b"hello", target);
            if to.recv_from(&mut buffer).is_ok() {
                return true;
            }
        }
        false
    }

    /// Asks the tunnel for a handshake until it has a session.
    pub fn connect(&self, other: u8, endpoint: &str) {
        let endpoint = endpoint.parse().expect("an address and port");
        wait("a session", Duration::from_secs(5), || {
            self.tunnel.handshake(&public(other), endpoint);
            self.report(other).last_handshake.is_some()
        });
    }
}

pub fn config(number: u8, preshared_key: [u8; 32]) -> PeerConfig {
    PeerConfig {
        public_key: public(number),
        preshared_key,
        allowed_ips: vec![
            format!("10.44.0.{number}/32").parse().expect("a network"),
            format!("fd44::{number}/128").parse().expect("a network"),
        ],
        endpoint: None,
    }
}

pub fn private(number: u8) -> [u8; 32] {
    [number; 32]
}

pub fn public(number: u8) -> [u8; 32] {
    PublicKey::from(&StaticSecret::from(private(number))).to_bytes()
}

/// Two homes joined by a veth pair that both call `wire`.
pub fn homes() -> (Home, Home) {
    let (a, b) = (Home::new(), Home::new());
    a.ip(&format!(
        "link add wire type veth peer name wire netns {}",
        b.path()
    ));
    (a, b)
}

/// Two nodes that know each other and have no session.
pub fn strangers() -> (Node, Node) {
    let (a, b) = homes();
    let (a, b) = (Node::start(a, 1, |_| {}), Node::start(b, 2, |_| {}));
    a.know(2, PSK);
    b.know(1, PSK);
    (a, b)
}

/// Two nodes with a session, over IPv4.
pub fn pair() -> (Node, Node) {
    let (a, b) = strangers();
    a.connect(2, "192.0.2.2:51820");
    wait("the other side's session", Duration::from_secs(5), || {
        b.report(1).last_handshake.is_some()
    });
    (a, b)
}

/// Receives a datagram within the socket's timeout. A debugger or a frozen control group may interrupt it.
pub fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
    loop {
        match socket.recv_from(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Waits until `condition` holds.
pub fn wait(what: &str, within: Duration, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + within;
    while !condition() {
        assert!(Instant::now() < deadline, "waited {within:?} for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// True when the eventfd is readable within a second; clears it.
pub fn told(changed: &OwnedFd) -> bool {
    let mut fd = libc::pollfd {
        fd: changed.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one pollfd that outlives the call.
    let ready = unsafe { libc::poll(&raw mut fd, 1, 1000) } == 1;
    let mut count = [0u8; 8];
    // SAFETY: eight bytes that outlive the call; not readable is an error that changes nothing.
    unsafe { libc::read(changed.as_raw_fd(), count.as_mut_ptr().cast(), 8) };
    ready
}

/// Raises a flag when dropped, so that a thread beside a test ends also when the test fails.
pub struct Raise<'a>(pub &'a AtomicBool);

impl Drop for Raise<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
