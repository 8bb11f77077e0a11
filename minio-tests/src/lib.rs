//! End to end: real `highwater` processes, a real MinIO, stock Kafka clients and stock Parquet readers.
//!
//! Owns the harness: getting the tools (`scripts/tools.sh`), starting and ending processes, the fault proxy
//! between broker and bucket, networks and disks that can be broken (`net`), running client scripts. Must
//! not: link the broker or speak for it; everything is seen from outside. A tool that is missing is installed
//! or fails the test with the reason; nothing is ever skipped. Every process that a test starts ends with it,
//! by its own id.

pub mod chaos;
pub mod clients;
pub mod highwater;
pub mod http;
pub mod kafka_shell;
pub mod minio;
pub mod net;
pub mod process;
pub mod proxy;
pub mod step;
pub mod tools;
pub mod work;
