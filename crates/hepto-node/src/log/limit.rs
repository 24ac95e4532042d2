//! How many lines a node logs at most, so that nobody fills a disk with them: not a hostile network, not a part that fails
//! again and again.
//!
//! Three bounds, each a number at once and then one from time to time: for equal lines, which is one source saying the
//! same; for lines of one kind, a place in the source and a code; and for all. What is not said is counted, and the
//! count is told. `debug` and `trace` are not bounded: who asks for them wants all.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::fmt::{self, Write as _};
use std::hash::{Hash, Hasher};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Equal lines.
const SAME: Bound = Bound(10, Duration::from_secs(60));
/// Lines of one kind: a large cluster may say a line of each of its 256 nodes.
const KIND: Bound = Bound(300, Duration::from_secs(10));
/// All lines: 43200 a day after the first, some ten megabytes.
const ALL: Bound = Bound(1000, Duration::from_secs(2));
/// Different lines that are told apart; more are bounded by their kind alone.
const SAME_KNOWN: usize = 1024;
/// How often room is made among them: a flood must not cost a sweep a line.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// The longest time that a count waits to be told.
const TELL_EVERY: Duration = Duration::from_secs(30);
/// What is told of a line that is not shown, bytes.
const EXCERPT: usize = 80;

/// So many at once, and one more each time that this passes.
struct Bound(u32, Duration);

/// What is left of a bound.
#[derive(Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    fn new(bound: &Bound, now: Instant) -> Bucket {
        Bucket {
            left: bound.0.into(),
            at: now,
        }
    }

    fn fill(&mut self, bound: &Bound, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + passed / bound.1.as_secs_f64()).min(bound.0.into());
        self.at = now;
    }

    /// Whether one more is within the bound; then it counts.
    fn take(&mut self, bound: &Bound, now: Instant) -> bool {
        self.fill(bound, now);
        let is_within = self.left >= 1.0;
        self.left -= f64::from(u8::from(is_within));
        is_within
    }
}

/// A place in the source, file and line, and the code, which may differ there.
type Kind = (&'static str, u32, String);

/// A kind, and what of it was not said.
#[derive(Debug)]
struct Known {
    bucket: Bucket,
    unsaid: u64,
    since: Instant,
    /// The first line that was not said, shortened.
    excerpt: String,
}

/// All that was logged lately.
#[derive(Debug)]
struct Lately {
    all: Bucket,
    kinds: HashMap<Kind, Known>,
    same: HashMap<u64, Bucket>,
    /// When those of `same` that are full again were last forgotten.
    swept: Instant,
}

impl Lately {
    fn new(now: Instant) -> Lately {
        Lately {
            all: Bucket::new(&ALL, now),
            kinds: HashMap::new(),
            same: HashMap::new(),
            swept: now,
        }
    }

    /// Whether this line is to be said.
    fn admit(&mut self, kind: Kind, line: &Line, now: Instant) -> bool {
        let known = self.kinds.entry(kind).or_insert_with(|| Known {
            bucket: Bucket::new(&KIND, now),
            unsaid: 0,
            since: now,
            excerpt: String::new(),
        });
        let is_fresh = match self.same.get_mut(&line.hash()) {
            Some(bucket) => bucket.take(&SAME, now),
            None => {
                let is_due = now.saturating_duration_since(self.swept) >= SWEEP_EVERY;
                if self.same.len() >= SAME_KNOWN && is_due {
                    self.swept = now;
                    self.same.retain(|_, bucket| {
                        bucket.fill(&SAME, now);
                        bucket.left < SAME.0.into()
                    });
                }
                if self.same.len() < SAME_KNOWN {
                    let mut bucket = Bucket::new(&SAME, now);
                    bucket.take(&SAME, now);
                    self.same.insert(line.hash(), bucket);
                }
                true
            }
        };
        // One that is refused by an earlier bound takes nothing from a later one.
        if is_fresh && known.bucket.take(&KIND, now) && self.all.take(&ALL, now) {
            return true;
        }
        if known.unsaid == 0 {
            known.since = now;
            known.excerpt = line.excerpt();
        }
        known.unsaid += 1;
        false
    }

    /// What is due to be told: how many lines were not said, and what the first of them was.
    fn due(&mut self, now: Instant) -> Vec<(u64, String)> {
        let due = self.kinds.values_mut().filter(|known| {
            known.unsaid > 0 && now.saturating_duration_since(known.since) >= TELL_EVERY
        });
        let mut told = Vec::new();
        for known in due {
            if self.all.take(&ALL, now) {
                told.push((known.unsaid, std::mem::take(&mut known.excerpt)));
                known.unsaid = 0;
            }
        }
        told
    }
}

static LATELY: LazyLock<Mutex<Lately>> = LazyLock::new(|| Mutex::new(Lately::new(Instant::now())));

/// Each change is whole before anything can panic.
fn lately() -> MutexGuard<'static, Lately> {
    LATELY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps to these bounds. A layer of its own: a filter of another layer that refuses an event by its fields leaves
/// tracing-subscriber's own account of filters wrong.
pub(super) struct Limit;

impl<S: Subscriber> Layer<S> for Limit {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let place = event.metadata();
        // What tells of unsaid lines has its own measure.
        if *place.level() > Level::INFO || place.target() == module_path!() {
            return true;
        }
        let mut line = Line::default();
        event.record(&mut line);
        let (file, number) = (
            place.file().unwrap_or_default(),
            place.line().unwrap_or_default(),
        );
        let kind = (file, number, std::mem::take(&mut line.code));
        lately().admit(kind, &line, Instant::now())
    }
}

