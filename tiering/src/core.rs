//! Pure decisions of the tier: no async, files, sockets, clock, randomness or logging; time is an argument.

pub mod manifest;
