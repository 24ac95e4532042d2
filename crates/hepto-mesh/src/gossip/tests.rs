//! Several gossips on one loopback, each with an address of its own. A test's records are text: name, identity,
//! sequence and a seal that only the test's reader knows.

use std::collections::BTreeSet;
use std::future::Future;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicU8};

use super::*;

const DEADLINE: Duration = Duration::from_secs(30);

/// Each test has a network 127.`net`.0.0/16 of its own, so that tests run side by side.
static NETS: AtomicU8 = AtomicU8::new(40);

#[derive(Clone)]
struct Lab {
    net: u8,
    key: [u8; 32],
    timing: Timing,
    /// While set, the reader panics at this name, inside memberlist's task.
    poison: Arc<AtomicBool>,
}

impl Lab {
    fn new() -> Lab {
        let timing = Timing {
            rejoin: Duration::from_millis(300),
            watchdog: Duration::from_millis(300),
            patience: 2,
            back_off: Duration::from_millis(50),
        };
        let net = NETS.fetch_add(1, Ordering::Relaxed);
        Lab {
            net,
            key: [7; 32],
            timing,
            poison: Arc::default(),
        }
    }

    fn address(&self, name: &NodeName) -> SocketAddr {
        let host: u8 = name
            .as_str()
            .strip_prefix('n')
            .and_then(|n| n.parse().ok())
            .unwrap_or(250);
        (Ipv4Addr::new(127, self.net, 0, host), PORT).into()
    }

    fn reader(&self) -> Reader {
        let lab = self.clone();
        Arc::new(move |bytes| {
            let text = std::str::from_utf8(bytes).ok()?;
            let [name, identity, sequence, "sealed"] = text.split(' ').collect::<Vec<_>>()[..]
            else {
                return None;
            };
            assert!(
                !(name == "n9" && lab.poison.load(Ordering::Relaxed)),
                "the test's poison"
            );
            let name: NodeName = name.parse().ok()?;
            Some(Claim {
                address: lab.address(&name),
                name,
                identity: [identity.parse().ok()?; 32],
                sequence: sequence.parse().ok()?,
            })
        })
    }

    fn view(&self, own: u8, live: &[u8]) -> View {
        let known = live.iter().map(|&n| {
            (
                name(n),
                Known {
                    identity: [n; 32],
                    sequence: 1,
                },
            )
        });
        View {
            record: record(own, own, 1),
            bind: self.address(&name(own)),
            known: known.collect(),
            live: live
                .iter()
                .map(|&n| (name(n), self.address(&name(n))))
                .collect(),
        }
    }

    fn start(&self, own: u8, view: View) -> Gossip {
        let settings = Settings {
            cluster: "lab".parse().unwrap(),
            name: name(own),
            key: Zeroizing::new(self.key),
            reader: self.reader(),
            timing: self.timing,
        };
        Gossip::start(settings, view)
    }
}

fn name(n: u8) -> NodeName {
    format!("n{n}").parse().unwrap()
}

fn record(n: u8, identity: u8, sequence: u64) -> Bytes {
    format!("n{n} {identity} {sequence} sealed").into()
}

fn names(numbers: &[u8]) -> BTreeSet<NodeName> {
    numbers.iter().map(|&n| name(n)).collect()
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("not within {DEADLINE:?}: {what}"),
    }
}

