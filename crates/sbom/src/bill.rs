//! A bill of materials.

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::crates::{Checksums, Crates, Id};

/// The bill of one crate, in CycloneDX's JSON. Neither a serial number nor a time is in it, which may be left out: it
/// would not be the same twice.
pub(crate) fn of(root: &str, crates: &Crates, checksums: &Checksums) -> anyhow::Result<Value> {
    let root = crates
        .licences
        .keys()
        .find(|id| id.0 == root)
        .with_context(|| format!("there is no crate {root}"))?;
    let all = crates.all_of(root);
    let dependencies = all.iter().map(|id| {
        let needed: Vec<String> = crates.needed_by(id).map(reference).collect();
        json!({ "ref": reference(id), "dependsOn": needed })
    });
    let component = |id: &Id, kind: &str| component(id, kind, &crates.licences[id], checksums.of(id));
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": { "component": component(root, "application") },
        "components": all.iter().filter(|id| *id != root).map(|id| component(id, "library")).collect::<Vec<_>>(),
        "dependencies": dependencies.collect::<Vec<_>>(),
    }))
}

fn component(id: &Id, kind: &str, licence: &str, checksum: Option<&str>) -> Value {
    let mut component = json!({
        "type": kind,
        "bom-ref": reference(id),
        "name": id.0,
        "version": id.1,
        "licenses": [{ "expression": licence }],
    });
    // Millrace's own crates are in no registry, where their names could be another owner's.
    if let Some(checksum) = checksum {
        component["purl"] = json!(reference(id));
        component["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
    }
    component
}

/// A crate's package URL (purl specification, type `cargo`); `+` is not one of the characters that stand for themselves.
fn reference((name, version): &Id) -> String {
    format!("pkg:cargo/{name}@{}", version.replace('+', "%2B"))
}
