use std::time::Duration;

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// A machine with its made-up clock.
struct World {
    machine: Lifecycle,
    now: Instant,
}

impl World {
    fn new(role: Role) -> World {
        let now = Instant::now();
        World {
            machine: Lifecycle::new(role, Pace::default(), 7, now),
            now,
        }
    }

    fn event(&mut self, event: Event) -> Vec<Action> {
        self.machine.handle(self.now, event);
        self.actions()
    }

    fn actions(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.machine.poll_action()).collect()
    }

    /// Lets the time pass, every timeout served when it is due.
    fn pass(&mut self, duration: Duration) -> Vec<Action> {
        let end = self.now + duration;
        let mut actions = Vec::new();
        while let Some(at) = self.machine.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.machine.handle_timeout(self.now);
            actions.extend(self.actions());
            if self.machine.poll_timeout() == Some(at) {
                panic!("a timeout that was served is due again");
            }
        }
        self.now = end;
        actions
    }

    /// A server that has become ready.
    fn ready() -> World {
        let mut world = World::new(Role::Server);
        assert_eq!(world.event(Event::Prepared), [Action::Spawn]);
        world.come_up(41);
        world
    }

    fn come_up(&mut self, pid: i32) {
        self.event(Event::Spawned { pid });
        self.event(Event::Notified);
        assert_eq!(self.pass(Duration::ZERO), [Action::Probe { pid }]);
        self.event(Event::Probed {
            pid,
            result: Ok(()),
        });
        assert_eq!(self.machine.state(), State::Ready);
    }

    /// Answers each probe for that long.
    fn live(&mut self, duration: Duration, pid: i32) {
        let end = self.now + duration;
        while self.now < end {
            let step = SECOND.min(end - self.now);
            for action in self.pass(step) {
                assert_eq!(action, Action::Probe { pid });
                self.event(Event::Probed {
                    pid,
                    result: Ok(()),
                });
            }
        }
    }

    /// k3s ends; gives the back-off.
    fn crash(&mut self) -> Duration {
        assert_eq!(self.event(Event::Exited("exit code 1".into())), []);
        assert_eq!(self.machine.state(), State::Backoff);
        self.machine.retry_at().expect("a time to start again") - self.now
    }
}

/// Something is missing, and k3s lives.
fn lack(what: &str) -> Lack {
    Lack {
        what: what.into(),
        mute: false,
    }
}

#[test]
fn a_server_starts_without_waiting_for_anyone() {
    let mut world = World::new(Role::Server);
    assert_eq!(world.event(Event::Prepared), [Action::Spawn]);
    assert_eq!(world.machine.state(), State::Spawn);
    world.event(Event::Spawned { pid: 41 });
    assert_eq!(world.machine.state(), State::Joining);
    assert_eq!(world.machine.pid(), Some(41));
    assert_eq!(
        world.pass(60 * SECOND),
        [],
        "before READY there is nothing to probe"
    );
    world.event(Event::Notified);
    assert_eq!(world.pass(Duration::ZERO), [Action::Probe { pid: 41 }]);
    world.event(Event::Probed {
        pid: 41,
        result: Err(lack("API server: 500")),
    });
    assert_eq!(world.machine.last_error(), Some("API server: 500"));
    assert_eq!(world.pass(SECOND), [Action::Probe { pid: 41 }]);
    world.event(Event::Probed {
        pid: 41,
        result: Ok(()),
    });
    assert_eq!(world.machine.state(), State::Ready);
    assert_eq!(world.machine.last_error(), None);
}

#[test]
fn an_agent_waits_until_its_master_is_a_live_peer() {
    let mut world = World::new(Role::Agent);
    assert_eq!(world.event(Event::Prepared), []);
    assert_eq!(world.machine.state(), State::MeshUp);
    assert_eq!(world.pass(3600 * SECOND), []);
    assert_eq!(world.event(Event::Master { live: true }), [Action::Spawn]);
    assert_eq!(world.event(Event::Master { live: false }), []);
    assert_eq!(world.machine.state(), State::Spawn, "once started it stays");
}

#[test]
fn the_masters_appearance_before_the_files_are_there_counts() {
    let mut world = World::new(Role::Agent);
    assert_eq!(world.event(Event::Master { live: true }), []);
    assert_eq!(world.event(Event::Prepared), [Action::Spawn]);
}

