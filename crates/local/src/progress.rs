//! Words to whoever waits.

use std::io::Write;

/// Says something on standard error. Nobody may be listening there any more: that must not end a program in
/// the midst of its work, as `eprintln!` would.
pub fn say(words: &str) {
    let _ = writeln!(std::io::stderr(), "{words}");
}
