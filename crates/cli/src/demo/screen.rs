//! The output of a walk.

use std::{env, io::IsTerminal, time::Duration};

use prost::Message;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::shown::{self, Contracts, Shown};
use crate::{running::Item, stdout::print};

/// Prints a walk's steps: on a terminal in colour, unless NO_COLOR is set (no-color.org).
#[derive(Debug)]
pub struct Screen {
    contracts: Contracts,
    colour: bool,
    steps: u32,
    /// Whether a step has only its title so far.
    begun: bool,
}

#[derive(Clone, Copy)]
enum Style {
    Bold,
    Dim,
    Green,
}

impl Screen {
    /// A screen that shows the messages of these contracts, an encoded `FileDescriptorSet`.
    ///
    /// # Errors
    /// If the contracts cannot be read.
    pub fn new(contracts: &[u8]) -> anyhow::Result<Self> {
        Ok(Self { contracts: Contracts::read(contracts)?, colour: has_colour(), steps: 0, begun: false })
    }

    /// Begins the next step.
    ///
    /// # Errors
    /// If it cannot be printed.
    pub fn step(&mut self, title: &str) -> anyhow::Result<()> {
        self.steps += 1;
        self.begun = true;
        let title = format!("{}  {title}", self.steps);
        print(&format!("\n{}\n", self.styled(Style::Bold, &title)))
    }

    /// Prints a remark about the next step.
    ///
    /// # Errors
    /// If it cannot be printed.
    pub fn note(&mut self, text: &str) -> anyhow::Result<()> {
        let space = if std::mem::take(&mut self.begun) { "" } else { "\n" };
        print(&format!("{space}   {}\n", self.styled(Style::Dim, text)))
    }

    /// A call of `method`, named `package.Service/Method`.
    ///
    /// # Errors
    /// If it cannot be printed.
    pub fn request(&self, method: &str, request: &impl Message) -> anyhow::Result<()> {
        self.title(method, "")?;
        self.body("→", &self.contracts.request(method, request)?)
    }

    /// Prints the reply.
    ///
    /// # Errors
    /// If it cannot be printed.
    pub fn reply(&self, method: &str, reply: &impl Message) -> anyhow::Result<()> {
        self.body("←", &self.contracts.reply(method, reply)?)
    }

    /// The reply to a query that was sent when its command had been answered.
    ///
    /// # Errors
    /// If it cannot be printed.
    pub fn readable(&self, method: &str, reply: &impl Message, lag: Duration) -> anyhow::Result<()> {
        self.title(method, &self.styled(Style::Green, &format!("readable after {} ms", lag.as_millis())))?;
        self.reply(method, reply)
    }

    /// The status of a call that was refused, with its details.
    ///
    /// # Errors
    /// If it cannot be printed.
    pub fn refusal(&self, status: &Status) -> anyhow::Result<()> {
        let details = status.get_error_details();
        let mut lines = Vec::new();
        if let Some(info) = details.error_info() {
            lines.push(info.reason.clone());
        }
        for violation in details.bad_request().iter().flat_map(|bad| &bad.field_violations) {
            lines.push(format!("{:<18}  {}", violation.field, violation.description));
        }
        for violation in details.precondition_failure().iter().flat_map(|failure| &failure.violations) {
            lines.push(format!("{}  {}", violation.r#type, violation.subject));
        }
        let mut text = format!("   ← {}  {}\n", code_name(status.code()), status.message());
        for line in lines {
            text += &format!("       {line}\n");
        }
        print(&text)
    }

    /// An event as stored.
    ///
    /// # Errors
    /// If it cannot be printed.
    pub fn stored_event(&self, item: Item) -> anyhow::Result<()> {
        self.body(" ", &shown::event(item)?)
    }

    /// Names and values, below each other.
    pub(crate) fn table(&self, rows: &[(String, String)]) -> anyhow::Result<()> {
        let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        let lines = rows.iter().map(|(name, value)| format!("   {name:<width$}  {value}\n"));
        print(&lines.collect::<String>())
    }

    fn title(&self, method: &str, aside: &str) -> anyhow::Result<()> {
        let (_, name) = method.rsplit_once('/').unwrap_or(("", method));
        print(&format!("   {}\n", format!("{}  {aside}", self.styled(Style::Bold, name)).trim_end()))
    }

    fn body(&self, arrow: &str, shown: &Shown) -> anyhow::Result<()> {
        let mut text = String::new();
        for (number, line) in shown.lines().iter().enumerate() {
            let arrow = if number == 0 { arrow } else { " " };
            text += &format!("   {arrow} {line}\n");
        }
        print(&text)
    }

    fn styled(&self, style: Style, text: &str) -> String {
        if self.colour { styled(style, text) } else { text.to_owned() }
    }
}

fn has_colour() -> bool {
    let unwanted = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    std::io::stdout().is_terminal() && !unwanted
}

fn styled(style: Style, text: &str) -> String {
    let code = match style {
        Style::Bold => 1,
        Style::Dim => 2,
        Style::Green => 32,
    };
    format!("\u{1b}[{code}m{text}\u{1b}[0m")
}

/// The last words.
pub(super) fn end(text: &str) -> anyhow::Result<()> {
    let text = if has_colour() { styled(Style::Green, text) } else { text.to_owned() };
    print(&format!("\n{text}\n"))
}

/// The code as gRPC writes it: `NOT_FOUND`.
pub(super) fn code_name(code: Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_named_as_grpc_names_them() {
        assert_eq!(code_name(Code::InvalidArgument), "INVALID_ARGUMENT");
        assert_eq!(code_name(Code::NotFound), "NOT_FOUND");
        assert_eq!(code_name(Code::Ok), "OK");
    }
}
