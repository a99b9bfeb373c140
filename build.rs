//! Compiles `proto/*.proto` into Rust with protox, so that no `protoc` has to be installed.

use std::error::Error;

const PROTOS: [&str; 5] = [
    "rpc.proto",
    "kv_operation.proto",
    "raft.proto",
    "status.proto",
    "operator.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(PROTOS, ["proto"])?;
    // `bytes` fields become `bytes::Bytes`: a decoded payload is a slice of the frame it came in.
    prost_build::Config::new()
        .bytes(["."])
        // Almost no answer has one.
        .boxed(".WW.KVOperationResponse.page")
        .compile_fds(descriptors)?;
    Ok(())
}
