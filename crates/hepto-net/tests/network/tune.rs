//! The one setting of the host's own interface that its owner may allow to be changed.

use std::fs;
use std::path::Path;

use hepto_net::ethtool::{Ethtool, Feature, UDP_GRO_FORWARDING};
use hepto_net::{Settings, Tuning, teardown};

use crate::lab::{
    MARKER, NAMESPACE, close, converge, ip, isolated, open, parent, settings, text, wire,
};

const STEP: &str = "parent: have ens1 forward joined UDP datagrams\n";

fn tuned() -> Settings {
    let mut settings = settings();
    settings.uplink.tune = true;
    settings
}

/// A second node on the same parent.
fn neighbour() -> Settings {
    let mut settings = tuned();
    settings.namespace = "hepto-acides.venus".into();
    settings.marker = "hepto:acides:venus".into();
    settings.uplink.mac = Some(hepto_net::address::mac_for("acides", "venus"));
    settings.uplink.addresses = vec!["192.0.2.3/24".parse().unwrap()];
    settings.uplink.gateways.clear();
    settings
}

fn feature() -> Feature {
    let ethtool = Ethtool::here().unwrap();
    ethtool.feature("ens1", UDP_GRO_FORWARDING).unwrap()
}

fn set(on: bool) {
    let ethtool = Ethtool::here().unwrap();
    ethtool.set("ens1", UDP_GRO_FORWARDING, on).unwrap();
}

fn assert_no_note() {
    assert!(!Path::new("/run/hepto.tune").exists(), "a note is left");
}

#[test]
fn the_parent_is_tuned_until_the_end() {
    isolated("tune::the_parent_is_tuned_until_the_end", || async {
        wire();
        assert_eq!(feature(), Feature::Off, "the kernel's default");
        let mut network = open(tuned()).await;
        assert!(text(&converge(&mut network).await.steps).contains(STEP));
        assert_eq!(
            (feature(), network.tuning()),
            (Feature::On, Some(Tuning::On))
        );
        assert!(converge(&mut network).await.steps.is_empty());
        // Someone turns it off; it is put back, and off at the end all the same.
        set(false);
        assert_eq!(text(&converge(&mut network).await.steps), STEP);
        assert_eq!(feature(), Feature::On);
        close(network).await;
        assert_eq!(feature(), Feature::Off);
        assert_no_note();
    });
}

#[test]
fn nobody_who_did_not_ask_is_tuned() {
    isolated("tune::nobody_who_did_not_ask_is_tuned", || async {
        wire();
        let mut network = open(settings()).await;
        assert!(!text(&converge(&mut network).await.steps).contains("parent:"));
        assert_eq!((feature(), network.tuning()), (Feature::Off, None));
        close(network).await;
    });
}

#[test]
fn a_refusal_is_told_and_fails_nothing() {
    isolated("tune::a_refusal_is_told_and_fails_nothing", || async {
        wire();
        // Without a note nothing may be changed.
        fs::write("/run/hepto.tune", "no folder").unwrap();
        let mut network = open(tuned()).await;
        assert!(text(&converge(&mut network).await.steps).contains(STEP));
        let refused = network.tuning();
        assert!(
            matches!(&refused, Some(Tuning::Refused(why)) if why.contains("/run/hepto.tune is no folder")),
            "{refused:?}"
        );
        assert!(
            converge(&mut network).await.steps.is_empty(),
            "all else stands, and nobody asks again"
        );
        assert_eq!(feature(), Feature::Off);
        // Neither the end nor `stop` after a crash fails for it, and the file is its owner's.
        close(network).await;
        assert_eq!(teardown(NAMESPACE, MARKER, "ens1").await.len(), 0);
        assert_eq!(fs::read_to_string("/run/hepto.tune").unwrap(), "no folder");
    });
}

#[test]
fn what_the_owner_turned_on_stays_on() {
    isolated("tune::what_the_owner_turned_on_stays_on", || async {
        wire();
        set(true);
        let mut network = open(tuned()).await;
        assert!(!text(&converge(&mut network).await.steps).contains(STEP));
        assert_eq!(network.tuning(), Some(Tuning::Owner));
        close(network).await;
        assert_eq!(feature(), Feature::On);
        assert_no_note();
    });
}

#[test]
fn the_last_of_two_nodes_undoes_it() {
    isolated("tune::the_last_of_two_nodes_undoes_it", || async {
        wire();
        let mut first = open(tuned()).await;
        converge(&mut first).await;
        let mut second = open(neighbour()).await;
        converge(&mut second).await;
        assert_eq!(second.tuning(), Some(Tuning::On));
        assert!(first.close().await.is_empty());
        assert_eq!(feature(), Feature::On, "the other lives with it");
        assert!(converge(&mut second).await.steps.is_empty());
        assert!(second.close().await.is_empty());
        assert_eq!(feature(), Feature::Off);
        assert_no_note();
    });
}

#[test]
fn a_crash_leaves_it_to_the_next_run_or_to_stop() {
    isolated(
        "tune::a_crash_leaves_it_to_the_next_run_or_to_stop",
        || async {
            wire();
            let mut network = open(tuned()).await;
            converge(&mut network).await;
            drop(network);
            assert_eq!(feature(), Feature::On, "it was not undone");
            let mut adopted = open(tuned()).await;
            let steps = text(&converge(&mut adopted).await.steps);
            assert_eq!(steps, STEP, "noted, and nothing else was to do");
            drop(adopted);
            assert_eq!(teardown(NAMESPACE, MARKER, "ens1").await.len(), 0);
            assert_eq!(feature(), Feature::Off);
            assert_no_note();

            let mut network = open(tuned()).await;
            converge(&mut network).await;
            drop(network);
            // The owner has changed his mind meanwhile.
            let network = open(settings()).await;
            assert_eq!(feature(), Feature::Off);
            assert_no_note();
            close(network).await;
        },
    );
}

#[test]
fn a_parent_that_is_plugged_in_again_is_tuned_again() {
    isolated(
        "tune::a_parent_that_is_plugged_in_again_is_tuned_again",
        || async {
            wire();
            let mut network = open(tuned()).await;
            converge(&mut network).await;
            ip("link delete ens1");
            converge(&mut network).await;
            assert_eq!(network.tuning(), None, "it is waited for");
            parent();
            assert!(text(&converge(&mut network).await.steps).contains(STEP));
            assert_eq!(feature(), Feature::On);
            ip("link delete ens1");
            close(network).await;
            assert_no_note();
        },
    );
}
