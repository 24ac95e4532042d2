//! The limits of the uplink: how they come, change and go, and what they hold back.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use hepto_net::{Firewall, Network, Rates, Settings};

use crate::lab::*;

const MEGA: u64 = 1_000_000;

fn limited(up: Option<u64>, down: Option<u64>) -> Settings {
    let mut settings = settings();
    settings.bandwidth.rates = Rates { up, down };
    settings
}

/// The whole tree as `tc` sees it, by its words.
fn shown(link: &str) -> String {
    let show = |what: &str| inside(&format!("tc {what} show dev {link}"));
    ["qdisc", "class", "filter"].map(show).join("")
}

/// Drops what a run holds, as a crash would, and opens the node again with other limits.
async fn again(network: Network, settings: Settings) -> Network {
    drop(network);
    open(settings).await
}

#[test]
fn limits_come_change_and_go_and_a_second_convergence_does_nothing() {
    isolated(
        "bandwidth::limits_come_change_and_go_and_a_second_convergence_does_nothing",
        async || {
            wire();
            let mut network = open(limited(Some(20 * MEGA), Some(50 * MEGA))).await;
            assert!(is_up(&converge(&mut network).await));
            assert_eq!(text(&converge(&mut network).await.steps), "");
            let up = shown("uplink");
            assert!(
                up.contains("prio 1 rate 18Mbit ceil 20Mbit")
                    && up.contains("prio 0 rate 2Mbit ceil 20Mbit")
                    && up.contains("qdisc ingress ffff:"),
                "{up}"
            );
            assert!(
                up.contains("qdisc bfifo") || up.contains("qdisc fq_codel"),
                "{up}"
            );
            let down = shown("uplink-in");
            assert!(down.contains("rate 45Mbit ceil 50Mbit"), "{down}");
            let shaped = network.shaped().await.unwrap();
            assert!(shaped.up.is_some() && shaped.down.is_some());

            // A node that is taken over gets the limits of the day.
            let mut network = again(network, limited(Some(10 * MEGA), None)).await;
            let steps = text(&converge(&mut network).await.steps);
            assert!(
                steps.contains("send at most 10000000") && steps.contains("receive as fast"),
                "{steps}"
            );
            assert_eq!(text(&converge(&mut network).await.steps), "");
            let up = shown("uplink");
            assert!(
                up.contains("ceil 10Mbit") && !up.contains("ingress"),
                "{up}"
            );
            assert!(!inside("ip -o link show").contains("uplink-in"));

            let mut network = again(network, settings()).await;
            converge(&mut network).await;
            let up = shown("uplink");
            assert!(!up.contains("htb") && !up.contains("u32"), "{up}");
            assert_eq!(network.shaped().await.unwrap(), Default::default());
            close(network).await;
        },
    );
}

#[test]
fn an_uplink_that_is_made_anew_is_limited_again() {
    isolated(
        "bandwidth::an_uplink_that_is_made_anew_is_limited_again",
        async || {
            wire();
            let mut network = open(limited(Some(20 * MEGA), Some(20 * MEGA))).await;
            converge(&mut network).await;
            inside("ip link delete uplink");
            assert!(is_up(&converge(&mut network).await));
            assert_eq!(text(&converge(&mut network).await.steps), "");
            let up = shown("uplink");
            assert!(up.contains("ceil 20Mbit") && up.contains("ingress"), "{up}");
            // What someone else takes away is put back.
            inside("tc qdisc delete dev uplink root");
            assert!(text(&converge(&mut network).await.steps).contains("send at most 20000000"),);
            close(network).await;
        },
    );
}

/// Notes how modprobe is called from now on, on a kernel that seems not to have the driver; it does its work all the same.
fn note_modprobe() {
    run("mkdir", "/run/kmod");
    // Where /usr is not merged it lies below the root alone, which the others lead to.
    let path = "/sbin/modprobe";
    run("cp", &format!("--dereference {path} /run/kmod/modprobe"));
    let script = "#!/bin/sh\necho \"$*\" >>/run/kmod/asked\nexec /run/kmod/modprobe \"$@\"\n";
    std::fs::write("/run/kmod/note", script).unwrap();
    run("chmod", "755 /run/kmod/note");
    run("mount", &format!("--bind /run/kmod/note {path}"));
    run("mount", "-t tmpfs tmpfs /sys/module");
}

/// The driver's devices where this test runs.
fn devices() -> String {
    ip("-o link show type ifb")
}