#[test]
fn an_agent_whose_k3s_ends_waits_for_its_master_again() {
    let mut world = World::new(Role::Agent);
    world.event(Event::Master { live: true });
    world.event(Event::Prepared);
    world.come_up(41);
    world.event(Event::Master { live: false });
    world.crash();
    assert_eq!(world.pass(120 * SECOND), []);
    assert_eq!(world.machine.state(), State::MeshUp);
    assert_eq!(world.event(Event::Master { live: true }), [Action::Spawn]);
}

#[test]
fn a_crash_loop_backs_off_from_one_second_to_sixty() {
    let mut world = World::ready();
    let mut last = Duration::ZERO;
    for (nth, nominal) in [1, 2, 4, 8, 16, 32, 60, 60, 60].into_iter().enumerate() {
        let delay = world.crash();
        assert!(
            delay >= (nominal * SECOND / 2).max(SECOND) && delay <= nominal * SECOND,
            "{nth}: {delay:?}"
        );
        assert!(nominal == 60 || delay >= last);
        last = delay;
        assert_eq!(world.pass(delay - Duration::from_millis(1)), []);
        assert_eq!(world.pass(Duration::from_millis(1)), [Action::Spawn]);
        world.event(Event::Spawned {
            pid: 50 + nth as i32,
        });
    }
    assert_eq!(world.machine.restarts(), 9);
    assert_eq!(world.machine.last_error(), Some("k3s ended: exit code 1"));
}

#[test]
fn a_failure_to_start_backs_off_too() {
    let mut world = World::new(Role::Server);
    world.event(Event::Prepared);
    world.event(Event::SpawnFailed("no such file".into()));
    assert_eq!(world.machine.state(), State::Backoff);
    assert_eq!(world.pass(2 * SECOND), [Action::Spawn]);
}

#[test]
fn ten_minutes_of_health_forgive_and_nine_do_not() {
    for (minutes, forgiven) in [(9, false), (10, true)] {
        let mut world = World::ready();
        for pid in 42..46 {
            let delay = world.crash();
            assert_eq!(world.pass(delay), [Action::Spawn]);
            world.come_up(pid);
        }
        world.live(minutes * 60 * SECOND, 45);
        assert_eq!(world.crash() <= SECOND, forgiven, "{minutes} minutes");
    }
}

#[test]
fn two_failed_probes_in_a_row_degrade_and_one_good_heals() {
    let mut world = World::ready();
    let miss = || Event::Probed {
        pid: 41,
        result: Err(lack("kubelet: no answer")),
    };
    assert_eq!(world.pass(10 * SECOND), [Action::Probe { pid: 41 }]);
    world.event(miss());
    assert_eq!(world.machine.state(), State::Ready, "once is no reason");
    assert!(world.machine.last_error().is_some(), "but it is said");
    assert_eq!(
        world.pass(SECOND),
        [Action::Probe { pid: 41 }],
        "looked at again soon"
    );
    world.event(miss());
    assert_eq!(world.machine.state(), State::Degraded);
    assert_eq!(world.pass(SECOND), [Action::Probe { pid: 41 }]);
    world.event(Event::Probed {
        pid: 41,
        result: Ok(()),
    });
    assert_eq!(world.machine.state(), State::Ready);
    assert_eq!(world.machine.last_error(), None);
    // One miss, then an answer: nothing is left of it.
    assert_eq!(world.pass(10 * SECOND), [Action::Probe { pid: 41 }]);
    world.event(miss());
    assert_eq!(world.pass(SECOND), [Action::Probe { pid: 41 }]);
    world.event(Event::Probed {
        pid: 41,
        result: Ok(()),
    });
    assert_eq!(world.machine.last_error(), None);
    assert_eq!(world.pass(9 * SECOND), [], "back to the slow pace");
}

#[test]
fn an_adopted_k3s_is_not_started_again() {
    let mut world = World::new(Role::Agent);
    assert_eq!(world.event(Event::Spawned { pid: 41 }), []);
    assert_eq!(world.machine.state(), State::Joining);
    assert_eq!(world.event(Event::Prepared), []);
    assert_eq!(world.event(Event::Master { live: true }), []);
    world.event(Event::Notified);
    assert_eq!(world.pass(Duration::ZERO), [Action::Probe { pid: 41 }]);
}

