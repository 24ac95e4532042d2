use super::*;
use crate::core::testing::{self, identity_of, record};
use crate::identity::Identity;
use crate::record::RecordError;

fn name(text: &str) -> NodeName {
    text.parse().expect("a name")
}

fn book(now: Instant) -> Book {
    Book::new(
        testing::prefixes(),
        record("self", 1, &[]),
        Vec::new(),
        Vec::new(),
        now,
    )
}

fn offer(book: &mut Book, record: &Record, now: Instant) -> Result<Offered, Refusal> {
    book.offer(Unverified::parse(record.raw()).expect("a record"), now)
}

/// What `author` says under the name `name`.
fn posed(name: &str, author: &Identity, change: u32) -> Record {
    let mut content = testing::content(name, change, &[]);
    content.identity = author.public();
    Record::sign(content, &testing::cluster(), author)
}

#[test]
fn newer_records_replace_older_ones_and_never_the_reverse() {
    let now = testing::now();
    let mut book = book(now);
    assert_eq!(
        offer(&mut book, &record("mars", 2, &[]), now),
        Ok(Offered::New)
    );
    assert_eq!(
        offer(&mut book, &record("mars", 2, &[]), now),
        Ok(Offered::Known)
    );
    assert_eq!(
        offer(&mut book, &record("mars", 1, &[]), now),
        Ok(Offered::Known)
    );
    assert_eq!(
        offer(&mut book, &record("mars", 3, &[]), now),
        Ok(Offered::Newer { left: Vec::new() })
    );
    assert_eq!(
        book.get(&name("mars"))
            .expect("known")
            .record
            .content()
            .sequence
            .change,
        3
    );
}

#[test]
fn a_second_identity_under_a_pinned_name_is_refused() {
    let now = testing::now();
    let mut book = book(now);
    offer(&mut book, &record("mars", 1, &[]), now).expect("new");
    let liar = testing::identity(66);
    let mut forged = posed("mars", &liar, 9);
    assert!(matches!(
        offer(&mut book, &forged, now),
        Err(Refusal::Identity { .. })
    ));
    forged = posed("self", &liar, 9);
    assert_eq!(
        offer(&mut book, &forged, now),
        Err(Refusal::NameTaken {
            presented: liar.public()
        })
    );
    assert_eq!(
        book.get(&name("mars")).expect("known").record,
        record("mars", 1, &[])
    );
}

#[test]
fn a_wireguard_key_belongs_to_one_name() {
    let now = testing::now();
    let mut book = book(now);
    offer(&mut book, &record("mars", 1, &[]), now).expect("new");
    for victim in ["mars", "self"] {
        let liar = testing::identity(66);
        let mut content = testing::content("evil", 1, &[]);
        content.identity = liar.public();
        content.wireguard = identity_of(victim).wireguard_public();
        let forged = Record::sign(content, &testing::cluster(), &liar);
        let refusal = offer(&mut book, &forged, now).expect_err("refused");
        assert_eq!(
            refusal,
            Refusal::TunnelKey {
                name: name("evil"),
                holder: name(victim)
            }
        );
    }
}

#[test]
fn a_forged_signature_changes_nothing() {
    let now = testing::now();
    let mut book = book(now);
    let before = *book.hash();
    let mut raw = record("mars", 1, &[]).raw().to_vec();
    *raw.last_mut().expect("bytes") ^= 1;
    let refusal = book
        .offer(Unverified::parse(&raw).expect("the form"), now)
        .expect_err("refused");
    assert_eq!(refusal, Refusal::Record(RecordError::Signature));
    assert_eq!((book.entries().count(), *book.hash()), (0, before));
}

#[test]
fn names_are_limited_in_rate_and_number_and_none_is_evicted() {
    let mut now = testing::now();
    let mut book = book(now);
    let names: Vec<String> = (0..300).map(|number| format!("n{number}")).collect();
    let admitted = |book: &mut Book, now| {
        names
            .iter()
            .filter(|name| offer(book, &record(name, 1, &[]), now) == Ok(Offered::New))
            .count()
    };
    assert_eq!(admitted(&mut book, now), 128);
    now += Duration::from_secs(100);
    assert_eq!(admitted(&mut book, now), 10);
    now += Duration::from_secs(100_000);
    assert_eq!(admitted(&mut book, now), NAMES_MAX - 1 - 138);
    now += Duration::from_secs(100_000);
    assert_eq!(
        offer(&mut book, &record("n299", 1, &[]), now),
        Err(Refusal::Full { name: name("n299") })
    );
    assert!(book.get(&name("n0")).is_some());
}

