//! The `highwater` binary. Everything is in the library; here stand only the allocator and the exit code.

use std::process::ExitCode;

// Request and fetch buffers of a MiB come and go all the time: jemalloc reuses them where glibc maps them
// anew.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Freed memory goes back to the system within a second, by a thread of the allocator's own, so that a replay
/// of any size leaves the process as small as its caches (docs/adr/0008).
// SAFETY: the allocator reads this symbol at start as a pointer to a string that ends in NUL, which it is.
#[allow(unsafe_code)]
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static MALLOC_CONF: &[u8; 70] =
    b"background_thread:true,dirty_decay_ms:1000,muzzy_decay_ms:0,narenas:4\0";

fn main() -> ExitCode {
    highwater_broker::cli::main()
}
