use super::*;
use crate::k3s::acquire::Digest;

const MINUTE: Duration = Duration::from_secs(60);

fn version(number: u8) -> Known {
    Known {
        sha256: Digest::of(&[number][..]).unwrap(),
        path: format!("/srv/.hepto/k3s/{number}/k3s").into(),
        name: format!("v{number}"),
        images: None,
    }
}

/// A node that was ready with version 1, which runs.
fn node() -> Upgrade {
    again(version(1), None, "settings")
}

/// A supervisor that finds this version running.
fn again(ran: Known, trial: Option<Trial>, settings: &str) -> Upgrade {
    let known = (Some(ran.clone()), Some(version(1)));
    Upgrade::new(ran, known, trial, settings.into(), 10 * MINUTE)
}

/// Why k3s is started anew for this version.
fn to_run(number: u8) -> Option<String> {
    Some(format!("v{number} is to run"))
}

/// Does what the plans ask, as the supervisor does; the version that is started.
fn starts(upgrade: &mut Upgrade, now: Instant) -> (u8, Vec<&'static str>) {
    let mut work = Vec::new();
    loop {
        let plan = upgrade.next();
        match plan.clone() {
            Plan::Return(from) => {
                work.push("return");
                upgrade.returned(from);
                continue;
            }
            Plan::Try(_) => work.push("copy"),
            Plan::Start(_) => {}
        }
        let name = upgrade.start(plan, now).name;
        return (name[1..].parse().unwrap(), work);
    }
}

#[test]
fn what_runs_already_is_left_alone() {
    let mut upgrade = node();
    assert_eq!(upgrade.want(version(1)), None);
    assert_eq!(starts(&mut upgrade, Instant::now()), (1, vec![]));
    assert_eq!(upgrade.poll_timeout(), None);
}

#[test]
fn a_first_start_is_no_trial() {
    let mut upgrade = Upgrade::new(version(1), (None, None), None, String::new(), MINUTE);
    assert_eq!(upgrade.want(version(1)), None);
    assert_eq!(starts(&mut upgrade, Instant::now()), (1, vec![]));
    assert!(upgrade.trial().is_none());
}

#[test]
fn a_new_version_that_is_ready_settles() {
    let (mut upgrade, now) = (node(), Instant::now());
    assert_eq!(upgrade.want(version(2)), to_run(2));
    assert_eq!(starts(&mut upgrade, now), (2, vec!["copy"]));
    assert_eq!(upgrade.poll_timeout(), Some(now + 10 * MINUTE));
    assert!(upgrade.is_trying());
    assert!(upgrade.ready(now + MINUTE));
    assert!(!upgrade.is_trying() && !upgrade.ready(now + MINUTE), "once");
    // Crashes later are crashes like any other.
    assert!((0..20).all(|_| !upgrade.ended("exit code 1")));
    assert_eq!(starts(&mut upgrade, now), (2, vec![]));
    upgrade.unready();
    assert_eq!(upgrade.poll_timeout(), None);
    upgrade.ready(now + 2 * MINUTE);
    let settled = now + 12 * MINUTE;
    assert_eq!(upgrade.handle_timeout(settled, true, None), Due::Settled);
    assert!(upgrade.trial().is_none());
    assert_eq!(upgrade.want(version(2)), None);
}

#[test]
fn one_that_is_not_ready_in_time_gives_its_place_back_and_is_not_tried_again() {
    let (mut upgrade, now) = (node(), Instant::now());
    upgrade.want(version(2));
    starts(&mut upgrade, now);
    let late = now + 10 * MINUTE;
    let due = upgrade.handle_timeout(late, true, Some("the API server answers 500"));
    assert_eq!(due, Due::Failed);
    assert_eq!(starts(&mut upgrade, late), (1, vec!["return"]));
    let trial = upgrade.trial().cloned().expect("it is remembered");
    assert!(matches!(&trial.stage, Stage::Failed(why) if why.contains("600 s: the API server")));
    // The earlier one crashes, the supervisor does, the config is read again: never a loop.
    assert_eq!(starts(&mut upgrade, late), (1, vec![]));
    assert!(!upgrade.is_trying() && upgrade.poll_timeout().is_none());
    let mut next = again(version(1), Some(trial.clone()), "settings");
    assert_eq!(next.want(version(2)), None);
    assert_eq!(starts(&mut next, late), (1, vec![]));
    // Until something is different: the settings, or the version.
    let mut next = again(version(1), Some(trial.clone()), "other settings");
    assert_eq!(next.want(version(2)), to_run(2));
    assert_eq!(starts(&mut next, late), (2, vec!["copy"]));
    let mut next = again(version(1), Some(trial), "settings");
    assert_eq!(next.want(version(3)), to_run(3));
    assert_eq!(next.want(version(1)), None);
    assert!(next.trial().is_none(), "the owner has put it back himself");
}