async fn record_of(gossip: &mut Gossip) -> Bytes {
    loop {
        if let Heard::Record(record) = gossip.hear().await {
            return record;
        }
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    within(what, async {
        while !holds() {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// Waits until nobody listens there. (A program that another test is just starting may hold a copy of the sockets.)
async fn free(address: SocketAddr) {
    until("the address is free", || {
        std::net::TcpListener::bind(address).is_ok() && std::net::UdpSocket::bind(address).is_ok()
    })
    .await;
}

async fn online(gossip: &Gossip, numbers: &[u8]) {
    let wanted = Some(names(numbers));
    until(&format!("{wanted:?} online"), || gossip.online() == wanted).await;
}

#[tokio::test]
async fn five_nodes_find_all_through_one() {
    let lab = Lab::new();
    let first = lab.start(1, lab.view(1, &[]));
    let mut others: Vec<_> = (2..=5).map(|n| lab.start(n, lab.view(n, &[1]))).collect();
    online(&first, &[2, 3, 4, 5]).await;
    for (n, gossip) in (2..=5).zip(&others) {
        let rest: Vec<u8> = (1..=5).filter(|&other| other != n).collect();
        online(gossip, &rest).await;
    }
    // The fifth's record reached the second, who knew of the first alone.
    let mut heard = BTreeSet::new();
    within("the records of those that were unknown", async {
        while !heard.is_superset(&[record(3, 3, 1), record(4, 4, 1), record(5, 5, 1)].into()) {
            heard.insert(record_of(&mut others[0]).await);
        }
    })
    .await;
    assert!(
        !heard.contains(&record(2, 2, 1)),
        "our own record is never news"
    );
}

#[tokio::test]
async fn a_new_record_arrives_and_an_old_one_is_vetoed() {
    let lab = Lab::new();
    let one = lab.start(1, lab.view(1, &[2]));
    let mut two = lab.start(2, lab.view(2, &[1]));
    online(&one, &[2]).await;
    one.update(View {
        record: record(1, 1, 2),
        ..lab.view(1, &[2])
    });
    let news = within("the new record", record_of(&mut two)).await;
    assert_eq!(news, record(1, 1, 2));
    // Who has seen sequence 9 does not take 2 for news, nor for true.
    let mut view = lab.view(2, &[1]);
    view.known.get_mut(&name(1)).unwrap().sequence = 9;
    two.update(view);
    let before = two.counts().vetoed;
    one.update(View {
        record: record(1, 1, 3),
        ..lab.view(1, &[2])
    });
    until("a veto", || two.counts().vetoed > before).await;
    assert!(two.records.try_recv().is_err());
}

#[tokio::test]
async fn liars_are_vetoed() {
    let lab = Lab::new();
    let honest = lab.start(1, lab.view(1, &[]));
    // Another identity under the pinned name, a record of another, a bad seal.
    let mut pinned = lab.view(1, &[2]);
    pinned.live.clear();
    honest.update(pinned);
    let lies = [
        (2, record(2, 66, 5)),
        (3, record(4, 4, 1)),
        (4, Bytes::from_static(b"n4 4 1 broken")),
    ];
    let liars: Vec<_> = lies
        .into_iter()
        .map(|(n, record)| {
            lab.start(
                n,
                View {
                    record,
                    ..lab.view(n, &[1])
                },
            )
        })
        .collect();
    let truthful = lab.start(5, lab.view(5, &[1]));
    online(&honest, &[5]).await;
    until("three vetoes", || honest.counts().vetoed >= 3).await;
    assert_eq!(honest.online(), Some(names(&[5])));
    drop((liars, truthful));
}

#[tokio::test]
async fn another_key_never_joins() {
    let lab = Lab::new();
    let one = lab.start(1, lab.view(1, &[2, 3]));
    let stranger = Lab {
        key: [8; 32],
        ..lab.clone()
    }
    .start(2, lab.view(2, &[1]));
    let three = lab.start(3, lab.view(3, &[1, 2]));
    online(&one, &[3]).await;
    online(&three, &[1]).await;
    // The stranger has asked by now, and was refused each time.
    until("the stranger's watchdog gave up", || {
        stranger.counts().starts > 1
    })
    .await;
    assert_eq!(one.online(), Some(names(&[3])));
    assert!(stranger.online().unwrap_or_default().is_empty());
}

#[tokio::test]
async fn a_cut_heals_by_joining_again() {
    let lab = Lab::new();
    let one = lab.start(1, lab.view(1, &[2]));
    let two = lab.start(2, lab.view(2, &[1]));
    online(&one, &[2]).await;
    two.stop().await;
    online(&one, &[]).await;
    let two = lab.start(2, lab.view(2, &[]));
    online(&one, &[2]).await;
    online(&two, &[1]).await;
}

#[tokio::test]
async fn a_panic_inside_leads_to_a_rebuild() {
    let lab = Lab::new();
    let sane = Lab {
        poison: Arc::default(),
        ..lab.clone()
    };
    let one = lab.start(1, lab.view(1, &[2]));
    let two = sane.start(2, sane.view(2, &[1, 9]));
    online(&one, &[2]).await;
    // The ninth's record makes the first's reader panic, in the task that handles memberlist's messages.
    lab.poison.store(true, Ordering::Relaxed);
    let nine = sane.start(9, sane.view(9, &[2]));
    until("a rebuild", || one.counts().starts > 1).await;
    lab.poison.store(false, Ordering::Relaxed);
    online(&one, &[2, 9]).await;
    drop((two, nine));
}

#[tokio::test]
async fn an_address_that_changes_is_followed() {
    let lab = Lab::new();
    let one = lab.start(1, lab.view(1, &[]));
    let two = lab.start(2, lab.view(2, &[1]));
    online(&one, &[2]).await;
    // The fourth takes over: same gossip, other name's address, as after a collision.
    let moved = lab.address(&name(4));
    two.update(View {
        bind: moved,
        ..lab.view(2, &[1])
    });
    until("a bind at the new address", || two.counts().starts == 2).await;
    free(lab.address(&name(2))).await;
    assert!(std::net::TcpListener::bind(moved).is_err());
}

#[tokio::test]
async fn a_port_in_use_is_waited_for() {
    let lab = Lab::new();
    let holder = std::net::TcpListener::bind(lab.address(&name(1))).unwrap();
    let one = lab.start(1, lab.view(1, &[]));
    let two = lab.start(2, lab.view(2, &[1]));
    until("the second is up", || two.counts().starts == 1).await;
    assert_eq!(one.counts().starts, 0);
    drop(holder);
    online(&two, &[1]).await;
}

#[tokio::test]
async fn stopping_frees_the_port() {
    let lab = Lab::new();
    let one = lab.start(1, lab.view(1, &[]));
    until("it is up", || one.counts().starts == 1).await;
    one.stop().await;
    free(lab.address(&name(1))).await;
}

#[tokio::test]
async fn garbage_at_full_rate_and_idle_connections_change_nothing() {
    let lab = Lab::new();
    let one = lab.start(1, lab.view(1, &[]));
    until("it is up", || one.counts().starts == 1).await;
    let (target, over) = (lab.address(&name(1)), Arc::new(AtomicBool::new(false)));
    let flood = {
        let (over, from) = (over.clone(), Ipv4Addr::new(127, lab.net, 9, 1));
        std::thread::spawn(move || {
            let socket = std::net::UdpSocket::bind((from, 0)).unwrap();
            // Labelled as ours, so that it is not dropped at the first byte.
            let garbage = [&[12, 3][..], b"lab", &[15, 1, 0, 0, 4, 0], &[0xA5; 1100]].concat();
            let mut sent = 0_u64;
            while !over.load(Ordering::Relaxed) {
                sent += u64::from(socket.send_to(&garbage, target).is_ok());
            }
            sent
        })
    };
    let mut idle = Vec::new();
    for host in 1..=20 {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        let from = Ipv4Addr::new(127, lab.net, 9, host);
        socket.bind((from, 0).into()).unwrap();
        idle.push(
            within("a connection", socket.connect(target))
                .await
                .unwrap(),
        );
    }
    let mut two = lab.start(2, lab.view(2, &[1]));
    online(&one, &[2]).await;
    online(&two, &[1]).await;
    one.update(View {
        record: record(1, 1, 2),
        ..lab.view(1, &[2])
    });
    let news = within("the new record", record_of(&mut two)).await;
    assert_eq!(news, record(1, 1, 2));
    over.store(true, Ordering::Relaxed);
    assert!(flood.join().unwrap() > 1000, "it was a flood");
    assert_eq!(
        one.counts().starts,
        1,
        "the watchdog saw no reason to rebuild"
    );
}
