//! Names of applications, aggregates and projections, in the forms that files and code have for them.

use std::fmt;

/// A name in kebab case, such as `gift-card`, that is a Rust identifier in snake case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name(String);

/// Why a name is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NameError {
    #[error(
        "`{0}` has to be 2 to 24 of a-z, 0-9 and -, each word beginning with a letter, such as `gift-card`"
    )]
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

/// Names that generated code, its packages and cargo have for something else, in snake case.
#[rustfmt::skip]
const TAKEN: [&str; 71] = [
    // Crates, and names that cargo refuses.
    "alloc", "anyhow", "build", "core", "deps", "doc", "examples", "incremental", "pbjson", "proc_macro", "prost",
    "prost_types", "serde", "serde_json", "std", "test", "thiserror", "tonic", "tonic_prost",
    // Modules, programs, and packages of contracts.
    "buf", "command", "command_service", "commands", "contract", "contracts", "event", "generated", "google", "lib",
    "main", "millrace", "projector", "queries", "query", "query_service", "summary", "tests",
    // Types.
    "aggregate", "aggregate_type", "application", "batch", "change", "clone", "copy", "debug", "decode_error",
    "err", "evolve_error", "index_value", "invalid", "messages", "none", "ok", "option", "page", "patch", "projection", "projection_name",
    "recorded", "rejection", "reply", "request", "result", "row", "rows", "some", "status", "string", "timestamp", "title", "vec",
];

impl Name {
    /// Parses a name as typed.
    pub(crate) fn parse(text: &str) -> Result<Self, NameError> {
        let is_allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let is_word = |word: &str| word.starts_with(|first: char| first.is_ascii_lowercase());
        let is_well_formed =
            (2..=24).contains(&text.len()) && text.bytes().all(is_allowed) && text.split('-').all(is_word);
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

    /// `giftCard`: fields in JSON.
    pub(crate) fn camel(&self) -> String {
        let pascal = self.pascal();
        let mut letters = pascal.chars();
        letters.next().map(|first| first.to_ascii_lowercase()).into_iter().chain(letters).collect()
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
        let name = Name::parse("gift-card2").unwrap();
        let forms = [name.to_string(), name.snake(), name.pascal(), name.camel()];
        assert_eq!(forms, ["gift-card2", "gift_card2", "GiftCard2", "giftCard2"]);
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
        for text in TAKEN.map(|word| word.replace('_', "-")) {
            assert_eq!(Name::parse(&text), Err(NameError::Taken(text.clone())));
        }
    }
}