#[test]
fn changed_settings_wait_for_the_word_on_what_is_to_run() {
    let (now, changed) = (Instant::now(), Some("its settings have changed".to_owned()));
    let failed = Trial {
        from: Some(version(1)),
        to: version(2),
        settings: "settings".into(),
        stage: Stage::Failed("it hung".into()),
    };
    let stale = || {
        let mut upgrade = again(version(1), Some(failed.clone()), "other settings");
        upgrade.settings_changed();
        assert_eq!(upgrade.overtaken(), None, "nothing is known yet");
        upgrade
    };
    // The word comes first: what failed is tried again with the new settings, in one start.
    let mut upgrade = stale();
    assert_eq!(upgrade.want(version(2)), to_run(2));
    assert_eq!(starts(&mut upgrade, now), (2, vec!["copy"]));
    assert_eq!(
        (upgrade.overtaken(), upgrade.want(version(2))),
        (None, None)
    );
    // k3s was on its way before, since it had ended by itself: it is no last word.
    let mut upgrade = stale();
    assert_eq!(starts(&mut upgrade, now).0, 1);
    assert_eq!(upgrade.want(version(2)), to_run(2));
    assert_eq!(upgrade.overtaken(), to_run(2), "said again when it runs");
    assert_eq!(starts(&mut upgrade, now), (2, vec!["copy"]));
    assert_eq!(upgrade.overtaken(), None);
    // The same is wanted, or nothing can be had: the settings alone are the reason, once.
    let mut upgrade = stale();
    assert_eq!(
        (upgrade.want(version(1)), upgrade.want(version(1))),
        (changed.clone(), None)
    );
    let mut upgrade = stale();
    assert_eq!((upgrade.go_on(), upgrade.go_on()), (changed, None));
    assert_eq!(starts(&mut upgrade, now), (1, vec![]));
}

#[test]
fn one_that_ends_again_and_again_is_not_waited_for() {
    let (mut upgrade, now) = (node(), Instant::now());
    upgrade.want(version(2));
    starts(&mut upgrade, now);
    for _ in 1..5 {
        assert!(!upgrade.ended("exit code 1"));
        assert_eq!(starts(&mut upgrade, now + MINUTE), (2, vec![]));
        assert_eq!(
            upgrade.poll_timeout(),
            Some(now + 10 * MINUTE),
            "no more time"
        );
    }
    assert!(upgrade.ended("exit code 1"));
    assert_eq!(starts(&mut upgrade, now), (1, vec!["return"]));
}

#[test]
fn an_agent_without_its_master_has_its_time_later() {
    let (mut upgrade, now) = (node(), Instant::now());
    upgrade.want(version(2));
    starts(&mut upgrade, now);
    let late = now + 10 * MINUTE;
    assert_eq!(upgrade.handle_timeout(late, false, None), Due::Nothing);
    assert_eq!(upgrade.poll_timeout(), Some(late + 10 * MINUTE));
}

#[test]
fn a_third_version_in_the_middle_starts_from_the_first_ones_data() {
    let (mut upgrade, now) = (node(), Instant::now());
    upgrade.want(version(2));
    starts(&mut upgrade, now);
    assert_eq!(upgrade.want(version(3)), to_run(3));
    assert_eq!(starts(&mut upgrade, now), (3, vec!["return", "copy"]));
    assert_eq!(upgrade.want(version(1)), to_run(1));
    assert_eq!(starts(&mut upgrade, now), (1, vec!["return"]));
    assert!(upgrade.trial().is_none());
}

#[test]
fn a_supervisor_that_died_in_the_middle_goes_on_from_there() {
    let (mut upgrade, now) = (node(), Instant::now());
    upgrade.want(version(2));
    starts(&mut upgrade, now);
    let trial = upgrade.trial().cloned();
    // While the new one is tried: all its time again, no second copy.
    let mut next = again(version(2), trial.clone(), "settings");
    next.found(now + MINUTE);
    assert_eq!(next.poll_timeout(), Some(now + 11 * MINUTE));
    assert_eq!(next.want(version(2)), None);
    assert_eq!(starts(&mut next, now), (2, vec![]));
    // After it was given up, before the earlier one was started.
    upgrade.handle_timeout(now + 10 * MINUTE, true, None);
    let mut next = again(version(2), upgrade.trial().cloned(), "settings");
    assert_eq!(next.want(version(2)), to_run(1));
    assert_eq!(starts(&mut next, now), (1, vec!["return"]));
}

#[test]
fn without_an_earlier_one_there_is_no_way_back() {
    let now = Instant::now();
    let known = (Some(version(1)), None);
    let mut upgrade = Upgrade::new(version(1), known, None, String::new(), MINUTE);
    upgrade.want(version(2));
    assert_eq!(starts(&mut upgrade, now), (2, vec!["copy"]));
    assert_eq!(
        upgrade.handle_timeout(now + MINUTE, true, None),
        Due::Nothing
    );
    assert!((0..20).all(|_| !upgrade.ended("exit code 1")));
    assert_eq!(starts(&mut upgrade, now), (2, vec![]));
}

#[test]
fn what_cannot_be_undone_is_not_tried() {
    let (mut upgrade, now) = (node(), Instant::now());
    upgrade.want(version(2));
    let Plan::Try(trial) = upgrade.next() else {
        panic!("{:?}", upgrade.next());
    };
    upgrade.refuse(trial, "the disk is full".into());
    assert_eq!(starts(&mut upgrade, now), (1, vec![]));
    assert_eq!(upgrade.want(version(2)), None);
}

#[test]
fn a_copy_that_is_kept_stays_the_way_back_when_it_is_ready_again() {
    let own = Known {
        path: "/usr/local/bin/k3s".into(),
        ..version(1)
    };
    let mut upgrade = again(own, None, "settings");
    upgrade.ready(Instant::now());
    upgrade.want(version(2));
    let Plan::Try(Trial {
        from: Some(from), ..
    }) = upgrade.next()
    else {
        panic!("{:?}", upgrade.next());
    };
    assert_eq!(from, version(1), "not what its owner may have replaced");
}
