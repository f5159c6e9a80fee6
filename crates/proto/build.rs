//! Generates the message types with Debian's protoc (package protobuf-compiler).

#[expect(
    clippy::disallowed_macros,
    reason = "how a build script speaks to cargo"
)]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = "proto";
    let file = "proto/evenkeel/engine/v1/engine.proto";
    println!("cargo::rerun-if-changed={file}");
    tonic_prost_build::configure()
        .skip_debug([
            "evenkeel.engine.v1.BgpPeer",
            "evenkeel.engine.v1.FlowKey",
            "evenkeel.engine.v1.FlowSettings",
            "evenkeel.engine.v1.JoinRequest",
            "evenkeel.engine.v1.KeyAndCertificate",
        ])
        .compile_protos(&[file], &[root])?;
    Ok(())
}