#[test]
fn a_stranger_is_provisional_until_met_or_vouched_for_by_two() {
    let now = testing::now();
    let mut book = book(now);
    for newcomer in ["a", "b", "mars", "venus"] {
        offer(&mut book, &record(newcomer, 1, &[]), now).expect("new");
    }
    let alone = *book.hash();
    assert!(book.saved(now).is_empty());
    assert!(book.met(&name("a")) && book.met(&name("b")) && !book.met(&name("a")));
    assert_ne!(*book.hash(), alone);
    assert!(!book.vouch(&name("mars"), &name("a")) && !book.vouch(&name("mars"), &name("a")));
    assert!(
        !book.vouch(&name("mars"), &name("venus")),
        "a provisional node's word is nothing"
    );
    assert!(!book.vouch(&name("mars"), &name("mars")));
    assert!(
        book.object(KIND_RECORD, name_hash(Some(&name("mars"))))
            .is_none()
    );
    assert!(book.vouch(&name("mars"), &name("b")));
    assert_eq!(book.saved(now).len(), 3);
    assert!(
        book.object(KIND_RECORD, name_hash(Some(&name("mars"))))
            .is_some()
    );
    assert_eq!(book.digest().len(), 4);
}

#[test]
fn our_own_record_from_the_future_is_noticed() {
    let now = testing::now();
    let mut book = book(now);
    assert_eq!(
        offer(&mut book, &record("self", 1, &[]), now),
        Ok(Offered::Known)
    );
    let ahead = record("self", 7, &[]);
    assert_eq!(
        offer(&mut book, &ahead, now),
        Ok(Offered::OwnAhead {
            sequence: ahead.content().sequence,
            restored: 0
        })
    );
}

#[test]
fn statements_are_the_operators_alone() {
    let now = testing::now();
    let mut book = book(now);
    let (operator, other) = (testing::identity(1), testing::identity(2));
    let lock = |sequence, by: &Identity| {
        Statement::sign(
            StatementKind::Lock,
            sequence,
            None,
            [0; 32],
            &testing::cluster(),
            by,
        )
    };
    assert!(!book.offer_statement(lock(1, &operator), None));
    assert!(!book.offer_statement(lock(1, &other), Some(operator.public())));
    assert!(book.offer_statement(lock(2, &operator), Some(operator.public())));
    assert!(book.offer_statement(lock(1, &operator), Some(operator.public())));
    assert_eq!(book.statements().next().map(|held| held.sequence), Some(2));
    assert_eq!(
        book.sequence(StatementKind::Lock as u8, name_hash(None)),
        Some(2)
    );
}

#[test]
fn idle_time_is_ours_and_goes_on_after_a_restart() {
    let now = testing::now();
    let member = SavedMember {
        record: record("mars", 1, &[]),
        idle: Duration::from_secs(100),
    };
    let mut book = Book::new(
        testing::prefixes(),
        record("self", 1, &[]),
        vec![member],
        Vec::new(),
        now,
    );
    let later = now + Duration::from_secs(20);
    assert_eq!(book.saved(later)[0].idle, Duration::from_secs(120));
    book.heard(&name("mars"), later);
    assert_eq!(book.saved(later)[0].idle, Duration::ZERO);
}

#[test]
fn the_roster_holds_the_pins_and_the_newest_sequences() {
    let now = testing::now();
    let mut book = book(now);
    offer(&mut book, &record("mars", 1, &[]), now).expect("new");
    offer(&mut book, &record("mars", 2, &[]), now).expect("newer");
    let roster = book.roster();
    let known: Vec<_> = roster.known().collect();
    let wanted = testing::content("mars", 2, &[]);
    assert_eq!(known, [(&name("mars"), wanted.identity, wanted.sequence)]);
}
