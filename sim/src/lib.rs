//! A seeded, deterministic simulation of the product's cores: what no real cluster can be made to do on
//! demand, thousands of times an hour.
//!
//! One seed gives one world: brokers with the product's own replicas, logs, validation and sealing, the
//! product's own cluster state behind a modelled replicated log, a network, disks, clocks and a bucket that
//! fail, and clients. Everything is one thread, one queue of events and chance from the seed, so a seed that
//! fails can be run again and fails again (docs/adr/0015).
//!
//! `run` runs seeds, `world` drives one, `checker` judges the history, `guards` takes a guard away to show
//! that it would be missed.

mod broker;
mod bucket;
pub mod checker;
mod client;
mod context;
mod control;
mod disk;
mod exactly;
mod faults;
pub mod guards;
pub mod history;
mod message;
mod network;
pub mod params;
mod raft;
mod random;
pub mod run;
mod trace;
mod world;
