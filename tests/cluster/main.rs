//! What a node promises of real pods, on three nodes in homes of their own.
//!
//! The program in k3s's place is named in the environment, since neither is built by cargo: `make test-cluster` builds
//! and names kubelab (`tests/kubelab`), `make test-k3s` takes a real k3s. A cluster takes a minute to come up, so each
//! test makes many checks of one cluster; all are made and told, and the test fails at its end if any failed.

mod beside;
mod closed;
mod cluster;
mod host;
mod life;
mod moved;
mod network;
mod owner;
mod pods;
mod report;
mod upgrade;

use std::time::Duration;

use hepto_tests::isolated_for;

use crate::cluster::Cluster;
use crate::host::Kernel;
use crate::report::Report;

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_hepto-node");

/// Patience for a cluster of processes by the dozen, on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(300);

/// The longest that a whole test may take.
const LIMIT: Duration = Duration::from_secs(1800);

#[test]
fn a_cluster_of_three_homes() {
    isolated_for(LIMIT, || {
        let mut report = Report::new("Three nodes in three homes");
        let kernel = Kernel::now();
        let mut cluster = Cluster::new(&["mars", "venus", "pluto"]);
        let empty = cluster.home(4);
        cluster.start(&mut report);
        pods::start(&cluster, &mut report);
        network::check(&cluster, &mut report);
        closed::check(&cluster, &mut report);
        life::check(&mut cluster, &mut report);
        upgrade::check(&cluster, &mut report);
        owner::check(&cluster, &mut report);
        moved::check(&mut cluster, &empty, &mut report);
        let what =
            "tokens and keys are in no argument, environment, log or file that others may read";
        report.check(what, || host::secrets(&cluster));
        report.check("the host's sysctls are what they were", || {
            kernel.unchanged()
        });
        cluster.stop(&mut report);
        report.end();
    });
}

#[test]
fn two_clusters_on_one_host() {
    isolated_for(LIMIT, || {
        let mut report = Report::new("Two nodes of two clusters on one host");
        beside::check(&mut report);
        report.end();
    });
}
