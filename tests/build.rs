//! Generates the gRPC services of the demo and of the tests without a `protoc` binary, as the `proto` crate does.

const PROTOS: [&str; 3] = ["proto/echo.proto", "proto/health.proto", "proto/interop.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let descriptors = protox::compile(PROTOS, ["proto"])?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    for proto in PROTOS {
        println!("cargo:rerun-if-changed={proto}");
    }
    Ok(())
}
