//! Makes Rust of the Protobuf schema, without protoc: protox compiles it and prost-build writes it down.

use std::error::Error;

const SCHEMA: &str = "src/proto/starling.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={SCHEMA}");
    println!("cargo::rerun-if-changed=build.rs");
    let files = protox::compile([SCHEMA], ["src/proto"])?;
    // Ordered maps, so that the same event is always the same bytes; no comments, because those of a schema are not
    // written for rustdoc.
    prost_build::Config::new().btree_map(["."]).disable_comments(["."]).compile_fds(files)?;
    Ok(())
}
