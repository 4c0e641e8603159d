//! Mounted files, which change while the process runs.

use std::{
    io::{self, Read as _},
    path::Path,
};

/// The largest file that is read, in bytes: a chain of certificates or a set of keys takes a few thousand.
pub(crate) const LARGEST_FILE: u64 = 256 * 1024;

/// Reads a small file. The error names the file.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let with_name = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let file = std::fs::File::open(path).map_err(with_name)?;
    let mut bytes = Vec::new();
    file.take(LARGEST_FILE + 1).read_to_end(&mut bytes).map_err(with_name)?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(with_name(io::Error::other(format!("is larger than {LARGEST_FILE} bytes"))));
    }
    Ok(bytes)
}
