//! Compiles contracts in a build script, without `protoc`.
//!
//! ```no_run
//! // build.rs
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     millrace_build::Contracts::new("proto").compile_all()
//! }
//! ```
//!
//! The package depends on `millrace-proto`, which says where Millrace's own contracts are, and includes the result:
//!
//! ```text
//! pub mod contracts {
//!     include!(concat!(env!("OUT_DIR"), "/contracts.rs"));
//!     pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/contracts.binpb"));
//! }
//! ```

use std::{
    collections::BTreeMap,
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
};

use prost::Message as _;
use prost_types::FileDescriptorSet;

/// Contracts to compile.
#[derive(Debug, Clone)]
pub struct Contracts {
    folder: PathBuf,
    includes: Vec<PathBuf>,
    /// Packages of others, with the path of the crate that has their code.
    externs: Vec<(String, String)>,
    timestamp: String,
}

impl Contracts {
    /// An application's contracts, in `folder` of its package. Their imports of Millrace, of `buf.validate` and of
    /// `google` come with `millrace-proto`.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        let variable = |name: &str| env::var(format!("DEP_MILLRACE_PROTO_{name}")).ok().map(PathBuf::from);
        Self {
            folder: folder.into(),
            includes: ["INCLUDE", "THIRD_PARTY"].iter().filter_map(|name| variable(name)).collect(),
            externs: vec![(".millrace".to_owned(), "::millrace_proto::millrace".to_owned())],
            timestamp: "::millrace_proto::Timestamp".to_owned(),
        }
    }

    /// Contracts that belong to no application: Millrace's own.
    #[doc(hidden)]
    pub fn of_millrace(folder: impl Into<PathBuf>, third_party: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            includes: vec![third_party.into()],
            externs: Vec::new(),
            timestamp: "crate::Timestamp".to_owned(),
        }
    }

    /// Compiles every contract in the folder: see [`compile`](Self::compile).
    ///
    /// # Errors
    /// Where the folder or a contract cannot be read, or a contract cannot be compiled.
    pub fn compile_all(&self) -> Result<(), Box<dyn Error>> {
        let mut files = Vec::new();
        collect(&self.folder, &self.folder, &mut files)?;
        files.sort_unstable();
        self.compile(&files.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Writes `contracts.rs` and `contracts.binpb` into `OUT_DIR`: code for all messages and services of the files and
    /// of their imports from `google.type`, and the descriptors of all files.
    ///
    /// # Errors
    /// Where a contract cannot be read or compiled.
    pub fn compile(&self, files: &[&str]) -> Result<(), Box<dyn Error>> {
        println!("cargo::rerun-if-changed={}", self.folder.display());
        let out = PathBuf::from(env::var("OUT_DIR")?);
        let folders = std::iter::once(&self.folder).chain(&self.includes);
        let descriptors = protox::compile(files, folders)?;
        let encoded = descriptors.encode_to_vec();
        fs::write(out.join("contracts.binpb"), &encoded)?;

        let mut code = tonic_prost_build::configure()
            .compile_well_known_types(true)
            .extern_path(".google.protobuf.Timestamp", &self.timestamp)
            .extern_path(".google.protobuf.Any", "::prost_types::Any")
            // The rules are options for clients; the servers' own parsers enforce them. Clients display error details.
            .extern_path(".buf.validate", "crate::unused")
            .extern_path(".google.rpc", "crate::unused");
        let mut json = pbjson_build::Builder::new();
        json.register_descriptors(&encoded)?
            // An unknown field is an error: to fold an event without it would be to fold it otherwise than the release that
            // wrote it.
            .extern_path(".google.protobuf.Timestamp", &self.timestamp);
        for (package, path) in &self.externs {
            code = code.extern_path(package, path);
            json.extern_path(package, path);
        }
        let packages = self.packages(&descriptors);
        let with_json: Vec<_> = packages.iter().filter(|package| has_json(package)).collect();
        // `event_codec!` has the full names of messages from the code.
        let mut config = tonic_prost_build::Config::new();
        config.enable_type_names();
        code.compile_fds_with_config(descriptors, config)?;
        json.build(&with_json.iter().map(|package| format!(".{package}")).collect::<Vec<_>>())?;
        fs::write(out.join("contracts.rs"), modules(&packages))?;
        Ok(())
    }

    /// The packages that code is made for.
    fn packages(&self, descriptors: &FileDescriptorSet) -> Vec<String> {
        let is_others = |package: &str| {
            let others = self.externs.iter().map(|(package, _)| package.trim_start_matches('.'));
            others.chain(["google.protobuf", "google.rpc", "buf"]).any(|other| is_within(package, other))
        };
        let mut packages: Vec<_> = descriptors.file.iter().map(|file| file.package().to_owned()).collect();
        packages.retain(|package| !is_others(package));
        packages.sort_unstable();
        packages.dedup();
        packages
    }
}

/// The contracts below a folder, by their paths within `root`.
fn collect(root: &Path, folder: &Path, files: &mut Vec<String>) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(root, &path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            files.push(path.strip_prefix(root)?.to_str().ok_or("a path that is no text")?.to_owned());
        }
    }
    Ok(())
}

