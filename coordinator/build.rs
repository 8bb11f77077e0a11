//! Generates the gRPC code from `proto/` with a protobuf compiler written in Rust, so that no `protoc` is
//! needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(["highwater/v1/control.proto"], ["proto"])?;
    // Bodies are cut from what was received, not copied.
    tonic_prost_build::configure().bytes(".").compile_fds(files)?;
    Ok(())
}
