//! Where the programs of a run write their logs.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
};

use crate::{
    LocalError,
    directory::{local_aws, lock_file},
};

/// A directory for the logs of one run: `<target>/local-aws/logs`, or `logs-2` and so on while other runs have the
/// ones before.
#[derive(Debug)]
pub struct Logs {
    directory: PathBuf,
    /// Held as long as this run writes there.
    _lock: File,
}

impl Logs {
    /// Claims a directory that no other run uses.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn claim() -> Result<Self, LocalError> {
        Self::claim_in(&local_aws()?)
    }

    /// The directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where the log of a program is.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.log"))
    }

    /// A new, empty log for a program, open for appending.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn create(&self, name: &str) -> Result<File, LocalError> {
        let path = self.path(name);
        // Not truncated: a program of an earlier run that was killed may not have ended yet, and writes on to the file
        // it has, which from here on has no name.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(LocalError::io("remove", path)(error));
            }
            Ok(()) | Err(_) => {}
        }
        OpenOptions::new().append(true).create_new(true).open(&path).map_err(LocalError::io("create", path))
    }

    fn claim_in(local_aws: &Path) -> Result<Self, LocalError> {
        // Ends, since only living processes hold directories.
        let mut number = 1_u32;
        loop {
            let name = if number == 1 { "logs".to_owned() } else { format!("logs-{number}") };
            let directory = local_aws.join(name);
            fs::create_dir_all(&directory).map_err(LocalError::io("create", &directory))?;
            let path = directory.join(".lock");
            let lock = lock_file(&path)?;
            match lock.try_lock() {
                Ok(()) => return Ok(Self { directory, _lock: lock }),
                Err(TryLockError::WouldBlock) => number += 1,
                Err(TryLockError::Error(error)) => return Err(LocalError::io("lock", path)(error)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn runs_at_the_same_time_have_directories_of_their_own() {
        let local_aws = tempfile::tempdir().unwrap();
        let first = Logs::claim_in(local_aws.path()).unwrap();
        let second = Logs::claim_in(local_aws.path()).unwrap();
        assert_eq!(first.directory(), local_aws.path().join("logs"));
        assert_eq!(second.directory(), local_aws.path().join("logs-2"));
        drop(first);
        let third = Logs::claim_in(local_aws.path()).unwrap();
        assert_eq!(third.directory(), local_aws.path().join("logs"));
    }

    #[test]
    fn a_log_starts_empty_though_its_former_writer_still_writes() {
        let local_aws = tempfile::tempdir().unwrap();
        let logs = Logs::claim_in(local_aws.path()).unwrap();
        let mut former = logs.create("projector").unwrap();
        former.write_all(b"old\n").unwrap();
        let mut log = logs.create("projector").unwrap();
        former.write_all(b"late\n").unwrap();
        log.write_all(b"new\n").unwrap();
        assert_eq!(fs::read_to_string(logs.path("projector")).unwrap(), "new\n");
    }
}
