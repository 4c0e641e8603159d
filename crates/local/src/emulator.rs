//! Starting MiniStack, sharing it between processes, and ending it after its last user.
//!
//! Each user of an emulator holds a shared lock on `users.lock` in its directory; `python/keeper.py` runs the emulator,
//! ends it once it can lock that file exclusively, and documents the rest of the protocol.

use std::{
    fs::{self, File, TryLockError},
    io::Read,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{
    LocalError,
    directory::{self, fingerprint, last_lines, lock_file},
    python,
};

const KEEPER: &str = include_str!("../python/keeper.py");

/// Exit codes of the keeper.
const PORT_TAKEN: i32 = 10;
const DATA_IN_USE: i32 = 11;

/// Longer than the keeper's own patience with its data directory and with MiniStack.
const START_PATIENCE: Duration = Duration::from_secs(100);
/// Saving a large state takes seconds.
const STOP_PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);

/// How long the shared emulator waits for another user: from one test binary of a run to the next.
const SHARED_GRACE: Duration = Duration::from_secs(5);

/// A running emulator, which runs at least as long as this value lives.
///
/// It needs no shutdown: it ends when its last user is gone, even one that was killed.
#[derive(Debug)]
pub struct Emulator {
    endpoint: String,
    /// The shared lock; the emulator lives as long as any is held.
    users: File,
    /// The keeper, where this process started it.
    keeper: Option<Child>,
}

/// How a private emulator is to run.
#[derive(Clone, Debug, Default)]
pub struct PrivateOptions {
    /// The loopback port to listen on; any free one if left out.
    pub port: Option<u16>,
    /// Where to keep the data from one run to the next. They are written when the emulator ends, whatever
    /// ended its user. If left out, they vanish.
    pub data_dir: Option<PathBuf>,
}

/// The keeper's settings, its only argument.
#[derive(Serialize)]
struct Launch<'a> {
    port: u16,
    data_dir: Option<&'a Path>,
    state_file: &'a Path,
    users_lock: &'a Path,
    grace: f64,
    /// A directory to remove at the end.
    scratch: Option<&'a Path>,
}

/// The keeper's message once it is up.
#[derive(Deserialize)]
struct State {
    port: u16,
}

/// The files of one emulator.
struct Files {
    directory: PathBuf,
}

impl Files {
    fn in_directory(directory: PathBuf) -> Result<Self, LocalError> {
        fs::create_dir_all(&directory).map_err(LocalError::io("create", &directory))?;
        Ok(Self { directory })
    }

    fn users(&self) -> PathBuf {
        self.directory.join("users.lock")
    }

    fn start(&self) -> PathBuf {
        self.directory.join("start.lock")
    }

    fn state(&self) -> PathBuf {
        self.directory.join("emulator.json")
    }

    fn log(&self) -> PathBuf {
        self.directory.join("emulator.log")
    }

    fn keeper(&self) -> PathBuf {
        self.directory.join("keeper.py")
    }

    /// Declares this process a user. Waits only for the instant in which a keeper retires.
    fn join(&self) -> Result<File, LocalError> {
        let users = lock_file(&self.users())?;
        users.lock_shared().map_err(LocalError::io("lock", self.users()))?;
        Ok(users)
    }

    /// Returns the state that a living keeper published, if any.
    fn state_of_the_living(&self) -> Option<State> {
        let mut file = File::open(self.state()).ok()?;
        match file.try_lock_shared() {
            // A living keeper holds the exclusive lock.
            Err(TryLockError::WouldBlock) => {}
            Ok(()) | Err(TryLockError::Error(_)) => return None,
        }
        let mut text = String::new();
        file.read_to_string(&mut text).ok()?;
        serde_json::from_str(&text).ok()
    }
}

impl Emulator {
    /// The emulator that all processes of this target directory share, started if none runs.
    ///
    /// # Errors
    /// If it cannot be installed or does not come up.
    pub async fn shared() -> Result<Self, LocalError> {
        blocking(|| {
            let local_aws = directory::local_aws()?;
            // Another version of the protocol or of the emulator is another emulator.
            let version = fingerprint(&[KEEPER, python::REQUIREMENTS]);
            Self::shared_in(&local_aws, local_aws.join(format!("shared-{version}")), SHARED_GRACE)
        })
        .await
    }

    /// An emulator for this process alone.
    ///
    /// # Errors
    /// If it cannot be installed or does not come up, as when its port or data directory is in use.
    pub async fn private(options: PrivateOptions) -> Result<Self, LocalError> {
        blocking(move || Self::private_in(&directory::local_aws()?, &options)).await
    }

    /// The URL at which every AWS service answers.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Gives up the emulator. A private one has ended on return, its data saved.
    ///
    /// # Errors
    /// If it does not end in order.
    pub async fn stop(self) -> Result<(), LocalError> {
        blocking(move || {
            let Self { users, keeper, .. } = self;
            drop(users);
            let Some(mut keeper) = keeper else { return Ok(()) };
            match wait(&mut keeper, STOP_PATIENCE, || None::<()>)? {
                Waited::Exited(status) if status.success() => Ok(()),
                Waited::Exited(status) => Err(LocalError::Stop { reason: status.to_string() }),
                Waited::Found(()) | Waited::TooLong => {
                    kill(&mut keeper);
                    Err(LocalError::Stop { reason: format!("it still ran after {STOP_PATIENCE:?}") })
                }
            }
        })
        .await
    }

