//! `aws`: the local AWS alone, for deployables that are started by hand.

use std::collections::BTreeMap;

use millrace_core::Application;
use millrace_local::{Account, Emulator, PrivateOptions, Stack, StackOptions, endpoint_from_env, say};

use crate::{cli::AwsArgs, interrupt::Interrupt, stdout::print};

/// A local AWS with all that the application has there.
pub(crate) struct Aws {
    /// Absent where the caller's own endpoint is used.
    emulator: Option<Emulator>,
    pub(crate) account: Account,
    /// The prefix of every name.
    pub(crate) prefix: String,
    /// The environment of a deployable that uses it.
    pub(crate) env: BTreeMap<String, String>,
}

/// How a local AWS is used: the relay reads more often than in production, since nothing limits it and people watch,
/// and without trust in the stream's memory, which ends with the emulator; and the projector ends sooner.
const LOCALLY: [(&str, &str); 5] = [
    ("RELAY_POLL_MS", "20"),
    ("RELAY_IDLE_POLL_MS", "20"),
    ("RELAY_DISCOVERY_MS", "500"),
    ("RELAY_TRUST_SECONDS", "1"),
    ("RECEIVE_WAIT_SECONDS", "1"),
];

impl Aws {
    /// Brings everything up: in the emulator of `AWS_ENDPOINT_URL`, in the account that `account` names there, or else
    /// in an emulator of our own.
    pub(crate) async fn start(
        application: &Application,
        args: &AwsArgs,
        account: fn(&str) -> Account,
    ) -> anyhow::Result<Self> {
        let (emulator, account) = match endpoint_from_env() {
            Some(endpoint) => {
                say(&format!("using the AWS at {endpoint} (AWS_ENDPOINT_URL)"));
                anyhow::ensure!(
                    args.port.is_none() && args.data.is_none(),
                    "--port and --data are for an AWS of our own: unset AWS_ENDPOINT_URL to get one"
                );
                (None, account(&endpoint))
            }
            None => {
                say("starting the local AWS …");
                let options = PrivateOptions { port: args.port, data_dir: args.data.clone() };
                let emulator = Emulator::private(options).await?;
                let account = Account::default_of(emulator.endpoint());
                (Some(emulator), account)
            }
        };
        say("creating tables, event bus and queues …");
        let stack = Stack::deploy(&account, application, &StackOptions::default()).await?;
        let mut env = account.env();
        env.extend(stack.env());
        env.extend(LOCALLY.map(|(name, value)| (name.to_owned(), value.to_owned())));
        Ok(Self { emulator, account, prefix: stack.prefix().to_owned(), env })
    }

    /// Ends the emulator, if it is our own, its data saved.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        if let Some(emulator) = self.emulator {
            emulator.stop().await?;
        }
        Ok(())
    }
}

pub(crate) async fn run(application: &Application, args: AwsArgs) -> anyhow::Result<()> {
    let mut interrupt = Interrupt::catch()?;
    let aws = tokio::select! {
        aws = Aws::start(application, &args, Account::of_env) => aws?,
        // Containers that were started end with this process.
        () = interrupt.wait() => return Ok(()),
    };
    print_exports(&aws.env)?;
    say("ready; Ctrl-C ends it");
    interrupt.wait().await;
    say("ending the local AWS …");
    aws.stop().await
}

fn print_exports(env: &BTreeMap<String, String>) -> anyhow::Result<()> {
    let mut script = String::new();
    for (name, value) in env {
        script += &format!("export {name}={}\n", quoted(value));
    }
    print(&script)
}

/// A value that any POSIX shell reads back as it is.
pub(crate) fn quoted(value: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:".contains(&byte);
    if !value.is_empty() && value.bytes().all(plain) {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_values_that_need_it_are_quoted() {
        assert_eq!(quoted("http://127.0.0.1:4566/0/q-1"), "http://127.0.0.1:4566/0/q-1");
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted("$HOME"), "'$HOME'");
        assert_eq!(quoted(""), "''");
    }
}
