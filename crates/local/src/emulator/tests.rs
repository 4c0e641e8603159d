//! The lifetime of emulators. Each test has a directory, and so a shared emulator, of its own.

use std::{
    env,
    io::{BufRead, BufReader},
    net::{TcpListener, TcpStream},
};

use tempfile::TempDir;

use super::*;

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn processes_that_start_at_once_share_one_emulator_until_the_last_is_killed() {
    let directory = TempDir::new().unwrap();
    let mut users: Vec<Child> = (0..4).map(|_| spawn_user(directory.path())).collect();
    let endpoints: Vec<String> = users.iter_mut().map(endpoint_of).collect();
    assert!(endpoints.iter().all(|endpoint| *endpoint == endpoints[0]), "{endpoints:?}");

    let last = users.pop().unwrap();
    users.into_iter().for_each(sigkill);
    assert!(answers(&endpoints[0]));

    sigkill(last);
    eventually("the emulator ends", || !answers(&endpoints[0]));
    assert!(Files { directory: directory.path().into() }.state_of_the_living().is_none());
}

/// Not a test: the process that other tests start as a user of their emulator.
#[test]
fn user_process() {
    let Some(directory) = env::var_os("MILLRACE_TEST_USER_OF") else { return };
    let emulator = share(Path::new(&directory), Duration::ZERO);
    println!("\nendpoint {}", emulator.endpoint());
    let mut line = String::new();
    // Until this process is killed, or the test that started it has ended.
    let _ = std::io::stdin().read_line(&mut line);
}

#[test]
fn whoever_comes_while_an_emulator_retires_gets_one_that_stays() {
    let directory = TempDir::new().unwrap();
    for delay in [0, 1, 2, 5, 10] {
        let first = share(directory.path(), Duration::ZERO);
        drop(first);
        thread::sleep(Duration::from_millis(delay));
        let second = share(directory.path(), Duration::ZERO);
        assert!(answers(second.endpoint()), "after {delay} ms");
    }
}

#[test]
fn an_emulator_without_users_waits_for_the_next_one() {
    let directory = TempDir::new().unwrap();
    let first = share(directory.path(), Duration::from_secs(2));
    let endpoint = first.endpoint().to_owned();
    drop(first);
    let second = share(directory.path(), Duration::from_secs(2));
    assert_eq!(second.endpoint(), endpoint);
}

#[test]
fn the_state_file_of_a_killed_emulator_deceives_nobody() {
    let directory = TempDir::new().unwrap();
    let first = share(directory.path(), Duration::ZERO);
    let state = fs::read_to_string(directory.path().join("emulator.json")).unwrap();
    let pid = serde_json::from_str::<serde_json::Value>(&state).unwrap()["pid"].to_string();
    assert!(Command::new("kill").args(["-KILL", &pid]).status().unwrap().success());
    eventually("the emulator is dead", || !answers(first.endpoint()));

    let second = share(directory.path(), Duration::ZERO);
    assert_ne!(second.endpoint(), first.endpoint());
    assert!(answers(second.endpoint()));
}

#[tokio::test]
async fn a_private_emulator_has_ended_when_it_has_been_stopped() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let emulator =
        Emulator::private(PrivateOptions { port: Some(port), ..Default::default() }).await.unwrap();
    let endpoint = emulator.endpoint().to_owned();
    assert_eq!(endpoint, format!("http://127.0.0.1:{port}"));
    assert!(answers(&endpoint));
    emulator.stop().await.unwrap();
    assert!(!answers(&endpoint));
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let error =
        Emulator::private(PrivateOptions { port: Some(port), ..Default::default() }).await.unwrap_err();
    assert!(matches!(error, LocalError::PortTaken { port: taken } if taken == port), "{error}");
}

#[tokio::test]
async fn a_data_directory_belongs_to_one_emulator_at_a_time() {
    let data = TempDir::new().unwrap();
    let options = PrivateOptions { data_dir: Some(data.path().into()), ..Default::default() };
    let first = Emulator::private(options.clone()).await.unwrap();
    let error = Emulator::private(options.clone()).await.unwrap_err();
    assert!(matches!(error, LocalError::DataInUse { .. }), "{error}");

    // One that is ending is waited for.
    let (stopped, second) = tokio::join!(first.stop(), Emulator::private(options));
    stopped.unwrap();
    second.unwrap().stop().await.unwrap();
}

fn share(directory: &Path, grace: Duration) -> Emulator {
    Emulator::shared_in(&directory::local_aws().unwrap(), directory.to_path_buf(), grace).unwrap()
}

fn spawn_user(directory: &Path) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "emulator::tests::user_process", "--nocapture"])
        .env("MILLRACE_TEST_USER_OF", directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn endpoint_of(user: &mut Child) -> String {
    let printed = BufReader::new(user.stdout.take().unwrap());
    printed.lines().find_map(|line| line.unwrap().strip_prefix("endpoint ").map(str::to_owned)).unwrap()
}

fn sigkill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

fn answers(endpoint: &str) -> bool {
    TcpStream::connect(endpoint.strip_prefix("http://").unwrap()).is_ok()
}

#[track_caller]
fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        thread::sleep(POLL);
    }
}
