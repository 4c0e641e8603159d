//! Texts that people write: e-mail addresses, names, products.

use std::fmt;

use serde::{Deserialize, Serialize};

use millrace_core::{IndexValue, Invalid};

/// An e-mail address by the grammar of HTML's `<input type=email>` (WHATWG), at most 254 octets (RFC 5321), kept as it
/// was written.
///
/// The grammar is ASCII only, so that lower-casing is all that normalising takes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Email(String);

impl Email {
    /// The longest address, in characters.
    pub const MAX_LEN: usize = 254;

    /// The address as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The form under which addresses are compared and kept unique.
    pub fn normalised(&self) -> String {
        self.0.to_ascii_lowercase()
    }
}

/// Characters that the WHATWG grammar allows before the `@`, besides letters and digits.
const LOCAL_PUNCTUATION: &[u8] = b".!#$%&'*+/=?^_`{|}~-";

fn is_domain_label(label: &str) -> bool {
    let bytes = label.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
        && bytes.first() != Some(&b'-')
        && bytes.last() != Some(&b'-')
}

impl TryFrom<String> for Email {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        if text.chars().count() > Self::MAX_LEN {
            return Err(Invalid("must be at most 254 characters"));
        }
        let Some((local, domain)) = text.split_once('@') else {
            return Err(Invalid("must be an e-mail address"));
        };
        let local_ok = !local.is_empty()
            && local.bytes().all(|b| b.is_ascii_alphanumeric() || LOCAL_PUNCTUATION.contains(&b));
        if local_ok && domain.split('.').all(is_domain_label) {
            Ok(Self(text))
        } else {
            Err(Invalid("must be an e-mail address"))
        }
    }
}

impl From<Email> for String {
    fn from(email: Email) -> Self {
        email.0
    }
}

/// A debug print is a log line waiting to happen: an address never shows in one.
/// Addresses are found in whatever case they are written.
impl IndexValue for Email {
    fn index_value(&self) -> Option<String> {
        Some(self.normalised())
    }
}

impl fmt::Debug for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Email(…)")
    }
}

/// A line of text that people read, such as a name or a product: 1 to 200 characters, none of them a control character
/// (Unicode category Cc), not all of them spaces. Kept as it was written.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Label(String);

impl Label {
    /// The longest label, in characters.
    pub const MAX_LEN: usize = 200;

    /// The text as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Label {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        if text.is_empty() {
            Err(Invalid("must not be empty"))
        } else if text.chars().count() > Self::MAX_LEN {
            Err(Invalid("must be at most 200 characters"))
        } else if text.chars().any(char::is_control) {
            Err(Invalid("must not hold control characters"))
        } else if text.chars().all(|c| c == ' ') {
            Err(Invalid("must not be blank"))
        } else {
            Ok(Self(text))
        }
    }
}

impl From<Label> for String {
    fn from(label: Label) -> Self {
        label.0
    }
}

/// A name is personal data: it never shows in a debug print.
impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Label(…)")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn email(text: &str) -> Result<Email, Invalid> {
        Email::try_from(text.to_owned())
    }

    #[test]
    fn addresses_of_the_whatwg_grammar_are_taken_and_kept_as_written() {
        for text in ["john.doe@example.com", "A!#$%&'*+/=?^_`{|}~-.b@x", "a@b-c.d", ".@9"] {
            assert_eq!(email(text).unwrap().as_str(), text);
        }
        assert_eq!(email("John@Example.COM").unwrap().normalised(), "john@example.com");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let long_label = format!("a@{}", "b".repeat(64));
        let long = format!("a@{}", vec!["b".repeat(60); 5].join("."));
        for text in [
            "",
            "@",
            "a@",
            "@b",
            "a b@c",
            "a@b@c",
            "a@b..c",
            "a@-b",
            "a@b-",
            "ä@b",
            "a@ä",
            "a@b.",
            "a\0@b",
            &long_label,
            &long,
        ] {
            assert!(email(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_label_is_a_line_of_text() {
        for text in ["x", " x ", "名前", &"é".repeat(200)] {
            assert_eq!(Label::try_from(text.to_owned()).unwrap().as_str(), text);
        }
        for text in ["", " ", "a\nb", "\u{85}", "a\0", &"é".repeat(201)] {
            assert!(Label::try_from(text.to_owned()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn personal_data_never_shows_in_debug_prints() {
        let label = Label::try_from("John Doe".to_owned()).unwrap();
        let shown = format!("{:?} {label:?}", email("john@example.com").unwrap());
        assert!(!shown.to_lowercase().contains("john"), "{shown}");
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parsers_panic(text in ".*") {
            let _ = Email::try_from(text.clone());
            let _ = Label::try_from(text);
        }

        #[test]
        fn normalising_twice_changes_nothing(local in "[a-zA-Z0-9.+-]{1,20}", domain in "[a-zA-Z0-9]{1,20}") {
            let once = email(&format!("{local}@{domain}")).unwrap().normalised();
            prop_assert_eq!(email(&once).unwrap().normalised(), once);
        }
    }
}
