//! What each part of the path costs by itself: `cargo bench -p hepto-bench --features micro`.
//!
//! hepto-bench owns this target, so that criterion is built for it alone.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use hepto_tunnel::internals::{Joiner, SEALING, Session, cut, packet};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

/// Payload of a full packet at an MTU of 1420, and packets of a burst.
const PAYLOAD: usize = 1368;
const BURST: usize = 42;

fn sealing(criterion: &mut Criterion) {
    for payload in [PAYLOAD, 12] {
        let plain = packet(1, payload);
        let mut group = criterion.benchmark_group(format!("{} bytes", plain.len()));
        group.throughput(Throughput::Bytes(plain.len() as u64));
        let mut session = Session::default();
        let mut out = vec![0; plain.len() + SEALING.0 + 128];
        group.bench_function("seal", |bencher| {
            bencher.iter(|| session.seal(black_box(&plain), &mut out));
        });
        // The bound below it: the same cipher in place, with no session around it.
        let key = UnboundKey::new(&CHACHA20_POLY1305, &[3; 32]).expect("32 bytes are a key");
        let key = LessSafeKey::new(key);
        let mut place = plain.clone();
        group.bench_function("ring in place", |bencher| {
            bencher.iter(|| {
                let nonce = Nonce::assume_unique_for_key([0; 12]);
                key.seal_in_place_separate_tag(nonce, Aad::empty(), black_box(&mut place))
            });
        });
        let mut copy = vec![0; plain.len()];
        group.bench_function("copy", |bencher| {
            bencher.iter(|| black_box(&mut copy[..]).copy_from_slice(black_box(&plain)));
        });
        group.bench_function("open", |bencher| {
            let mut opened = vec![0; plain.len() + 128];
            let mut sealed = vec![0; plain.len() + SEALING.0 + 128];
            // A datagram opens once, so each is sealed first, outside of the time.
            bencher.iter_custom(|rounds| {
                let mut spent = std::time::Duration::ZERO;
                for _ in 0..rounds.div_ceil(64) {
                    let batch: Vec<Vec<u8>> = (0..64)
                        .map(|_| {
                            let length = session.seal(&plain, &mut sealed);
                            sealed[..length].to_vec()
                        })
                        .collect();
                    let start = std::time::Instant::now();
                    for datagram in &batch {
                        black_box(session.open(datagram, &mut opened));
                    }
                    spent += start.elapsed();
                }
                spent.mul_f64(rounds as f64 / (rounds.div_ceil(64) * 64) as f64)
            });
        });
        group.finish();
    }
}

fn bursts(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("burst of 42 packets");
    group.throughput(Throughput::Elements(BURST as u64));
    let burst = packet(1, PAYLOAD * BURST);
    group.bench_function("segment", |bencher| {
        bencher.iter_batched_ref(
            || burst.clone(),
            |burst| assert_eq!(cut(burst, PAYLOAD as u16), BURST),
            BatchSize::SmallInput,
        );
    });
    let packets: Vec<u8> = (0..BURST)
        .flat_map(|number| packet((number * PAYLOAD) as u32, PAYLOAD))
        .collect();
    let length = packets.len() / BURST;
    let mut joiner = Joiner::default();
    group.bench_function("coalesce", |bencher| {
        bencher.iter_batched_ref(
            || packets.clone(),
            |packets| assert_eq!(joiner.join(packets, length), BURST),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(path, sealing, bursts);
criterion_main!(path);