#[test]
fn an_adopted_agent_is_asked_as_soon_as_its_master_is_a_live_peer_and_not_before() {
    let mut world = World::new(Role::Agent);
    world.event(Event::Spawned { pid: 41 });
    world.event(Event::Prepared);
    world.event(Event::Notified);
    assert!(world.machine.awaits_master());
    // The operator hears of it, as of all that takes long.
    assert_eq!(world.pass(3600 * SECOND), [Action::Stalled]);
    world.event(Event::Master { live: true });
    assert_eq!(world.pass(Duration::ZERO), [Action::Probe { pid: 41 }]);
    let result = Ok(());
    world.event(Event::Probed { pid: 41, result });
    // Once it is ready, its kubelet is asked whatever becomes of the master.
    world.event(Event::Master { live: false });
    assert_eq!(world.pass(10 * SECOND), [Action::Probe { pid: 41 }]);
}

#[test]
fn a_k3s_found_only_after_the_start_was_asked_for_is_adopted_all_the_same() {
    let mut world = World::new(Role::Server);
    assert_eq!(world.event(Event::Prepared), [Action::Spawn]);
    world.event(Event::Spawned { pid: 41 });
    world.event(Event::SpawnFailed("k3s runs already".into()));
    assert_eq!(world.machine.pid(), Some(41));
    assert_eq!(world.machine.state(), State::Joining);
}

#[test]
fn a_probe_of_an_earlier_k3s_says_nothing_about_this_one() {
    let mut world = World::ready();
    assert_eq!(world.pass(10 * SECOND), [Action::Probe { pid: 41 }]);
    let delay = world.crash();
    world.pass(delay);
    world.event(Event::Spawned { pid: 42 });
    world.event(Event::Probed {
        pid: 41,
        result: Ok(()),
    });
    assert_eq!(world.machine.state(), State::Joining);
}

#[test]
fn long_joining_is_told_once() {
    let mut world = World::new(Role::Server);
    world.event(Event::Prepared);
    world.event(Event::Spawned { pid: 41 });
    assert_eq!(world.pass(179 * SECOND), []);
    assert_eq!(world.pass(3600 * SECOND), [Action::Stalled]);
}

#[test]
fn nothing_starts_after_stop() {
    let mut world = World::ready();
    world.event(Event::Exited("signal 9".into()));
    assert_eq!(world.event(Event::Stop), []);
    assert_eq!(world.machine.state(), State::Stopping);
    assert_eq!(world.pass(3600 * SECOND), []);
    world.event(Event::Exited("exit code 0".into()));
    assert_eq!(world.machine.state(), State::Stopping);
}

#[test]
fn a_lost_sandbox_ends_the_machine_and_says_why() {
    let mut world = World::ready();
    world.event(Event::SandboxGone);
    assert_eq!(world.machine.state(), State::Stopped);
    assert!(world.machine.last_error().is_some());
}

#[test]
fn a_wanted_restart_ends_k3s_and_starts_it_at_once() {
    let mut world = World::ready();
    let restart = || Event::Restart {
        why: "new settings".into(),
    };
    assert_eq!(world.event(restart()), [Action::End { kill: false }]);
    assert_eq!(world.machine.state(), State::Restarting);
    assert_eq!(world.event(restart()), [], "once");
    let ended = world.event(Event::Exited("exit code 0".into()));
    assert_eq!(ended, [Action::Spawn]);
    world.come_up(42);
    assert_eq!(world.machine.restarts(), 0, "it was no fault");
}

#[test]
fn a_wanted_start_does_not_wait_for_the_back_off() {
    let mut world = World::ready();
    world.crash();
    let why = "x".into();
    assert_eq!(world.event(Event::Restart { why }), [Action::Spawn]);
}

#[test]
fn a_k3s_that_does_not_end_when_asked_is_killed() {
    let mut world = World::ready();
    world.event(Event::Restart { why: "x".into() });
    assert_eq!(world.pass(29 * SECOND), []);
    assert_eq!(world.pass(SECOND), [Action::End { kill: true }]);
    assert_eq!(world.pass(3600 * SECOND), []);
    let ended = world.event(Event::Exited("signal 9".into()));
    assert_eq!(ended, [Action::Spawn]);
}

