//! Configuration: flags, each with an environment variable. Everything is checked before a port is bound, and
//! everything that is wrong is said at once.

use std::{ffi::OsString, net::SocketAddr};

use clap::{Args, Parser, builder::Resettable, error::ErrorKind};

use crate::telemetry::LogFormat;

/// What every deployable can be told.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// Where metrics are served for Prometheus, at /metrics.
    #[arg(long, env = "METRICS_ADDR", default_value = "0.0.0.0:9464")]
    pub metrics_addr: SocketAddr,

    /// How log lines are written [default: text on a terminal, json elsewhere].
    #[arg(long, env = "LOG_FORMAT", value_enum)]
    pub log_format: Option<LogFormat>,

    /// How many gRPC calls run at a time; further ones are refused with RESOURCE_EXHAUSTED.
    #[arg(long, env = "MAX_CONCURRENT_CALLS", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_concurrent_calls: u32,

    /// Ends when standard input does: for a parent process that must leave nothing behind.
    #[arg(long, hide = true)]
    pub exit_with_stdin: bool,
}

/// Into how many shards a sharded index key is spread.
pub type IndexShards = u16;

/// Reads a number of index shards: 1 to 256.
pub fn index_shards(text: &str) -> Result<IndexShards, String> {
    match text.parse() {
        Ok(shards @ 1..=256) => Ok(shards),
        _ => Err("must be a whole number from 1 to 256".to_owned()),
    }
}

/// Reads the name of a DynamoDB table: 3 to 255 of a-z, A-Z, 0-9, `_`, `-` and `.` (DynamoDB Developer Guide, "Naming
/// rules").
pub fn table_name(text: &str) -> Result<String, String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
    if (3..=255).contains(&text.len()) && text.bytes().all(allowed) {
        Ok(text.to_owned())
    } else {
        Err("must be a table's name: 3 to 255 of a-z, A-Z, 0-9, _, - and .".to_owned())
    }
}

/// Reads a text that must not be empty.
pub fn non_empty(text: &str) -> Result<String, String> {
    if text.trim().is_empty() { Err("must not be empty".to_owned()) } else { Ok(text.to_owned()) }
}

/// Reads a configuration from arguments and environment.
///
/// The error is for a person and names all that is wrong: clap alone stops at the first bad value.
pub fn read<C: Parser>(args: impl IntoIterator<Item = OsString>) -> Result<C, clap::Error> {
    let args: Vec<OsString> = args.into_iter().collect();
    let error = match C::try_parse_from(&args) {
        Ok(config) => return Ok(config),
        Err(error) => error,
    };
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return Err(error);
    }
    // Each variable for itself, as if it were the only one; then, without any, what is missing.
    let command = C::command();
    let told = |error: &clap::Error| {
        let text = error.to_string();
        let text = text.strip_prefix("error: ").unwrap_or(&text);
        text.split("\n\nUsage:")
            .next()
            .unwrap_or(text)
            .split("\n\nFor more")
            .next()
            .unwrap_or(text)
            .trim()
            .to_owned()
    };
    let mut wrong = vec![told(&error)];
    for argument in
        command.get_arguments().filter(|a| a.get_env().is_some_and(|v| std::env::var_os(v).is_some()))
    {
        let alone = command.clone().mut_args(|other| {
            let other = other.required(false);
            if other.get_id() == argument.get_id() { other } else { other.env(Resettable::Reset) }
        });
        wrong.extend(alone.try_get_matches_from(args.first()).err().as_ref().map(told));
    }
    let unset = command.clone().mut_args(|argument| {
        let set = argument.get_env().is_some_and(|v| std::env::var_os(v).is_some());
        let required = argument.is_required_set() && !set;
        argument.required(required).env(Resettable::Reset)
    });
    wrong.extend(unset.try_get_matches_from(&args).err().as_ref().map(told));
    let mut seen = Vec::new();
    wrong.retain(|text| {
        !seen.contains(text) && {
            seen.push(text.clone());
            true
        }
    });
    Err(C::command().error(error.kind(), wrong.join("\n\n")))
}
