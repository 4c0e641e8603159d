//! A set of new files and of lines for files that are there: written whole, or not at all.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};

/// Files to write below a folder.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    new: BTreeMap<PathBuf, String>,
    changed: BTreeMap<PathBuf, String>,
}

impl Changes {
    /// A new file. One that is there already is refused when the changes are written.
    pub(crate) fn add(&mut self, path: impl Into<PathBuf>, text: String) {
        let path = path.into();
        let is_rust = path.extension().is_some_and(|extension| extension == "rs");
        let text = if is_rust { formatted(&text).unwrap_or(text) } else { text };
        self.new.insert(path, text);
    }

    /// Puts lines before the first line that begins with `anchor`, white space aside, in a file that is there. Rust that was
    /// formatted stays so: modules have their order.
    pub(crate) fn insert(
        &mut self,
        root: &Path,
        path: impl Into<PathBuf>,
        anchor: &str,
        lines: &str,
    ) -> anyhow::Result<()> {
        let path = path.into();
        let text = match self.changed.remove(&path) {
            Some(text) => text,
            None => fs::read_to_string(root.join(&path)).with_context(|| {
                format!("{} cannot be read: is this an application of `millrace new app`?", path.display())
            })?,
        };
        let at = text.lines().position(|line| line.trim_start().starts_with(anchor));
        let Some(at) = at else {
            bail!(
                "{} has no line that begins with `{anchor}`, before which these lines go: put it back. Nothing was \
                 written.\n{lines}",
                path.display()
            );
        };
        let mut changed: Vec<&str> = text.lines().collect();
        changed.splice(at..at, lines.lines());
        let changed = changed.join("\n") + "\n";
        let is_rust = path.extension().is_some_and(|extension| extension == "rs");
        let was_formatted = is_rust && formatted(&text).as_ref() == Some(&text);
        let changed = was_formatted.then(|| formatted(&changed)).flatten().unwrap_or(changed);
        self.changed.insert(path, changed);
        Ok(())
    }

    /// Writes everything below `root`, and returns a report, a line for each file.
    ///
    /// Nothing is written where a new file or a file in the place of a folder is there already. Where a file cannot be
    /// written, those before it are as they were.
    pub(crate) fn write(&self, root: &Path) -> anyhow::Result<Vec<String>> {
        for path in self.new.keys().map(|path| root.join(path)) {
            if path.symlink_metadata().is_ok() {
                bail!("{} exists already: nothing was written", path.display());
            }
            let file = path.ancestors().skip(1).find(|folder| folder.exists() && !folder.is_dir());
            if let Some(file) = file {
                bail!("{} is a file, and has to be a folder: nothing was written", file.display());
            }
        }
        let (mut told, mut written) = (Vec::new(), Written::default());
        for (verb, files) in [("new", &self.new), ("changed", &self.changed)] {
            for (path, text) in files {
                let path = root.join(path);
                if let Err(error) = written.put(&path, text) {
                    written.take_back();
                    return Err(error)
                        .with_context(|| format!("{} cannot be written: nothing was", path.display()));
                }
                told.push(format!("{verb:>8}  {}", path.display()));
            }
        }
        Ok(told)
    }
}

/// The files and folders that were written, and the texts that the files had before.
#[derive(Default)]
struct Written {
    files: Vec<(PathBuf, Option<Vec<u8>>)>,
    folders: Vec<PathBuf>,
}

impl Written {
    /// Writes a file beside its place and then moves it there, so that none is left half written.
    fn put(&mut self, path: &Path, text: &str) -> io::Result<()> {
        let above: Vec<_> =
            path.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty()).collect();
        for folder in above.into_iter().rev().filter(|folder| !folder.is_dir()) {
            fs::create_dir(folder)?;
            self.folders.push(folder.to_owned());
        }
        let before = path.exists().then(|| fs::read(path)).transpose()?;
        let beside = path.with_extension("millrace-new");
        fs::write(&beside, text).and_then(|()| fs::rename(&beside, path)).inspect_err(|_| {
            let _ = fs::remove_file(&beside);
        })?;
        self.files.push((path.to_owned(), before));
        Ok(())
    }

    /// As far as the file system lets it: the reader learns of the failure that led here.
    fn take_back(self) {
        for (path, before) in self.files {
            let _ = before.map_or_else(|| fs::remove_file(&path), |text| fs::write(&path, text));
        }
        for folder in self.folders.iter().rev() {
            let _ = fs::remove_dir(folder);
        }
    }
}

