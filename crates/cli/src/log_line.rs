//! The deployables' log lines, read back.

use serde::Deserialize;
use serde_json::{Map, Value};

/// A line of a deployable's log.
#[derive(Debug)]
pub(crate) struct LogLine {
    /// Whether to show it at once: a warning, an error, or text that is no log line at all, such as that of a panic.
    pub(crate) notable: bool,
    /// For people.
    pub(crate) text: String,
    /// The deployable's addresses, if the line reports them.
    pub(crate) serving: Option<Addresses>,
}

/// Where a deployable answers, each as host and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// gRPC.
    pub grpc: String,
    /// Metrics, over HTTP.
    pub metrics: String,
}

/// A line as it is written with LOG_FORMAT=json.
#[derive(Deserialize)]
struct Logged {
    level: String,
    #[serde(default)]
    message: String,
    #[serde(flatten)]
    fields: Map<String, Value>,
}

/// Fields that a person in front of a terminal does not miss.
const LEFT_OUT: [&str; 5] = ["timestamp", "target", "span", "spans", "threadId"];

impl LogLine {
    pub(crate) fn read(line: &str) -> Self {
        let Ok(Logged { level, message, fields }) = serde_json::from_str(line) else {
            return Self { notable: true, text: printable(line), serving: None };
        };
        let serving = (message == "serving").then(|| addresses(&fields)).flatten();
        let mut text = format!("{level} {}", printable(&message));
        for (name, value) in fields.iter().filter(|(name, _)| !LEFT_OUT.contains(&name.as_str())) {
            text += &format!(" {}={value}", printable(name));
        }
        Self { notable: matches!(level.as_str(), "WARN" | "ERROR"), text, serving }
    }
}

fn addresses(fields: &Map<String, Value>) -> Option<Addresses> {
    let field = |name| fields.get(name)?.as_str().map(str::to_owned);
    Some(Addresses { grpc: field("grpc_addr")?, metrics: field("metrics_addr")? })
}

/// A text that a terminal shows and does not obey.
fn printable(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_about_serving_tells_the_addresses() {
        let line = r#"{"timestamp":"2025-01-01T00:00:00Z","level":"INFO","grpc_addr":"127.0.0.1:1","metrics_addr":"127.0.0.1:2","message":"serving","target":"millrace_server::serve"}"#;
        let read = LogLine::read(line);
        assert_eq!(
            read.serving,
            Some(Addresses { grpc: "127.0.0.1:1".to_owned(), metrics: "127.0.0.1:2".to_owned() })
        );
        assert!(!read.notable);
    }

    #[test]
    fn other_lines_with_addresses_tell_none() {
        let line =
            r#"{"level":"INFO","grpc_addr":"127.0.0.1:1","metrics_addr":"127.0.0.1:2","message":"ending"}"#;
        assert_eq!(LogLine::read(line).serving, None);
    }

    #[test]
    fn warnings_and_what_is_no_log_line_are_notable() {
        let line = r#"{"timestamp":"now","level":"WARN","shard":"s-1","attempt":2,"message":"throttled","target":"t"}"#;
        let read = LogLine::read(line);
        assert!(read.notable);
        assert_eq!(read.text, r#"WARN throttled attempt=2 shard="s-1""#);

        let read = LogLine::read("thread 'main' panicked at src/main.rs:1:1:");
        assert!(read.notable);
        assert_eq!(read.text, "thread 'main' panicked at src/main.rs:1:1:");
    }

    #[test]
    fn nothing_in_a_line_steers_the_terminal() {
        let escape = "\u{1b}";
        let line = serde_json::json!({"level": "ERROR", "message": format!("{escape}[2J"), "error": escape});
        for line in [line.to_string(), format!("{escape}[2J")] {
            assert!(!LogLine::read(&line).text.contains(escape), "{line}");
        }
    }
}
