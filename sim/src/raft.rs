//! A partition's Raft group with its order of steps given by the seed: the product's store, side file, log
//! and election core, under a small Raft of this crate's own where the product has openraft.
//!
//! What it takes from openraft is its behaviour where that bears on the store: votes ordered by term,
//! replica and whether a majority has granted them; a vote, a blank and a membership entry are on the disk
//! before anything else is done; a follower cuts what its leader does not have; the leader counts its own
//! append at once; a lease within which nobody is unseated. What it takes from the product's own layer
//! (`broker/src/raft/group`, `network`, `storage`): one vote per term, claims and votes that wait for the
//! disk, commits told no further than the leader's own disk, pre-votes, the mark of a group's end.
//!
//! `group` owns a replica and carries out steps, `follow` answers peers, `lead` replicates, `change` knows
//! the next members, `home` is the partition's side of the store.

mod change;
mod follow;
mod group;
mod home;
mod lead;
mod message;

pub use group::{Env, Group, Out, Refusal};
pub use home::Home;
pub use message::RaftMessage;
