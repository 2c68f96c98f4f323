//! Generates the wire types without a `protoc` binary: protox compiles, tonic-prost-build writes Rust.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["mesh/discovery.proto", "mesh/identity.proto"];
    let descriptors = protox::compile(files, ["."])?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    Ok(())
}
