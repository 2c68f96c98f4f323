//! Generates the demo's gRPC service without a `protoc` binary, as the `proto` crate does.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let descriptors = protox::compile(["proto/echo.proto"], ["proto"])?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    println!("cargo:rerun-if-changed=proto/echo.proto");
    Ok(())
}
