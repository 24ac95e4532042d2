//! A box without a battery boots in 1970.

use std::process::Command;
use std::time::Instant;

use hepto_tests::{Lab, Node, isolated};

use crate::{SOON, new_lab, seconds};

/// Moves CLOCK_REALTIME of one process to the beginning of 1970; never the machine's.
const EPOCH: &str = r#"
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t clock, struct timespec *now)
{
    if (clock == CLOCK_REALTIME)
        clock = CLOCK_MONOTONIC;
    return syscall(SYS_clock_gettime, clock, now);
}
time_t time(time_t *out)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out)
        *out = now.tv_sec;
    return now.tv_sec;
}
"#;

#[test]
fn a_node_restarted_in_1970_is_back_within_ten_seconds() {
    isolated(|| {
        let lab = new_lab();
        let mut nodes = lab.nodes(&["mars", "venus", "pluto"]);
        nodes.iter_mut().for_each(Node::start);
        Node::all_meet(&nodes.iter().collect::<Vec<_>>(), Instant::now(), SOON);
        nodes[2].crash();
        let preload = build(&lab);
        nodes[2]
            .environment
            .push(("LD_PRELOAD".to_owned(), preload));
        nodes[2].start();
        let start = Instant::now();
        nodes[2].says("1970-01-01", SOON);
        Node::all_meet(&nodes.iter().collect::<Vec<_>>(), start, seconds(10));
    });
}

/// Compiles the other clock with the C compiler that the build of the node needs too.
fn build(lab: &Lab) -> String {
    let (source, library) = (
        lab.directory.join("epoch.c"),
        lab.directory.join("epoch.so"),
    );
    std::fs::write(&source, EPOCH).expect("the test's directory");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&library)
        .arg(&source)
        .status();
    assert!(built.expect("a C compiler").success());
    library.to_string_lossy().into_owned()
}
