//! Where the local AWS keeps its files: `local-aws` in cargo's target directory.

use std::{
    env,
    fs::{self, File, OpenOptions},
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use crate::LocalError;

/// Returns `<target>/local-aws`, which exists on return.
pub(crate) fn local_aws() -> Result<PathBuf, LocalError> {
    let directory = target().join("local-aws");
    fs::create_dir_all(&directory).map_err(LocalError::io("create", &directory))?;
    // Absolute, since children may run elsewhere.
    directory.canonicalize().map_err(LocalError::io("find", &directory))
}

/// The target directory that this program was built in; cargo tags it as a cache.
fn target() -> PathBuf {
    let tagged = env::current_exe().ok().and_then(|exe| {
        exe.ancestors().find(|dir| dir.join("CACHEDIR.TAG").is_file()).map(Path::to_path_buf)
    });
    tagged
        .or_else(|| env::var_os("CARGO_TARGET_DIR").map(PathBuf::from))
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"))
}

/// Opens a file that serves only to be locked.
pub(crate) fn lock_file(path: &Path) -> Result<File, LocalError> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(LocalError::io("open", path))
}

/// A short name for some contents: equal contents share it, others do not.
pub(crate) fn fingerprint(contents: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in contents {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

/// The end of a program's output, short enough for an error message.
pub(crate) fn last_lines(output: &str) -> String {
    let lines: Vec<&str> = output.lines().filter(|line| !line.trim().is_empty()).collect();
    let end = lines.get(lines.len().saturating_sub(4)..).unwrap_or_default().join("\n");
    if end.is_empty() { "(nothing)".to_owned() } else { end }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_tells_contents_and_their_boundaries_apart() {
        assert_eq!(fingerprint(&["a", "b"]), fingerprint(&["a", "b"]));
        assert_ne!(fingerprint(&["a", "b"]), fingerprint(&["ab"]));
        assert_ne!(fingerprint(&["a", "b"]), fingerprint(&["ab", ""]));
        assert_eq!(fingerprint(&["a"]).len(), 12);
    }

    #[test]
    fn the_last_lines_of_an_output_skip_blank_ones() {
        assert_eq!(last_lines("1\n2\n\n3\n4\n\n5\n \n"), "2\n3\n4\n5");
        assert_eq!(last_lines("\n"), "(nothing)");
    }

    #[test]
    fn the_target_directory_is_the_one_of_this_test() {
        assert!(env::current_exe().unwrap().starts_with(local_aws().unwrap().parent().unwrap()));
    }
}
