//! The service manager hears that a node lives exactly as long as all of it does.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use hepto_tests::{Node, isolated_for};
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::{SOON, new_lab, seconds};

/// How often the service manager wants to hear of the node, at the least.
const PERIOD: Duration = Duration::from_secs(4);

#[test]
fn a_thread_that_hangs_keeps_the_watchdog_silent() {
    isolated_for(seconds(180), || {
        let lab = new_lab();
        let mut node = lab.nodes(&["mars"]).remove(0);
        let path = lab.directory.join("notify");
        let manager = UnixDatagram::bind(&path).expect("a socket");
        let usec = PERIOD.as_micros().to_string();
        node.environment
            .push(("NOTIFY_SOCKET".into(), path.display().to_string()));
        node.environment.push(("WATCHDOG_USEC".into(), usec));
        node.start();
        for thread in [
            "hepto-node",
            "hepto-mesh",
            "hepto-tx",
            "hepto-rx",
            "hepto-timer",
        ] {
            assert!(hears(&manager, SOON), "{thread}: the node lives");
            let halted = Halted::new(&node, thread);
            // What was on its way is over when nothing comes for most of a period.
            let start = Instant::now();
            while hears(&manager, PERIOD * 3 / 4) {
                assert!(start.elapsed() < SOON, "{thread} hangs, and nobody notices");
            }
            halted.release();
        }
        assert!(hears(&manager, SOON), "all goes on");
        assert!(node.stop(SOON).success(), "{}", node.log());
        for thread in ["hepto-mesh", "hepto-tx", "hepto-rx", "hepto-timer"] {
            let named = |line: &str| line.contains("E-RUN-HUNG") && line.contains(thread);
            assert!(node.log().lines().any(named), "{thread}: {}", node.log());
        }
    });
}

/// Whether the node says that it lives within `patience`.
fn hears(manager: &UnixDatagram, patience: Duration) -> bool {
    let start = Instant::now();
    let mut buffer = [0; 4096];
    loop {
        let left = patience.saturating_sub(start.elapsed());
        if left.is_zero() {
            return false;
        }
        manager.set_read_timeout(Some(left)).expect("a time limit");
        if let Ok(length) = manager.recv(&mut buffer)
            && buffer[..length].starts_with(b"WATCHDOG=1")
        {
            return true;
        }
    }
}

/// One thread of a node, held by a debugger as if it hung.
struct Halted(Pid);

impl Halted {
    fn new(node: &Node, name: &str) -> Halted {
        let threads = fs::read_dir(format!("/proc/{}/task", node.pid())).expect("it runs");
        let named = |entry: &fs::DirEntry| {
            fs::read_to_string(entry.path().join("comm")).is_ok_and(|comm| comm.trim() == name)
        };
        let found = threads.flatten().find(named).expect("the thread lives");
        let id = found.file_name().into_string().expect("a number");
        let thread = Pid::from_raw(id.parse().expect("a number"));
        ptrace::seize(thread, ptrace::Options::empty()).expect("root may trace it");
        ptrace::interrupt(thread).expect("it is traced");
        waitpid(thread, Some(WaitPidFlag::__WALL)).expect("it halts");
        Halted(thread)
    }

    fn release(self) {
        ptrace::detach(self.0, None).expect("it is traced");
    }
}
