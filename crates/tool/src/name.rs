//! Names of applications, aggregates and projections, in the forms that files and code have for them.

use std::fmt;

/// A name in kebab case, such as `gift-card`, that is a Rust identifier in snake case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name(String);

/// Why a name is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NameError {
    #[error("`{0}` has to be 2 to 24 of a-z and -, each word of at least two letters, such as `gift-card`")]
    Malformed(String),
    #[error("`{0}` is a word that Rust keeps for itself: choose another name")]
    Keyword(String),
    #[error("`{0}` is a name that the generated code has for something else: choose another name")]
    Taken(String),
}

/// The Rust Reference, "Keywords": strict, reserved and weak ones of edition 2024.
const KEYWORDS: [&str; 52] = [
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate", "do", "dyn",
    "else", "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl", "in", "let", "loop",
    "macro", "match", "mod", "move", "mut", "override", "priv", "pub", "ref", "return", "self", "static",
    "struct", "super", "trait", "true", "try", "type", "typeof", "union", "unsafe", "unsized", "use",
    "virtual", "where", "while", "yield",
];

/// Names that generated code, its packages, cargo and file systems have for something else, in snake case.
#[rustfmt::skip]
const TAKEN: &[&str] = &[
    // Crates, folders and names that cargo refuses or reads, and names that are no files on Windows.
    "alloc", "anyhow", "aux", "bin", "build", "con", "core", "deps", "doc", "examples", "incremental", "nul", "pbjson",
    "prn", "proc_macro", "prost", "prost_types", "serde", "serde_json", "std", "test", "thiserror", "tonic", "tonic_prost",
    // Modules, programs, and packages of contracts.
    "buf", "command", "command_service", "commands", "contract", "contracts", "event", "generated", "google", "lib",
    "main", "millrace", "projector", "queries", "query", "query_service", "summary", "tests",
    // Rust's own types, and those of its prelude with all of their variants.
    "as_mut", "as_ref", "bool", "char", "clone", "copy", "debug", "default", "double_ended_iterator", "drop", "eq", "err",
    "exact_size_iterator", "extend", "fn_mut", "fn_once", "from", "from_iterator", "future", "hash", "into",
    "into_future", "into_iterator", "isize", "iterator", "none", "ok", "option", "ord", "partial_eq", "partial_ord",
    "result", "send", "sized", "some", "str", "string", "sync", "to_owned", "to_string", "try_from", "try_into", "unpin",
    "usize", "vec",
    // Types of the templates, and names that make one of these with an ending: `EvolveError`, `correlation_id`.
    "aggregate", "aggregate_type", "append_events", "application", "batch", "call", "change", "command_handler", "context",
    "correlation", "decode_error", "deployable", "deserialize", "events", "evolve", "evolve_error", "exit_code",
    "index_value", "invalid", "messages", "not_registered", "os_string", "page", "patch", "program", "projection",
    "projection_name", "recorded", "registration_error", "rejection", "reply", "request", "row", "rows", "running",
    "screen", "serialize", "snapshots", "status", "timestamp", "title", "versioned",
];

impl Name {
    /// Parses a name as typed.
    pub(crate) fn parse(text: &str) -> Result<Self, NameError> {
        // A word of one letter would merge with the next: `AB` is `ab` in snake case. Types of aggregates have no digits.
        let is_word = |word: &str| word.len() >= 2 && word.bytes().all(|b| b.is_ascii_lowercase());
        let is_well_formed = text.len() <= 24 && text.split('-').all(is_word);
        let name = Self(text.to_owned());
        match name.snake().as_str() {
            _ if !is_well_formed => Err(NameError::Malformed(text.to_owned())),
            snake if KEYWORDS.contains(&snake) => Err(NameError::Keyword(text.to_owned())),
            snake if TAKEN.contains(&snake) || snake.starts_with("millrace_") => {
                Err(NameError::Taken(text.to_owned()))
            }
            _ => Ok(name),
        }
    }

    /// `gift_card`: modules, fields, files.
    pub(crate) fn snake(&self) -> String {
        self.0.replace('-', "_")
    }

    /// `GiftCard`: types.
    pub(crate) fn pascal(&self) -> String {
        let words = self.0.split('-').map(|word| {
            let mut letters = word.chars();
            letters
                .next()
                .map(|first| first.to_ascii_uppercase())
                .into_iter()
                .chain(letters)
                .collect::<String>()
        });
        words.collect()
    }
}

/// `gift-card`: packages, tables, aggregate types.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_its_forms() {
        let name = Name::parse("gift-card").unwrap();
        let forms = [name.to_string(), name.snake(), name.pascal()];
        assert_eq!(forms, ["gift-card", "gift_card", "GiftCard"]);
    }

    #[test]
    fn a_name_that_is_no_identifier_is_refused() {
        for text in [
            "",
            "x",
            "Gift",
            "gift_card",
            "1st",
            "loan-2",
            "gift2",
            "a-b",
            "gift-x",
            "-a",
            "a-",
            "a--b",
            "a b",
            "ä",
            "a-name-that-is-far-too-long",
        ] {
            assert_eq!(Name::parse(text), Err(NameError::Malformed(text.to_owned())));
        }
        for text in KEYWORDS.iter().filter(|word| word.len() > 1) {
            assert_eq!(Name::parse(text), Err(NameError::Keyword((*text).to_owned())));
        }
        for text in TAKEN.iter().map(|word| word.replace('_', "-")) {
            assert_eq!(Name::parse(&text), Err(NameError::Taken(text.clone())));
        }
    }
}
