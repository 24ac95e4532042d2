//! Simulated clusters: real cores on a made-up network in virtual time.
//!
//! Everything follows from one seed. A failing run prints it; `HEPTO_SIM_SEED=<seed>` runs that one again, and
//! `HEPTO_SIM_SEEDS=<number>` runs so many instead of a few.

#![allow(clippy::disallowed_methods)]

mod attack;
mod chaos;
mod contact;
mod life;
mod node;
mod probe;
mod tunnel;
mod world;

/// Runs `test` with each seed, and says which one failed.
fn seeds(few: u64, test: impl Fn(u64) + std::panic::RefUnwindSafe) {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .map(|text| text.parse::<u64>().expect("a number"))
    };
    let range = match number("HEPTO_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("HEPTO_SIM_SEEDS").unwrap_or(few),
    };
    for seed in range {
        if let Err(panic) = std::panic::catch_unwind(|| test(seed)) {
            eprintln!("seed {seed} fails; run it again with HEPTO_SIM_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