/// Rust as rustfmt writes it, by the settings that an application begins with: where lines break depends on names. None where
/// rustfmt is not there or cannot read it.
fn formatted(text: &str) -> Option<String> {
    let run = || -> io::Result<_> {
        let mut rustfmt = Command::new("rustfmt");
        rustfmt
            .args(["--edition", "2024", "--config", "max_width=110,use_small_heuristics=Max"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = rustfmt.spawn()?;
        // It reads everything before it writes anything. Dropped, its input is at an end.
        child.stdin.take().map_or(Ok(()), |mut input| input.write_all(text.as_bytes()))?;
        child.wait_with_output()
    };
    let output = run().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_written_where_a_file_is_there() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("b"), "old").unwrap();
        let mut changes = Changes::default();
        changes.add("a", "new".to_owned());
        changes.add("b", "new".to_owned());
        assert!(changes.write(folder.path()).unwrap_err().to_string().contains("exists already"));
        assert!(!folder.path().join("a").exists());
        assert_eq!(fs::read_to_string(folder.path().join("b")).unwrap(), "old");
    }

    #[test]
    fn a_failure_leaves_everything_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        for path in ["a.txt", "b.txt", "file"] {
            fs::write(at(path), "old\n.\n").unwrap();
        }
        let mut changes = Changes::default();
        changes.add("folder/deep/new", "new".to_owned());
        for path in ["a.txt", "b.txt"] {
            changes.insert(folder.path(), path, ".", "more").unwrap();
        }
        let refused = |changes: &Changes, reason: &str| {
            let error = format!("{:#}", changes.write(folder.path()).unwrap_err());
            assert!(error.contains(reason), "{error}");
            assert_eq!(fs::read_to_string(at("a.txt")).unwrap(), "old\n.\n");
            assert!(!at("folder").exists());
        };
        // In the place of the file that is written beside b.txt, after everything else.
        fs::create_dir(at("b.millrace-new")).unwrap();
        refused(&changes, "b.txt cannot be written");
        fs::remove_dir(at("b.millrace-new")).unwrap();
        changes.add("file/new", "new".to_owned());
        refused(&changes, "file is a file");
        fs::remove_file(at("file")).unwrap();
        changes.write(folder.path()).unwrap();
        assert_eq!(fs::read_to_string(at("a.txt")).unwrap(), "old\nmore\n.\n");
    }

    #[test]
    fn modules_stay_in_order_where_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let insert = |text: &str| {
            fs::write(folder.path().join("lib.rs"), text).unwrap();
            let mut changes = Changes::default();
            changes.insert(folder.path(), "lib.rs", "// more", "pub mod rental;").unwrap();
            changes.write(folder.path()).unwrap();
            fs::read_to_string(folder.path().join("lib.rs")).unwrap()
        };
        assert_eq!(insert("pub mod task;\n// more\n"), "pub mod rental;\npub mod task;\n// more\n");
        assert_eq!(insert("pub  mod task;\n// more\n"), "pub  mod task;\npub mod rental;\n// more\n");
    }

    #[test]
    fn lines_go_before_their_anchor_and_a_missing_one_is_told() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a"), "one\n    .build()\n").unwrap();
        let mut changes = Changes::default();
        changes.insert(folder.path(), "a", ".build()", "    two").unwrap();
        changes.insert(folder.path(), "a", ".build()", "    three").unwrap();
        changes.write(folder.path()).unwrap();
        assert_eq!(
            fs::read_to_string(folder.path().join("a")).unwrap(),
            "one\n    two\n    three\n    .build()\n"
        );
        let error = changes.insert(folder.path(), "a", ".finish()", "four").unwrap_err();
        assert!(error.to_string().contains("four"), "{error}");
        assert!(changes.insert(folder.path(), "none", "x", "y").is_err());
    }
}
