//! The virtual environment that holds the emulator: made once, under a lock, whole or not at all.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use crate::{
    LocalError,
    directory::{fingerprint, last_lines, lock_file},
    progress::say,
};

/// The packages to install, pinned by their hashes.
pub(crate) const REQUIREMENTS: &str = include_str!("../python/requirements.txt");

/// MiniStack's requirements.
const OLDEST: (u32, u32) = (3, 10);

/// Returns the environment's interpreter; installs the emulator first if necessary.
///
/// Parallel callers wait for the first. The environment grows under another name and is renamed when it is
/// complete, so an interrupted installation is started again and never used.
pub(crate) fn installed(local_aws: &Path) -> Result<PathBuf, LocalError> {
    let environment = local_aws.join(format!("venv-{}", fingerprint(&[REQUIREMENTS])));
    let interpreter = environment.join("bin/python");
    // The interpreter is a link to the system's: it dangles when that one went away.
    if interpreter.is_file() {
        return Ok(interpreter);
    }

    let lock_path = environment.with_extension("lock");
    let lock = lock_file(&lock_path)?;
    lock.lock().map_err(LocalError::io("lock", &lock_path))?;
    if interpreter.is_file() {
        return Ok(interpreter);
    }

    let python = find(&["python3", "python"])?;
    say("installing the local AWS (first time only) …");
    let unfinished = environment.with_extension("unfinished");
    remove(&unfinished)?;
    install(&python, &unfinished)?;
    remove(&environment)?;
    fs::rename(&unfinished, &environment).map_err(LocalError::io("rename", &unfinished))?;
    Ok(interpreter)
}

fn remove(directory: &Path) -> Result<(), LocalError> {
    if !directory.exists() {
        return Ok(());
    }
    fs::remove_dir_all(directory).map_err(LocalError::io("remove", directory))
}

fn install(python: &str, environment: &Path) -> Result<(), LocalError> {
    let made = run(plain(python).args(["-m", "venv"]).arg(environment))?;
    if !made.status.success() {
        return Err(LocalError::NoVenv { python: python.to_owned(), output: printed(&made) });
    }

    let requirements = environment.join("requirements.txt");
    fs::write(&requirements, REQUIREMENTS).map_err(LocalError::io("write", &requirements))?;
    let installed = run(plain(environment.join("bin/python"))
        .args(["-m", "pip", "install", "--quiet", "--require-hashes", "--requirement"])
        .arg(&requirements)
        .args(["--no-input", "--disable-pip-version-check"]))?;
    if !installed.status.success() {
        return Err(LocalError::Install { output: printed(&installed) });
    }
    Ok(())
}

/// A Python without the caller's settings, which could lead it out of its own environment.
fn plain(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_remove("PYTHONHOME").env_remove("PYTHONPATH").env("PIP_USER", "0");
    command
}

/// Returns the first of the named interpreters that is new enough.
fn find(names: &[&str]) -> Result<String, LocalError> {
    let mut found = None;
    for name in names {
        let Ok(output) =
            plain(name).args(["-c", "import sys; print('%d.%d' % sys.version_info[:2])"]).output()
        else {
            continue;
        };
        let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        match parse_version(&version) {
            Some(version) if version >= OLDEST => return Ok((*name).to_owned()),
            Some(_) => found = found.or(Some(format!("{name} {version}"))),
            None => {}
        }
    }
    Err(LocalError::NoPython { found })
}

fn parse_version(version: &str) -> Option<(u32, u32)> {
    let (major, minor) = version.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn run(command: &mut Command) -> Result<Output, LocalError> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.output().map_err(|source| LocalError::Run { program, source })
}

fn printed(output: &Output) -> String {
    last_lines(&(String::from_utf8_lossy(&output.stdout) + &*String::from_utf8_lossy(&output.stderr)))
}

/// The few variables that the emulator may inherit; all others would make it depend on the caller's environment.
pub(crate) fn inherited() -> impl Iterator<Item = (&'static str, std::ffi::OsString)> {
    ["PATH", "HOME", "LANG", "TMPDIR"].into_iter().filter_map(|name| Some((name, env::var_os(name)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        assert!(parse_version("3.9").unwrap() < OLDEST);
        assert!(parse_version("3.10").unwrap() >= OLDEST);
        assert!(parse_version("4.0").unwrap() >= OLDEST);
        assert_eq!(parse_version(""), None);
        assert_eq!(parse_version("Python"), None);
    }

    #[test]
    fn without_python_the_error_says_what_to_do() {
        let error = find(&["millrace-no-such-python"]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the local AWS needs Python 3.10 or newer on the PATH: install it, or set AWS_ENDPOINT_URL to an \
             AWS emulator that already runs"
        );
    }

    #[test]
    fn an_old_python_is_named() {
        let error = LocalError::NoPython { found: Some("python3 3.9".to_owned()) };
        assert!(error.to_string().contains("on the PATH (found python3 3.9): install it"), "{error}");
    }

    #[test]
    fn every_requirement_is_pinned_and_hashed() {
        let mut packages = 0;
        let statements = REQUIREMENTS.replace("\\\n", " ");
        for line in statements.lines().filter(|line| !line.starts_with('#')) {
            assert!(line.contains("==") && line.contains("--hash=sha256:"), "{line}");
            packages += 1;
        }
        assert!(packages > 10, "{packages}");
    }
}
