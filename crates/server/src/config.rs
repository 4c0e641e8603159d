//! Configuration: flags, each with an environment variable. Everything is checked before a port is bound, and all
//! errors are reported at once.

use std::{collections::HashSet, ffi::OsString, net::SocketAddr, time::Duration};

use clap::{Arg, Args, Command, Parser, builder::Resettable, error::ErrorKind};
use millrace_aws::{Aws, NoRegion};

pub use crate::values::{IndexShards, index_shards, non_empty, on_off, table_name};
use crate::{
    security::SecuritySettings,
    telemetry::{self, LogFormat},
    traces::TraceSettings,
};

/// The settings of every deployable.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// Where metrics are served for Prometheus, at /metrics.
    #[arg(long, env = "METRICS_ADDR", default_value = "0.0.0.0:9464")]
    pub metrics_addr: SocketAddr,

    /// How log lines are written [default: text on a terminal, json elsewhere].
    #[arg(long, env = "LOG_FORMAT", value_enum)]
    pub log_format: Option<LogFormat>,

    /// How many gRPC calls run at a time; further ones are refused with RESOURCE_EXHAUSTED. One connection may have a
    /// quarter of them, and 16 in any case.
    #[arg(long, env = "MAX_CONCURRENT_CALLS", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_concurrent_calls: u32,

    /// The age in seconds at which a connection is ended by GOAWAY, so that its client connects again, to any replica. Calls in
    /// flight end first. 0: never.
    #[arg(
        long,
        env = "MAX_CONNECTION_AGE_SECONDS",
        default_value_t = 300,
        value_parser = clap::value_parser!(u32).range(..=86_400)
    )]
    pub max_connection_age_seconds: u32,

    /// How many threads carry calls out. One fills a core with thousands of calls a second, without waking others to
    /// share little work; for more, add replicas.
    #[arg(long, env = "WORKER_THREADS", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub worker_threads: u16,

    /// Calls to AWS.
    #[command(flatten)]
    pub aws: AwsSettings,

    /// TLS and authentication.
    #[command(flatten)]
    pub security: SecuritySettings,

    /// Traces.
    #[command(flatten)]
    pub traces: TraceSettings,

    /// Ends when standard input does: for a parent process that must leave nothing behind.
    #[arg(long, hide = true)]
    pub exit_with_stdin: bool,
}

/// Calls to AWS. Region, endpoint and credentials come from the environment, as every AWS SDK reads it.
#[derive(Debug, Clone, Args)]
pub struct AwsSettings {
    /// The longest that one attempt of a call to AWS may take, in milliseconds. A call has three attempts.
    #[arg(
        long,
        env = "AWS_ATTEMPT_TIMEOUT_MS",
        default_value_t = 2000,
        value_parser = clap::value_parser!(u64).range(100..=60_000)
    )]
    pub aws_attempt_timeout_ms: u64,
}

impl AwsSettings {
    /// Access to AWS.
    ///
    /// # Errors
    /// If the environment names no region.
    pub async fn access(&self) -> Result<Aws, NoRegion> {
        Aws::from_env(Duration::from_millis(self.aws_attempt_timeout_ms)).await
    }
}

/// Reads a configuration from arguments and environment.
///
/// The error is for a person and names all faults: clap alone stops at the first bad value.
pub fn read<C: Parser>(args: impl IntoIterator<Item = OsString>) -> Result<C, clap::Error> {
    let args: Vec<OsString> = args.into_iter().collect();
    let (parsed, filter) = (C::try_parse_from(&args), telemetry::filter());
    let error = match (parsed, &filter) {
        (Ok(config), Ok(_)) => return Ok(config),
        (Ok(_), Err(_)) => None,
        (Err(error), _) if is_asked_for(&error) => return Err(error),
        (Err(error), _) => Some(error),
    };
    let mut problems: Vec<String> = error.as_ref().map(told).into_iter().collect();
    if error.is_some() {
        problems.extend(all_wrong(&C::command(), &args));
    }
    problems.extend(filter.err().map(|reason| format!("invalid value for RUST_LOG: {reason}")));
    let mut seen = HashSet::new();
    problems.retain(|text| seen.insert(text.clone()));
    let kind = error.map_or(ErrorKind::ValueValidation, |error| error.kind());
    Err(C::command().error(kind, problems.join("\n\n")))
}

/// Whether clap's error is the output of `--help` or `--version`.
fn is_asked_for(error: &clap::Error) -> bool {
    matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion)
}

/// The text of an error, without clap's additions for a reader who sees nothing else.
fn told(error: &clap::Error) -> String {
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let end = ["\n\nUsage:", "\n\nFor more"].iter().filter_map(|end| text.find(end)).min();
    text.get(..end.unwrap_or(text.len())).unwrap_or(text).trim().to_owned()
}

