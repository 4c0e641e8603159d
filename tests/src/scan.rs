//! Finds personal data and secrets in a log, a metric, or a report, by their form.
//!
//! Tests name people and things by the words in [`NAMES`], and have page tokens, tokens of callers and AWS's receipts.

use std::fmt;

use millrace_core::Envelope;
use serde_json::Value;

/// The words that tests name people and products with. A test that needs another adds it here.
const NAMES: [&str; 13] =
    ["Ann", "Anna", "Bob", "Cid", "Žofie", "名前", "Jack", "Jane", "John", "Doe", "Roe", "laptop", "pen"];

/// The least length of a possible token. A page token has 46 bytes at least, in base64url; ids are shorter (a shard's
/// has 37 letters), or are not mixed of upper case, lower case and digits.
const TOKEN_LENGTH: usize = 40;

/// Something that must not be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Its kind.
    pub kind: Kind,
    /// Where it is: the line.
    pub line: String,
}

/// A kind of personal data or secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "their names say it")]
pub enum Kind {
    EmailAddress,
    Name,
    Token,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} in: {}", self.kind, self.line)
    }
}

/// The personal data and secrets in a text.
pub fn scan(text: &str) -> Vec<Finding> {
    text.lines()
        .flat_map(|line| {
            let found = [
                (Kind::EmailAddress, has_address(line)),
                (Kind::Name, has_name(line)),
                (Kind::Token, has_token(line)),
            ];
            found.map(|(kind, found)| found.then(|| Finding { kind, line: line.to_owned() }))
        })
        .flatten()
        .collect()
}

/// Fails where something is in a text that must not be there, or where there is no text: nothing was looked at then.
#[track_caller]
pub fn assert_clean(what: &str, text: &str) {
    assert!(!text.trim().is_empty(), "{what}: there is nothing to look at");
    let found = scan(text);
    let shown: Vec<_> = found.iter().take(5).map(ToString::to_string).collect();
    assert!(found.is_empty(), "{what}: {} findings, such as\n{}", found.len(), shown.join("\n"));
}

/// Fails where a value of an event would not be found if it were said: a name or an address that tests use and that this
/// does not know by its looks.
#[track_caller]
pub fn assert_known<'a>(events: impl IntoIterator<Item = &'a Envelope>) {
    let (mut values, events) = (0, events.into_iter());
    for data in events.filter_map(|event| event.event_data.as_ref()) {
        let items = data.get("items").and_then(Value::as_array).into_iter().flatten();
        let products = items.filter_map(|item| item.get("product"));
        for value in [data.get("email"), data.get("name")].into_iter().flatten().chain(products) {
            let Some(text) = value.as_str() else { panic!("a name is a text: {value}") };
            assert!(!scan(text).is_empty(), "the scan does not know {text:?}: add it to its names");
            values += 1;
        }
    }
    assert!(values > 0, "no event says who or what");
}

/// Anything like `a@b`, also in a text that is escaped for a URL.
fn has_address(line: &str) -> bool {
    let is_of_address = |letter: char| letter.is_alphanumeric() || "._%+-\"".contains(letter);
    let unescaped = line.replace("%40", "@");
    let mut parts = unescaped.split('@').peekable();
    while let Some(before) = parts.next() {
        let Some(after) = parts.peek() else { break };
        // `order-summaries@1` is a projection at a version.
        let mut domain =
            after.chars().take_while(|letter| letter.is_alphanumeric() || ".-".contains(*letter));
        if before.ends_with(is_of_address) && domain.any(char::is_alphabetic) {
            return true;
        }
    }
    false
}

fn has_name(line: &str) -> bool {
    line.split(|letter: char| !letter.is_alphanumeric()).any(|word| NAMES.contains(&word))
}

/// A credential by its scheme, or a long text of letters of both cases and digits.
fn has_token(line: &str) -> bool {
    let is_of_token = |letter: char| letter.is_ascii_alphanumeric() || "-_".contains(letter);
    let is_mixed = |word: &str| {
        word.len() >= TOKEN_LENGTH
            && word.chars().any(|letter| letter.is_ascii_uppercase())
            && word.chars().any(|letter| letter.is_ascii_lowercase())
            && word.chars().any(|letter| letter.is_ascii_digit())
    };
    line.contains("Bearer ")
        || line.contains("AWS4-HMAC-SHA256")
        || line.split(|letter| !is_of_token(letter)).any(is_mixed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<Kind> {
        scan(text).into_iter().map(|finding| finding.kind).collect()
    }

    #[test]
    fn what_is_planted_is_found() {
        for address in [
            r#"{"message":"no user john.doe+1@example.com"}"#,
            "Email: S(\"user17@example.com\")",
            "GET /?email=a%40b.example",
            "john@localhost",
            r#""quoted"@example.com"#,
        ] {
            assert_eq!(kinds(address), [Kind::EmailAddress], "{address}");
        }
        for name in ["the user John", "name=\"Jane\"", "{\"product\":\"pen 3\"}", "a laptop, sold"] {
            assert_eq!(kinds(name), [Kind::Name], "{name}");
        }
        for token in [
            "page_token=AgAAAZrK4mPlAGVjNTQ0ZmQ5LTgxYjUtNWY0Ni1hN2JkLTBlMGE5YjU2ZmYyNw",
            "authorization: Bearer x",
            "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwiZXhwIjoxfQ.c2lnbmF0dXJl",
            "Authorization: AWS4-HMAC-SHA256 Credential=x",
        ] {
            assert_eq!(kinds(token), [Kind::Token], "{token}");
        }
        assert_eq!(kinds("clean\nJohn\nclean\nbob@example.com"), [Kind::Name, Kind::EmailAddress]);
    }

    #[test]
    fn what_logs_and_metrics_are_made_of_is_not_mistaken_for_it() {
        for line in [
            r#"{"timestamp":"2026-11-26T01:02:03.456789Z","level":"INFO","message":"serving","grpc_addr":"127.0.0.1:50051"}"#,
            r#"{"stream":"acme#order#6b2f3f1e-2b0a-5f0e-9a3f-0123456789ab","trace_id":"0af7651916cd43dd8448eb211c80319c"}"#,
            "shard=shardId-00000001732600000000-0123abcd",
            "arn:aws:dynamodb:us-east-1:000000000001:table/millrace-event-store/stream/2026-11-26T01:00:00.000",
            r#"rpc_total{method="/shop.query.v1.OrderQueryService/GetOrdersByStatus",code="Ok"} 3"#,
            "pending, opened, announced: an expense @ 3 @",
        ] {
            assert_eq!(scan(line), [], "{line}");
        }
    }

    #[test]
    #[should_panic(expected = "nothing to look at")]
    fn a_run_without_logs_is_not_clean() {
        assert_clean("a log", "\n");
    }
}
