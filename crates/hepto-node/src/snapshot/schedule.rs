//! When a snapshot is made and who gets it: pure, given what happened and the time.
//!
//! One is made at each interval and when asked. Each is then to lie on so many agents: those that hold the one before
//! come first, then the others by name; one that cannot be reached is tried again later, and meanwhile the next takes
//! its place.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use hepto_mesh::name::NodeName;

/// k3s has not made its datastore yet: looked at again after this.
const NOT_YET: Duration = Duration::from_secs(5);
/// After a failure: this, doubled each time.
const RETRY: Duration = Duration::from_secs(60);
const LONGEST_RETRY: Duration = Duration::from_secs(3600);
/// After an agent was not reached or refused: this, doubled each time.
const AGAIN: Duration = Duration::from_secs(5);
const LONGEST_AGAIN: Duration = Duration::from_secs(600);

/// What is to be done now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Make a snapshot.
    Make,
    /// Send the latest one to this agent.
    Push(NodeName),
    /// Nothing, until this time or until something happens.
    Wait(Option<Instant>),
}

/// What making a snapshot came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// It lies on the disk.
    Well,
    /// There is nothing to make one of yet.
    NotYet,
    /// It failed.
    Badly,
}

/// What happened so far.
#[derive(Debug)]
pub struct Schedule {
    every: Option<Duration>,
    agents: usize,
    due: Option<Instant>,
    failures: u32,
    /// There is a latest snapshot, to be sent.
    latest: bool,
    holders: BTreeSet<NodeName>,
    /// Who held the one before.
    before: BTreeSet<NodeName>,
    waits: BTreeMap<NodeName, (Instant, u32)>,
}

impl Schedule {
    /// One every so often, or never; each to so many agents. `latest` is the age of the one that lies on the disk.
    pub fn new(
        every: Option<Duration>,
        agents: usize,
        latest: Option<Duration>,
        now: Instant,
    ) -> Self {
        let rest = |every: Duration| now + every.saturating_sub(latest.unwrap_or(every));
        Schedule {
            every,
            agents,
            due: every.map(rest),
            failures: 0,
            latest: latest.is_some(),
            holders: BTreeSet::new(),
            before: BTreeSet::new(),
            waits: BTreeMap::new(),
        }
    }

    /// Someone asks for a snapshot now.
    pub fn ask(&mut self, now: Instant) {
        self.due = Some(now);
    }

    /// What making one came to.
    pub fn made(&mut self, how: Made, now: Instant) {
        self.due = match (how, self.every) {
            (Made::Well, every) => {
                self.failures = 0;
                self.latest = true;
                self.before = std::mem::take(&mut self.holders);
                self.waits.clear();
                every.map(|every| now + every)
            }
            // An operator who asked is told; the schedule goes on by itself.
            (_, None) => None,
            (Made::NotYet, Some(_)) => Some(now + NOT_YET),
            (Made::Badly, Some(every)) => {
                let wait = doubled(RETRY, self.failures, LONGEST_RETRY.min(every));
                self.failures += 1;
                Some(now + wait)
            }
        };
    }

    /// What sending the latest to an agent came to.
    pub fn pushed(&mut self, agent: &NodeName, kept: bool, now: Instant) {
        if kept {
            self.waits.remove(agent);
            self.holders.insert(agent.clone());
            return;
        }
        let (until, failures) = self.waits.entry(agent.clone()).or_insert((now, 0));
        *until = now + doubled(AGAIN, *failures, LONGEST_AGAIN);
        *failures += 1;
    }

    /// Who holds the latest.
    pub fn holders(&self) -> impl Iterator<Item = &NodeName> {
        self.holders.iter()
    }

    /// When the next is made.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// What is to be done now, `members` being all other nodes.
    pub fn next(&self, now: Instant, members: &[NodeName]) -> Act {
        if self.due.is_some_and(|due| due <= now) {
            return Act::Make;
        }
        if !self.latest || self.holders.len() >= self.agents {
            return Act::Wait(self.due);
        }
        let wait = |name: &NodeName| self.waits.get(name).map_or(now, |(until, _)| *until);
        let lacking = members.iter().filter(|name| !self.holders.contains(*name));
        let first = lacking.min_by_key(|name| {
            let waits = wait(name).max(now);
            (waits, !self.before.contains(*name), (*name).clone())
        });
        match first {
            Some(name) if wait(name) <= now => Act::Push(name.clone()),
            Some(name) => Act::Wait(Some(self.due.map_or(wait(name), |due| due.min(wait(name))))),
            None => Act::Wait(self.due),
        }
    }
}

