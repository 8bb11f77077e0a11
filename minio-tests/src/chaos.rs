//! Faults in an order that a seed decides, and what they cost: the parts of the chaos test that need no
//! process.
//!
//! `schedule` says what is done to whom and for how long; `ledger` finds in what the clients noted how long
//! no partition was silent for longer; `report` is the table. Must not: depend on anything but the seed in
//! what is chosen; when a fault begins and ends is the machine's.

pub mod ledger;
pub mod report;
pub mod schedule;
