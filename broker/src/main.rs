//! The `highwater` binary. Everything is in the library; here stand only the allocator and the exit code.

use std::process::ExitCode;

// Request and fetch buffers of a MiB come and go all the time: mimalloc reuses them where glibc maps them
// anew.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    highwater_broker::cli::main()
}