fn doubled(first: Duration, times: u32, most: Duration) -> Duration {
    first.saturating_mul(1 << times.min(16)).min(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn names(all: &[&str]) -> Vec<NodeName> {
        all.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn name(text: &str) -> NodeName {
        text.parse().unwrap()
    }

    #[test]
    fn one_is_made_at_once_then_at_each_interval_also_across_a_restart() {
        let now = Instant::now();
        let mut schedule = Schedule::new(Some(6 * HOUR), 2, None, now);
        assert_eq!(schedule.next(now, &[]), Act::Make);
        schedule.made(Made::Well, now);
        assert_eq!(schedule.next(now, &[]), Act::Wait(Some(now + 6 * HOUR)));
        assert_eq!(schedule.next(now + 6 * HOUR, &[]), Act::Make);
        let again = Schedule::new(Some(6 * HOUR), 2, Some(2 * HOUR), now);
        assert_eq!(again.due(), Some(now + 4 * HOUR));
        let late = Schedule::new(Some(6 * HOUR), 2, Some(20 * HOUR), now);
        assert_eq!(late.next(now, &[]), Act::Make);
        let never = Schedule::new(None, 2, None, now);
        assert_eq!(never.next(now, &[]), Act::Wait(None));
    }

    #[test]
    fn an_operator_who_asks_does_not_wait() {
        let now = Instant::now();
        let mut schedule = Schedule::new(None, 0, Some(HOUR), now);
        schedule.ask(now);
        assert_eq!(schedule.next(now, &[]), Act::Make);
        schedule.made(Made::Badly, now);
        assert_eq!(
            schedule.next(now, &[]),
            Act::Wait(None),
            "and is told, once"
        );
    }

    #[test]
    fn failures_are_tried_again_ever_later_and_no_later_than_the_interval() {
        let now = Instant::now();
        let mut schedule = Schedule::new(Some(HOUR / 2), 0, None, now);
        let mut waits = Vec::new();
        for _ in 0..7 {
            schedule.made(Made::Badly, now);
            waits.push(schedule.due().unwrap().duration_since(now).as_secs());
        }
        assert_eq!(waits, [60, 120, 240, 480, 960, 1800, 1800]);
        schedule.made(Made::NotYet, now);
        assert_eq!(schedule.due(), Some(now + NOT_YET));
    }

    #[test]
    fn so_many_agents_get_it_and_those_of_before_come_first() {
        let now = Instant::now();
        let members = names(&["doc", "dopey", "happy"]);
        let mut schedule = Schedule::new(Some(HOUR), 2, Some(Duration::ZERO), now);
        assert_eq!(schedule.next(now, &members), Act::Push(name("doc")));
        schedule.pushed(&name("doc"), false, now);
        assert_eq!(schedule.next(now, &members), Act::Push(name("dopey")));
        schedule.pushed(&name("dopey"), true, now);
        assert_eq!(schedule.next(now, &members), Act::Push(name("happy")));
        schedule.pushed(&name("happy"), true, now);
        assert_eq!(
            schedule.next(now, &members),
            Act::Wait(Some(now + HOUR)),
            "two have it"
        );
        schedule.made(Made::Well, now + HOUR);
        let later = now + HOUR;
        assert_eq!(schedule.next(later, &members), Act::Push(name("dopey")));
    }

    #[test]
    fn an_agent_that_is_away_is_tried_again_ever_later() {
        let now = Instant::now();
        let members = names(&["doc"]);
        let mut schedule = Schedule::new(None, 2, Some(HOUR), now);
        schedule.pushed(&name("doc"), false, now);
        assert_eq!(schedule.next(now, &members), Act::Wait(Some(now + AGAIN)));
        assert_eq!(schedule.next(now + AGAIN, &members), Act::Push(name("doc")));
        (0..12).for_each(|_| schedule.pushed(&name("doc"), false, now));
        assert_eq!(
            schedule.next(now, &members),
            Act::Wait(Some(now + LONGEST_AGAIN))
        );
        assert_eq!(schedule.next(now, &[]), Act::Wait(None), "nobody is there");
    }

    #[test]
    fn nothing_is_sent_before_there_is_something() {
        let now = Instant::now();
        let mut schedule = Schedule::new(Some(HOUR), 1, None, now);
        schedule.made(Made::NotYet, now);
        assert_eq!(
            schedule.next(now, &names(&["doc"])),
            Act::Wait(Some(now + NOT_YET))
        );
    }
}