#[test]
fn the_driver_of_what_comes_in_leaves_no_device_on_the_host() {
    // Loaded without a word it makes two, on the machine itself, in whatever namespace it is asked for.
    let before = devices();
    isolated(
        "bandwidth::the_driver_of_what_comes_in_leaves_no_device_on_the_host",
        async || {
            note_modprobe();
            wire();
            let mut network = open(limited(None, Some(20 * MEGA))).await;
            converge(&mut network).await;
            close(network).await;
            let asked = std::fs::read_to_string("/run/kmod/asked").unwrap();
            let ours: Vec<&str> = asked.lines().filter(|line| line.contains("ifb")).collect();
            assert_eq!(ours, ["--quiet ifb numifbs=0"]);
        },
    );
    assert_eq!(devices(), before);
}

/// Sends as fast as it can for a second; what arrived, in bytes.
fn flood(from: &str, to: &str, address: &'static str) -> u64 {
    let received = within(to, move || {
        let socket = UdpSocket::bind((address, 9999)).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(700)))
            .unwrap();
        socket
    });
    let sender = {
        let from = from.to_owned();
        std::thread::spawn(move || {
            within(&from, move || {
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                socket.connect((address, 9999)).unwrap();
                let end = Instant::now() + Duration::from_secs(1);
                let mut sent = 0_u64;
                while Instant::now() < end {
                    // A full queue is what is wanted.
                    sent += socket.send(&[0; 1400]).map_or(0, |_| 1428);
                }
                sent
            })
        })
    };
    let mut bytes = 0;
    let mut buffer = [0; 2048];
    while let Ok(length) = received.recv(&mut buffer) {
        bytes += length as u64 + 28;
    }
    let sent = sender.join().unwrap();
    assert!(sent >= bytes, "{bytes} of {sent} bytes");
    bytes
}

#[test]
fn a_flood_is_held_to_the_rate_in_each_direction() {
    isolated(
        "bandwidth::a_flood_is_held_to_the_rate_in_each_direction",
        async || {
            wire();
            let mut settings = limited(Some(8 * MEGA), Some(16 * MEGA));
            settings.firewall = Firewall::Off;
            let mut network = open(settings).await;
            converge(&mut network).await;
            usable(&mut network).await;
            let before = network.shaped().await.unwrap();
            // A second of the rate, what may leave at once, and what may still wait in the queue at the end.
            let up = flood(NAMESPACE, "lan", "192.0.2.254");
            assert!((500_000..1_500_000).contains(&up), "{up} bytes at 8 Mbit/s");
            let down = flood("lan", NAMESPACE, "192.0.2.1");
            assert!(
                (1_000_000..3_000_000).contains(&down),
                "{down} bytes at 16 Mbit/s"
            );
            let after = network.shaped().await.unwrap();
            let (sent, heard) = (after.up.unwrap(), after.down.unwrap());
            assert!(sent.bytes - before.up.unwrap().bytes >= up, "{sent:?}");
            assert!(
                heard.bytes - before.down.unwrap().bytes >= down,
                "{heard:?}"
            );
            close(network).await;
        },
    );
}

/// The mesh's own packets overtake a flood, so that no session is lost for a limit.
#[test]
fn a_handshake_overtakes_a_flood_and_other_packets_wait() {
    isolated(
        "bandwidth::a_handshake_overtakes_a_flood_and_other_packets_wait",
        async || {
            wire();
            let mut network = open(limited(Some(2 * MEGA), None)).await;
            converge(&mut network).await;
            usable(&mut network).await;
            let ear = within("lan", || {
                let socket = UdpSocket::bind("192.0.2.254:7777").unwrap();
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                socket
            });
            // In the node, one after the other, all within a moment: a queue full of bulk, then a handshake.
            within(NAMESPACE, || {
                let mesh = UdpSocket::bind("192.0.2.1:51820").unwrap();
                mesh.connect("192.0.2.254:7777").unwrap();
                let data = [[4, 0, 0, 0].as_slice(), &[0; 1200]].concat();
                // Fewer than fill the socket's buffer, where it would have to wait itself.
                for _ in 0..60 {
                    mesh.send(&data).unwrap();
                }
                mesh.send(&[[1, 0, 0, 0].as_slice(), &[0; 144]].concat())
                    .unwrap();
            });
            let mut before = 0;
            let mut buffer = [0; 2048];
            loop {
                let length = ear.recv(&mut buffer).expect("the handshake arrives");
                if buffer[..4] == [1, 0, 0, 0] {
                    assert_eq!(length, 148);
                    break;
                }
                before += 1;
            }
            assert!(
                before < 40,
                "{before} packets of 60 went before the handshake"
            );
            close(network).await;
        },
    );
}
