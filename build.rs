//! Makes Rust of the Protobuf schemas, without protoc: protox compiles them and prost-build writes them down. The descriptors
//! that server reflection tells are written beside them.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

use prost::Message;

const SCHEMAS: [&str; 4] = [
    "src/proto/starling.proto",
    "src/proto/grpc/health.proto",
    "src/proto/grpc/reflection_v1.proto",
    "src/proto/grpc/reflection_v1alpha.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    for schema in SCHEMAS {
        println!("cargo::rerun-if-changed={schema}");
    }
    println!("cargo::rerun-if-changed=build.rs");
    let mut files = protox::compile(SCHEMAS, ["src/proto"])?;
    // Where things stand in the source is nothing that a client asks for.
    files.file.iter_mut().for_each(|file| file.source_code_info = None);
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), files.encode_to_vec())?;
    // Ordered maps, so that the same event is always the same bytes; no comments, because those of a schema are not
    // written for rustdoc.
    prost_build::Config::new().btree_map(["."]).disable_comments(["."]).compile_fds(files)?;
    Ok(())
}
