//! Progress messages.

use std::io::Write;

/// Prints a line on standard error. A closed standard error must not end a program in the midst of its work, as
/// `eprintln!` would.
pub fn say(words: &str) {
    let _ = writeln!(std::io::stderr(), "{words}");
}