fn is_within(package: &str, outer: &str) -> bool {
    package.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Whether messages of a package are stored, as JSON: events, and the types of their fields.
fn has_json(package: &str) -> bool {
    is_within(package, "google.type") || package.split('.').any(|part| part == "event" || part == "type")
}

/// A part of a package's name, as the generated code has it.
fn identifier(part: &str) -> &str {
    if part == "type" { "r#type" } else { part }
}

/// A tree of modules, nested as the packages are.
#[derive(Default)]
struct Module<'a> {
    package: Option<&'a str>,
    inner: BTreeMap<&'a str, Module<'a>>,
}

fn modules(packages: &[String]) -> String {
    let mut root = Module::default();
    for package in packages {
        let mut module = &mut root;
        for part in package.split('.') {
            module = module.inner.entry(part).or_default();
        }
        module.package = Some(package);
    }
    root.code()
}

impl Module<'_> {
    fn code(&self) -> String {
        let include = |file: String| format!("include!(concat!(env!(\"OUT_DIR\"), \"/{file}\"));\n");
        let mut code = String::new();
        if let Some(package) = self.package {
            let file = package.split('.').map(identifier).collect::<Vec<_>>().join(".");
            code += &include(format!("{file}.rs"));
            if has_json(package) {
                code += &include(format!("{file}.serde.rs"));
            }
        }
        for (name, module) in &self.inner {
            code += &format!("pub mod {} {{\n{}}}\n", identifier(name), module.code());
        }
        code
    }
}

#[cfg(test)]
mod tests {
    use prost_types::FileDescriptorProto;

    use super::*;

    #[test]
    fn code_is_made_for_packages_whose_names_begin_as_those_of_others() {
        let all = [
            "buf.validate",
            "buffet.event.v1",
            "google.protobuf",
            "google.rpc",
            "google.type",
            "millrace.query.v1",
            "millraces.query.v1",
        ];
        let file =
            |package: &str| FileDescriptorProto { package: Some(package.to_owned()), ..Default::default() };
        let packages = Contracts::new("proto").packages(&FileDescriptorSet { file: all.map(file).to_vec() });
        assert_eq!(packages, ["buffet.event.v1", "google.type", "millraces.query.v1"]);
    }

    #[test]
    fn only_a_whole_word_of_a_package_is_escaped() {
        let code = modules(&["gift.type".to_owned(), "gift.typed.event".to_owned()]);
        for line in
            ["pub mod r#type {", "/gift.r#type.serde.rs", "pub mod typed {", "/gift.typed.event.serde.rs"]
        {
            assert!(code.contains(line), "{line} is not in {code}");
        }
    }
}