/// Answers each probe with a failure until k3s is told to end, for at most `most`; the time that it took.
fn mute_for(world: &mut World, mute: bool, most: Duration) -> Option<Duration> {
    let start = world.now;
    while world.now < start + most {
        for action in world.pass(SECOND) {
            match action {
                Action::Probe { pid } => {
                    let lack = Lack {
                        mute,
                        ..lack("the kubelet does not answer")
                    };
                    let result = Err(lack);
                    if world.event(Event::Probed { pid, result }) == [Action::End { kill: false }] {
                        return Some(world.now - start);
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    }
    None
}

#[test]
fn a_k3s_that_hangs_is_ended_and_backs_off() {
    let mut world = World::ready();
    let took = mute_for(&mut world, true, 600 * SECOND).expect("it hangs");
    assert!((300 * SECOND..330 * SECOND).contains(&took), "{took:?}");
    assert_eq!(world.pass(30 * SECOND), [Action::End { kill: true }]);
    world.crash();
    let why = world.machine.last_error().expect("a reason");
    assert!(why.starts_with("k3s hung: the kubelet"), "{why}");
    assert_eq!(world.machine.restarts(), 1);
}

#[test]
fn a_k3s_that_waits_for_others_is_never_ended() {
    let mut world = World::ready();
    assert_eq!(mute_for(&mut world, false, 7200 * SECOND), None);
    assert_eq!(world.machine.state(), State::Degraded);
}

/// A thing that may happen to the machine, with times in milliseconds.
fn happening() -> impl Strategy<Value = (u64, Option<Event>)> {
    let pid = 1..4i32;
    let event = prop_oneof![
        Just(None),
        Just(Some(Event::Prepared)),
        any::<bool>().prop_map(|live| Some(Event::Master { live })),
        pid.clone().prop_map(|pid| Some(Event::Spawned { pid })),
        Just(Some(Event::SpawnFailed("why".into()))),
        Just(Some(Event::Notified)),
        (pid.clone(), 0..3u8).prop_map(|(pid, health)| {
            Some(Event::Probed {
                pid,
                result: match health {
                    0 => Ok(()),
                    1 => Err(lack("why")),
                    _ => Err(Lack {
                        mute: true,
                        ..lack("why")
                    }),
                },
            })
        }),
        Just(Some(Event::Exited("how".into()))),
        Just(Some(Event::Restart { why: "why".into() })),
    ];
    (0..100_000u64, event)
}

proptest! {
    /// Whatever happens in whatever order: never two k3s at once, never a start that the mesh or the back-off forbids,
    /// one probe at a time, and every state with a way on.
    #[test]
    fn one_k3s_at_a_time(seed: u64, agent: bool, story in proptest::collection::vec(happening(), 0..80)) {
        let role = if agent { Role::Agent } else { Role::Server };
        let mut now = Instant::now();
        let mut machine = Lifecycle::new(role, Pace::default(), seed, now);
        let mut live = false;
        for (wait, event) in story {
            now += Duration::from_millis(wait);
            if let Some(Event::Master { live: l }) = event {
                live = l;
            }
            // A wanted start does not wait.
            let wanted = matches!(event, Some(Event::Restart { .. }));
            let before = machine.state();
            let retry = machine.retry_at().filter(|_| !wanted);
            match event {
                Some(event) => machine.handle(now, event),
                None => machine.handle_timeout(now),
            }
            let mut probes = 0;
            while let Some(action) = machine.poll_action() {
                match action {
                    Action::Spawn => {
                        prop_assert_eq!(machine.state(), State::Spawn);
                        let ended = [State::Prepare, State::MeshUp, State::Backoff, State::Restarting];
                        prop_assert!(ended.contains(&before));
                        prop_assert!(retry.is_none_or(|at| at <= now), "started before the back-off's end");
                        prop_assert!(role == Role::Server || live, "an agent started without its master");
                    }
                    Action::Probe { pid } => {
                        probes += 1;
                        prop_assert_eq!(machine.pid(), Some(pid));
                    }
                    Action::End { .. } => prop_assert_eq!(machine.state(), State::Restarting),
                    Action::Stalled => prop_assert_eq!(machine.state(), State::Joining),
                }
            }
            prop_assert!(probes <= 1);
            if let Some(at) = machine.retry_at() {
                prop_assert!(at - now <= Duration::from_secs(60));
            }
            if machine.state() == State::Backoff {
                prop_assert!(machine.poll_timeout().is_some(), "a back-off without end");
            }
            if machine.state() == State::Restarting {
                prop_assert!(machine.pid().is_some(), "nobody is to end");
            }
        }
    }
}