/// Tries each flag and each variable as if it were the only one; then checks for missing ones.
fn all_wrong(command: &Command, args: &[OsString]) -> Vec<String> {
    let program = args.first().cloned().into_iter();
    let flags = flags(command, args);
    let is_set = |argument: &Arg| {
        let flag = argument.get_long().is_some_and(|long| flags.iter().any(|(name, _)| name == long));
        flag || argument.get_env().is_some_and(|name| std::env::var_os(name).is_some())
    };
    let without_environment = |keep: Option<&Arg>| {
        command.clone().mut_args(|argument| {
            let kept = keep.is_some_and(|kept| kept.get_id() == argument.get_id());
            if kept { argument } else { argument.env(Resettable::Reset) }
        })
    };
    let optional = |command: Command| command.mut_args(|argument| argument.required(false));
    let mut tries = Vec::new();
    for (_, tokens) in &flags {
        let tokens = program.clone().chain(tokens.iter().cloned());
        tries.push(optional(without_environment(None)).try_get_matches_from(tokens));
    }
    for argument in command.get_arguments().filter(|a| a.get_env().is_some()) {
        tries.push(optional(without_environment(Some(argument))).try_get_matches_from(program.clone()));
    }
    let set: HashSet<_> = command.get_arguments().filter(|a| is_set(a)).map(|a| a.get_id().clone()).collect();
    let missing = without_environment(None).mut_args(|argument| {
        let required = argument.is_required_set() && !set.contains(argument.get_id());
        argument.required(required)
    });
    tries.push(missing.try_get_matches_from(program));
    let errors = tries.into_iter().filter_map(Result::err);
    errors.filter(|error| !is_asked_for(error)).map(|error| told(&error)).collect()
}

/// The flags among the arguments, each with its tokens: `--name=value`, or `--name` and the tokens after it.
fn flags(command: &Command, args: &[OsString]) -> Vec<(String, Vec<OsString>)> {
    let mut flags = Vec::new();
    let mut rest = args.iter().skip(1).peekable();
    while let Some(token) = rest.next() {
        let Some(text) = token.to_str().and_then(|text| text.strip_prefix("--")) else { continue };
        let name = text.split('=').next().unwrap_or(text).to_owned();
        let mut tokens = vec![token.clone()];
        let argument = command.get_arguments().find(|argument| argument.get_long() == Some(&name));
        let takes_one = argument.is_some_and(|argument| argument.get_action().takes_values());
        if takes_one && !text.contains('=') {
            // A flag is never a value.
            tokens.extend(rest.next_if(|next| !next.to_string_lossy().starts_with("--")).cloned());
        }
        flags.push((name, tokens));
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Parser)]
    struct Config {
        #[arg(long, value_parser = table_name)]
        events: String,
        #[arg(long, value_parser = table_name)]
        rows: String,
        #[arg(long, default_value = "4", value_parser = index_shards)]
        shards: IndexShards,
        #[command(flatten)]
        common: Common,
    }

    fn wrong(args: &[&str]) -> String {
        let args = std::iter::once("program").chain(args.iter().copied()).map(OsString::from);
        read::<Config>(args).expect_err("a bad configuration").to_string()
    }

    #[test]
    fn a_good_configuration_is_read() {
        let args =
            ["program", "--events", "the-events", "--rows=the.rows", "--shards", "8"].map(OsString::from);
        let config: Config = read(args).unwrap();
        assert_eq!(
            (config.events.as_str(), config.rows.as_str(), config.shards),
            ("the-events", "the.rows", 8)
        );
        assert_eq!(config.common.max_concurrent_calls, 1024);
    }

    #[test]
    fn all_that_is_wrong_is_said_at_once() {
        let said = wrong(&["--shards", "0", "--metrics-addr=nowhere", "--events", "a b", "--no-such-flag"]);
        for name in ["--shards", "--metrics-addr", "--events", "--rows", "--no-such-flag"] {
            assert!(said.contains(name), "{name} is not named: {said}");
        }
        let missing = said.split("were not provided").nth(1).unwrap().split("Usage").next().unwrap();
        assert!(missing.contains("--rows") && !missing.contains("--events"), "{said}");
    }

    #[test]
    fn a_flag_is_no_flags_value_and_help_is_no_mistake() {
        let said = wrong(&["--events", "--rows=the-rows", "--shards=x", "--help"]);
        let said = said.split("Usage").next().unwrap();
        assert!(
            said.contains("--events") && said.contains("--shards") && !said.contains("--rows <"),
            "{said}"
        );
    }
}
