//! The lab itself: what it says of a node must be true.

use std::process::Command;
use std::time::{Duration, Instant};

use hepto_tests::{Capture, Echo, Filter, Home, Inventory, SlowLine, echo, isolated, until};

use crate::{SOON, new_lab, seconds};

#[test]
fn an_inventory_sees_what_is_left() {
    isolated(|| {
        let lab = new_lab();
        let home = lab.home(1);
        let before = Inventory::of(&home);
        assert_eq!(
            Inventory::of(&home).more_than(&before),
            Vec::<String>::new()
        );
        home.space()
            .run(|| std::fs::write("/run/left", ""))
            .expect("the home lives")
            .expect("its /run");
        let socket = home
            .space()
            .run(|| std::net::UdpSocket::bind("[::]:4711"))
            .expect("the home lives");
        let mut sleeper = home
            .space()
            .spawn(Command::new("sleep").arg("60"))
            .expect("sleep starts");
        let left = Inventory::of(&home).more_than(&before);
        for kind in ["file /run/left", "socket udp6 ", "process "] {
            assert!(
                left.iter().any(|item| item.starts_with(kind)),
                "{kind} in {left:?}"
            );
        }
        sleeper.kill().expect("it is ours");
        sleeper.wait().expect("it is ours");
        drop(socket);
        home.space()
            .run(|| std::fs::remove_file("/run/left"))
            .expect("the home lives")
            .expect("its /run");
        assert_eq!(
            Inventory::of(&home).more_than(&before),
            Vec::<String>::new()
        );
    });
}

#[test]
fn a_filter_loses_what_it_should_and_nothing_later() {
    isolated(|| {
        let lab = new_lab();
        let homes = [lab.home(1), lab.home(2), lab.home(3)];
        let filter = Filter::apart(&lab.street, &homes[0], &homes[1]);
        until(SOON, "the third is heard", || hears(&homes[0], 3));
        assert!(!hears(&homes[0], 2));
        drop(filter);
        until(SOON, "the two hear one another again", || {
            hears(&homes[0], 2)
        });
        let filter = Filter::loss(&lab.street, &homes[0], 99);
        until(SOON, "the others are heard", || hears(&homes[1], 3));
        assert!(!hears(&homes[0], 3));
        drop(filter);
        until(SOON, "the loss is over", || hears(&homes[0], 3));
    });
}

#[test]
fn a_slow_line_delays_both_ways_and_a_capture_sees_whole_datagrams() {
    isolated(|| {
        let lab = new_lab();
        let homes = [lab.home(1), lab.home(2)];
        let delay = Duration::from_millis(50);
        SlowLine::lay(&lab.street, &homes[1], delay);
        let ask = || {
            homes[0]
                .space()
                .run(|| echo(Echo::new("192.168.77.2".parse().expect("an address"))))
                .expect("it lives")
        };
        let (took, _) = hepto_tests::within(SOON, "the slow line carries", ask);
        // The first may have waited for a neighbour's address, and any for this machine.
        let took = (0..5).flat_map(|_| ask()).fold(took, Duration::min);
        assert!((delay * 2..delay * 4).contains(&took), "{took:?}");

        let line = Capture::of(&homes[0]);
        let send =
            || std::net::UdpSocket::bind("0.0.0.0:4711")?.send_to(&[7; 1400], "192.168.77.1:4712");
        homes[1]
            .space()
            .run(send)
            .expect("it lives")
            .expect("a datagram");
        let seen = line.first(SOON, "the datagram passes", |seen| seen.to.port() == 4712);
        assert_eq!(
            (seen.from.to_string().as_str(), seen.bytes),
            ("192.168.77.2:4711", vec![7; 1400])
        );
    });
}

#[test]
fn a_failed_test_leaves_nothing() {
    let start = Instant::now();
    let failed = std::panic::catch_unwind(|| {
        isolated(|| {
            let lab = new_lab();
            let home = lab.home(1);
            let mut sleeper = home
                .space()
                .spawn(Command::new("sleep").arg("4711"))
                .expect("sleep starts");
            println!("sleeper {} under {}", sleeper.id(), lab.directory.display());
            let ended = sleeper.try_wait().expect("it is ours");
            assert!(ended.is_some(), "on purpose");
        });
    });
    if std::env::var_os("HEPTO_LAB").is_some() {
        std::panic::resume_unwind(failed.expect_err("it panics"));
    }
    let report = failed.expect_err("the failure is reported");
    let report = report.downcast_ref::<String>().expect("a text");
    assert!(
        report.contains("on purpose") && start.elapsed() < seconds(30),
        "{report}"
    );
    let directory = report
        .split(" under ")
        .nth(1)
        .and_then(|rest| rest.lines().next())
        .expect("the directory was printed");
    assert!(!std::path::Path::new(directory).exists());
    let alive = std::fs::read_dir("/proc")
        .expect("proc")
        .flatten()
        .any(|entry| {
            std::fs::read(entry.path().join("cmdline"))
                .is_ok_and(|words| words == b"sleep\x004711\x00")
        });
    assert!(!alive, "a process of the failed test lives on");
}

fn hears(home: &Home, number: u8) -> bool {
    let to = format!("192.168.77.{number}").parse().expect("an address");
    let request = Echo {
        patience: Duration::from_millis(300),
        ..Echo::new(to)
    };
    home.space()
        .run(|| echo(request))
        .expect("the home lives")
        .is_ok()
}
