//! Writes the software bill of materials of each deployable's program in CycloneDX's JSON (version 1.6).
//!
//! ```text
//! cargo run --locked --release --package millrace-sbom -- target/release
//! ```
//!
//! writes `<deployable>.cdx.json` for each of them into that folder. It lists the contents of the program: the linked
//! crates, by the features that the deployables are built with together, for this machine. Crates that only tests or
//! builds need, such as macros, are not part of it. The same sources make the same bytes.

mod bill;
mod crates;

use std::{env, fs, path::Path, process::Command};

use anyhow::{Context as _, bail, ensure};

use crate::crates::{Checksums, Crates};

/// The packages that the Dockerfile builds in one command: features are united over them.
const DEPLOYABLES: [&str; 3] = ["command-service", "projector", "query-service"];

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [folder] = arguments.as_slice() else { bail!("say into which folder: millrace-sbom FOLDER") };
    let crates = Crates::parse(&tree()?)?;
    let lock = concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.lock");
    let lock = fs::read_to_string(lock).with_context(|| format!("{lock} cannot be read"))?;
    let checksums = Checksums::parse(&lock);
    for deployable in DEPLOYABLES {
        let bill = bill::of(deployable, &crates, &checksums)?;
        let file = Path::new(folder).join(format!("{deployable}.cdx.json"));
        fs::write(&file, format!("{bill:#}\n"))
            .with_context(|| format!("{} cannot be written", file.display()))?;
    }
    Ok(())
}

/// The dependency trees of the deployables, from cargo.
fn tree() -> anyhow::Result<String> {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["tree", "--locked", "--charset", "ascii", "--edges", "normal,no-proc-macro"]);
    cargo.args(["--prefix", "depth", "--format", crates::FORMAT]).current_dir(env!("CARGO_MANIFEST_DIR"));
    cargo.args(DEPLOYABLES.iter().flat_map(|deployable| ["--package", *deployable]));
    let said = cargo.output().context("cargo cannot be run")?;
    ensure!(said.status.success(), "cargo tree failed: {}", String::from_utf8_lossy(&said.stderr));
    String::from_utf8(said.stdout).context("cargo tree says no text")
}