    fn shared_in(local_aws: &Path, directory: PathBuf, grace: Duration) -> Result<Self, LocalError> {
        let files = Files::in_directory(directory)?;
        let users = files.join()?;
        if let Some(state) = files.state_of_the_living() {
            return Ok(Self::at(&state, users, None));
        }

        let start = lock_file(&files.start())?;
        start.lock().map_err(LocalError::io("lock", files.start()))?;
        if let Some(state) = files.state_of_the_living() {
            return Ok(Self::at(&state, users, None));
        }
        let interpreter = python::installed(local_aws)?;
        let (state, _outlives_us) = launch(&files, &interpreter, &PrivateOptions::default(), grace, false)?;
        Ok(Self::at(&state, users, None))
    }

    fn private_in(local_aws: &Path, options: &PrivateOptions) -> Result<Self, LocalError> {
        let interpreter = python::installed(local_aws)?;
        let scratch = tempfile::Builder::new()
            .prefix("private-")
            .tempdir_in(local_aws)
            .map_err(LocalError::io("create a directory in", local_aws))?;
        let files = Files::in_directory(scratch.path().to_path_buf())?;
        let users = files.join()?;
        let (state, keeper) = launch(&files, &interpreter, options, Duration::ZERO, true)?;
        // From here on it is the keeper that removes it.
        let _ = scratch.keep();
        Ok(Self::at(&state, users, Some(keeper)))
    }

    fn at(state: &State, users: File, keeper: Option<Child>) -> Self {
        Self { endpoint: format!("http://127.0.0.1:{}", state.port), users, keeper }
    }
}

/// Starts a keeper and waits until its emulator answers. The caller holds the users' lock.
fn launch(
    files: &Files,
    interpreter: &Path,
    options: &PrivateOptions,
    grace: Duration,
    scratch: bool,
) -> Result<(State, Child), LocalError> {
    fs::write(files.keeper(), KEEPER).map_err(LocalError::io("write", files.keeper()))?;
    let log = File::create(files.log()).map_err(LocalError::io("create", files.log()))?;
    let errors = log.try_clone().map_err(LocalError::io("open", files.log()))?;

    let data_dir = match &options.data_dir {
        Some(directory) => {
            fs::create_dir_all(directory).map_err(LocalError::io("create", directory))?;
            Some(directory.canonicalize().map_err(LocalError::io("find", directory))?)
        }
        None => None,
    };
    let arguments = serde_json::to_string(&Launch {
        port: options.port.unwrap_or(0),
        data_dir: data_dir.as_deref(),
        state_file: &files.state(),
        users_lock: &files.users(),
        grace: grace.as_secs_f64(),
        scratch: scratch.then_some(files.directory.as_path()),
    })
    .map_err(|error| LocalError::Start { reason: error.to_string() })?;

    let mut keeper = Command::new(interpreter)
        .arg("-I")
        .arg(files.keeper())
        .arg(arguments)
        .env_clear()
        .envs(python::inherited())
        .current_dir(&files.directory)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        // Ctrl-C in the terminal is for us: we end first, and the emulator after us.
        .process_group(0)
        .spawn()
        .map_err(|source| LocalError::Run { program: interpreter.display().to_string(), source })?;

    match wait(&mut keeper, START_PATIENCE, || files.state_of_the_living())? {
        Waited::Found(state) => Ok((state, keeper)),
        Waited::Exited(status) => Err(failure(status, options, &files.log())),
        Waited::TooLong => {
            kill(&mut keeper);
            Err(LocalError::Start { reason: format!("it did not answer within {START_PATIENCE:?}") })
        }
    }
}

fn failure(status: ExitStatus, options: &PrivateOptions, log: &Path) -> LocalError {
    match (status.code(), options.port, &options.data_dir) {
        (Some(PORT_TAKEN), Some(port), _) => LocalError::PortTaken { port },
        (Some(DATA_IN_USE), _, Some(directory)) => LocalError::DataInUse { directory: directory.clone() },
        _ => {
            let said = fs::read_to_string(log).unwrap_or_default();
            LocalError::Start { reason: format!("{status}, having said: {}", last_lines(&said)) }
        }
    }
}

enum Waited<T> {
    Found(T),
    Exited(ExitStatus),
    TooLong,
}

/// Waits until `look` finds something, the child has exited, or the time is up.
fn wait<T>(
    child: &mut Child,
    patience: Duration,
    look: impl Fn() -> Option<T>,
) -> Result<Waited<T>, LocalError> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = look() {
            return Ok(Waited::Found(found));
        }
        let exited = child
            .try_wait()
            .map_err(|source| LocalError::Run { program: "the local AWS".to_owned(), source })?;
        if let Some(status) = exited {
            return Ok(Waited::Exited(status));
        }
        if Instant::now() >= deadline {
            return Ok(Waited::TooLong);
        }
        thread::sleep(POLL);
    }
}

/// Ends a child that does not end by itself; one that just did is as good.
fn kill(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// Runs work that blocks on files and processes apart from the async tasks.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LocalError> + Send + 'static,
) -> Result<T, LocalError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

#[cfg(test)]
mod tests;
