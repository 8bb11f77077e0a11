//! Groups and what is under them: openraft's storage suite, crashes at any instant, groups of three.

mod chaos;
mod cluster;
mod end;
mod figures;
mod groups;
mod kit;
mod peers;
mod storage;
