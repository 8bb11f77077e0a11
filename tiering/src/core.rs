//! Pure decisions of the tier: no async, files, sockets, clock, randomness or logging; time is an argument.

pub mod exceptions;
pub mod lanes;
pub mod layout;
pub mod layout_codec;
pub mod layout_footer;
pub mod manifest;
pub mod names;
pub mod plan;