/// Tells how many lines were not said. The node's loop calls it each second.
pub fn tell_unsaid() {
    // Not while the lock is held: saying it comes back here.
    let due = lately().due(Instant::now());
    for (count, excerpt) in due {
        tracing::warn!(
            code = "W-LOG-LIMITED",
            fix = "hepto-node status says what is wrong now; see to that",
            "{count} more like it were not shown: {excerpt}"
        );
    }
}

/// An event's fields.
#[derive(Default)]
struct Line {
    code: String,
    message: String,
    fields: DefaultHasher,
}

impl Line {
    fn hash(&self) -> u64 {
        self.fields.finish()
    }

    fn excerpt(&self) -> String {
        let mut end = EXCERPT.min(self.message.len());
        while !self.message.is_char_boundary(end) {
            end -= 1;
        }
        self.message[..end].to_owned()
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = String::new();
        // Writing into a String does not fail.
        let _ = write!(text, "{value:?}");
        (field.name(), &text).hash(&mut self.fields);
        match field.name() {
            "code" => self.code = text,
            "message" => self.message = text,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(code: &str) -> Kind {
        ("src/here.rs", 1, code.to_owned())
    }

    fn line(message: &str) -> Line {
        let mut fields = DefaultHasher::new();
        message.hash(&mut fields);
        Line {
            code: String::new(),
            message: message.to_owned(),
            fields,
        }
    }

    #[test]
    fn equal_lines_lines_of_a_kind_and_all_lines_are_bounded() {
        let start = Instant::now();
        let mut lately = Lately::new(start);
        let mut said = |code: &str, of: u32, to: u32, now: Instant| {
            let lines =
                (of..to).filter(|number| lately.admit(kind(code), &line(&number.to_string()), now));
            lines.count()
        };
        // A line each of many sources, and then a source that does not end.
        assert_eq!(said("w-a", 0, 200, start), 200);
        assert_eq!(
            (0..1000).map(|_| said("w-a", 7, 8, start)).sum::<usize>(),
            9
        );
        // Sources that are made up.
        assert_eq!(said("w-a", 1000, 100_000, start), 300 - 200 - 9);
        // Other kinds are heard all the same, until all is too much.
        assert_eq!(said("w-b", 0, 1000, start), 300);
        assert_eq!(said("w-c", 0, 1000, start), 300);
        assert_eq!(said("w-d", 0, 1000, start), 100);
        assert_eq!(said("w-e", 0, 1000, start), 0);
        // A day of it.
        let day = |hour: u32| start + Duration::from_secs(3600) * hour;
        let all: usize = (1..=24)
            .map(|hour| said("w-a", hour * 10_000, (hour + 1) * 10_000, day(hour)))
            .sum();
        assert!(all <= 24 * 360, "{all}");
    }

    #[test]
    fn what_was_not_said_is_told_once_and_counted() {
        let start = Instant::now();
        let mut lately = Lately::new(start);
        for _ in 0..25 {
            lately.admit(kind("w-a"), &line("the same again"), start);
        }
        assert!(lately.due(start).is_empty(), "not before its time");
        let later = start + TELL_EVERY;
        assert_eq!(lately.due(later), [(15, "the same again".to_owned())]);
        assert!(lately.due(later).is_empty());
    }

    #[test]
    fn memory_is_bounded_too() {
        let start = Instant::now();
        let mut lately = Lately::new(start);
        for number in 0..100_000 {
            lately.admit(kind("w-a"), &line(&format!("é{number}")), start);
        }
        assert!(lately.same.len() <= SAME_KNOWN && lately.kinds.len() == 1);
    }
}
