//! Generates the gRPC code from `proto/` with a protobuf compiler written in Rust, so that no `protoc` is
//! needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(["highwater/v1/admin.proto"], ["proto"])?;
    tonic_prost_build::configure().compile_fds(files)?;
    // Batches are cut from what was received, not copied.
    let peers = [
        "highwater/v1/delayed.proto",
        "highwater/v1/raft.proto",
        "highwater/v1/replication.proto",
        "highwater/v1/transactions.proto",
    ];
    let peers = protox::compile(peers, ["proto"])?;
    tonic_prost_build::configure().bytes(".").compile_fds(peers)?;
    Ok(())
}
