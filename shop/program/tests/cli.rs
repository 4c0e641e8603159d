//! The program, as a terminal or a supervisor sees it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test, a panic is the report")]

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_sdk_dynamodb::types::AttributeValue;
use tempfile::TempDir;

/// The last variable of the environment.
const LAST: &str = "RELAY_TRUST_SECONDS";

const UNIQUE_KEYS: &str = "shop-unique-keys";

const TIMEOUT: Duration = Duration::from_secs(120);

/// `shop aws`, up and running.
struct Running {
    child: Child,
    env: BTreeMap<String, String>,
}

impl Running {
    fn start(arguments: &[&str]) -> Self {
        let child = shop(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut running = Self { child, env: BTreeMap::new() };
        let progress = BufReader::new(running.child.stderr.take().unwrap());
        let said: Vec<String> =
            progress.lines().map(Result::unwrap).take_while(|line| !line.starts_with("ready")).collect();
        // The script was printed before; it ends with the last of its names in alphabetical order.
        let script = BufReader::new(running.child.stdout.take().unwrap());
        for line in script.lines().map(Result::unwrap) {
            let (name, value) = line.strip_prefix("export ").unwrap().split_once('=').unwrap();
            running.env.insert(name.to_owned(), value.to_owned());
            if name == LAST {
                return running;
            }
        }
        panic!("it did not come up: {said:?}");
    }

    async fn dynamodb(&self) -> aws_sdk_dynamodb::Client {
        aws_sdk_dynamodb::Client::new(&self.config().await)
    }

    async fn config(&self) -> SdkConfig {
        let credentials = Credentials::new(
            &self.env["AWS_ACCESS_KEY_ID"],
            &self.env["AWS_SECRET_ACCESS_KEY"],
            None,
            None,
            "the printed environment",
        );
        aws_config::defaults(BehaviorVersion::latest())
            .endpoint_url(&self.env["AWS_ENDPOINT_URL"])
            .region(Region::new(self.env["AWS_REGION"].clone()))
            .credentials_provider(credentials)
            .load()
            .await
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Ends it in order, as Ctrl-C does.
    fn end(&mut self, signal: &str) {
        self.signal(signal);
        assert!(self.child.wait().unwrap().success(), "after {signal}");
        assert!(!self.answers(), "after {signal}");
    }

    fn answers(&self) -> bool {
        TcpStream::connect(self.env["AWS_ENDPOINT_URL"].strip_prefix("http://").unwrap()).is_ok()
    }
}

/// A test that fails leaves nothing running.
impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn shop(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shop"));
    command.args(arguments).env_remove("AWS_ENDPOINT_URL").stdin(Stdio::null());
    command
}

#[test]
fn sigterm_and_ctrl_c_end_it_in_order() {
    for signal in ["-TERM", "-INT"] {
        let mut running = Running::start(&["aws"]);
        assert!(running.answers());
        running.end(signal);
    }
}

#[test]
fn interrupted_while_it_starts_it_leaves_nothing_behind() {
    let mut child = shop(&["aws"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut progress = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    progress.read_line(&mut line).unwrap();
    assert!(line.starts_with("starting"), "{line}");
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    assert!(child.wait().unwrap().success());
    let mut script = String::new();
    child.stdout.take().unwrap().read_to_string(&mut script).unwrap();
    assert_eq!(script, "");
}

#[test]
fn the_printed_environment_is_all_that_an_audit_and_a_redrive_need() {
    let mut running = Running::start(&["aws"]);
    for (arguments, told) in [
        (&["audit", "--repair"][..], "SUMMARY complete=yes"),
        (&["redrive", "--max=1"], "SUMMARY projection="),
    ] {
        let output = shop(arguments).envs(&running.env).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && said.contains(told), "{arguments:?}: {said}");

        let output = shop(arguments).env_clear().output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("cargo run -- aws > aws.env"), "{said}");
    }
    running.end("-TERM");
}

#[tokio::test]
async fn data_in_a_directory_outlive_a_kill() {
    let data = TempDir::new().unwrap();
    let arguments = ["aws", "--data", data.path().to_str().unwrap()];

    let first = Running::start(&arguments);
    put(&first, "kept").await;
    send(&first).await;
    first.signal("-KILL");

    let mut second = Running::start(&arguments);
    assert!(has(&second, "kept").await);
    assert_eq!(receive(&second).await.as_deref(), Some("kept, too"));
    put(&second, "kept as well").await;
    second.end("-TERM");

    let mut third = Running::start(&arguments);
    assert!(has(&third, "kept").await && has(&third, "kept as well").await);
    third.end("-INT");
}

#[test]
fn without_a_directory_a_kill_ends_the_emulator() {
    let mut running = Running::start(&["aws"]);
    running.signal("-KILL");
    running.child.wait().unwrap();
    let deadline = Instant::now() + TIMEOUT;
    while running.answers() {
        assert!(Instant::now() < deadline);
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_data_directory_that_cannot_be_made_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let inside: &Path = &file.path().join("data");
    let output = shop(&["aws", "--data", inside.to_str().unwrap()]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("cannot create") && said.contains(inside.to_str().unwrap()), "{said}");
}

async fn put(running: &Running, key: &str) {
    let put = running.dynamodb().await.put_item().table_name(UNIQUE_KEYS);
    put.item("Key", AttributeValue::S(key.to_owned())).send().await.unwrap();
}

async fn has(running: &Running, key: &str) -> bool {
    let get = running.dynamodb().await.get_item().table_name(UNIQUE_KEYS);
    get.key("Key", AttributeValue::S(key.to_owned())).send().await.unwrap().item.is_some()
}

async fn send(running: &Running) {
    let sqs = aws_sdk_sqs::Client::new(&running.config().await);
    sqs.send_message().queue_url(queue(&sqs).await).message_body("kept, too").send().await.unwrap();
}

async fn receive(running: &Running) -> Option<String> {
    let sqs = aws_sdk_sqs::Client::new(&running.config().await);
    let received = sqs.receive_message().queue_url(queue(&sqs).await).wait_time_seconds(5);
    received.send().await.unwrap().messages.unwrap_or_default().pop()?.body
}

/// The URL of a projection's queue.
async fn queue(sqs: &aws_sdk_sqs::Client) -> String {
    let found = sqs.get_queue_url().queue_name("shop-user-profiles-v1").send().await;
    found.unwrap().queue_url.unwrap()
}
