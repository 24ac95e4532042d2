//! The mesh: who is a member, under which key and address, and where it can be reached.
//!
//! It never routes a packet and never touches an interface: it says which peers there are, and a tunnel follows. Its core
//! is pure (no socket, file, clock or randomness of its own) and is driven with made-up time in the tests.
//!
//! Start reading at [`core`](crate::core), which takes inputs and yields outputs; what travels is in [`record`] (signed
//! facts) and [`seal`] (messages on the wire).

pub mod address;
pub mod asker;
pub mod core;
pub mod driver;
pub mod gossip;
mod guard;
pub mod identity;
pub mod key;
pub mod name;
pub mod record;
pub mod seal;
pub mod statement;
mod wire;
