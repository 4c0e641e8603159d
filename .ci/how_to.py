#!/usr/bin/env python3
"""Follows docs/how-to/change-an-application.md in an application with the aggregates `rental` and `tool`.

    python .ci/how_to.py FOLDER

Every block of Rust of the page goes to its place as it stands there; the steps that the page tells in prose are here.
Then the tests of the folder compile all of it, and run those among it.
"""

import pathlib
import re
import sys

PAGE = pathlib.Path(__file__).resolve().parents[1] / "docs/how-to/change-an-application.md"

BORROWER = """
impl IndexValue for Borrower {
    fn index_value(&self) -> Option<String> {
        Some(self.0.clone())
    }
}
"""

DECIDE = """            (None, RentalCommand::Lend { .. }) => Err(RentalError::NotFound),
            (Some(Self { lent: true, .. }), RentalCommand::Lend { .. }) => Err(RentalError::Lent),
            (Some(_), RentalCommand::Lend { borrower }) => Ok(vec![RentalEvent::RentalLent(RentalLent { borrower })]),
"""

EVOLVE = """            (None, RentalEvent::RentalLent(_)) => Err(EvolveError("a rental is created before it is lent")),
            (Some(state), RentalEvent::RentalLent(_)) => Ok(Self { lent: true, ..state }),
"""

TESTS = """    fn borrower() -> Borrower {
        Borrower::try_from("Ann".to_owned()).unwrap()
    }

    fn lend() -> RentalCommand {
        RentalCommand::Lend { borrower: borrower() }
    }

    fn lent() -> RentalEvent {
        RentalEvent::RentalLent(RentalLent { borrower: borrower() })
    }

    #[test]
    fn one_is_lent_once() {
"""

CONVERSIONS = """
impl From<&RentalLent> for event::RentalLent {
    fn from(RentalLent { borrower }: &RentalLent) -> Self {
        Self { borrower: borrower.clone().into() }
    }
}

impl TryFrom<event::RentalLent> for RentalLent {
    type Error = DecodeError;

    fn try_from(message: event::RentalLent) -> Result<Self, DecodeError> {
        Ok(Self { borrower: field("borrower", Borrower::try_from(message.borrower))? })
    }
}
"""


class File:
    """A file that is changed; a place that it does not have ends the program."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path, self.text = path, path.read_text()

    def replace(self, pattern: str, new: str, count: int = 1) -> None:
        self.text, found = re.subn(pattern, lambda match: match.expand(new), self.text, count=count, flags=re.S)
        if not found:
            sys.exit(f"{self.path} has no {pattern}")

    def before(self, place: str, new: str) -> None:
        self.replace(re.escape(place), f"{escaped(new)}\\g<0>")

    def extend(self, line: str, attribute: str = "") -> None:
        """Adds to an enum or a struct what a line such as `pub enum X { …, Y }` has after the dots."""
        kind, more = re.fullmatch(r"(pub \w+ \w+) \{ …, (.*) \}", line).groups()
        self.replace(rf"({kind} \{{.*?)\n\}}", rf"\1\n    {escaped(attribute + more)},\n}}")

    def copy(self, pattern: str, renames: dict[str, str]) -> None:
        """Copies what is found, under other names."""
        found = re.search(pattern, self.text, re.S)
        if not found:
            sys.exit(f"{self.path} has no {pattern}")
        copied = found[0]
        for old, new in renames.items():
            copied = re.sub(old, new, copied, flags=re.S)
        self.text = self.text[: found.end()] + copied + self.text[found.end() :]

    def write(self) -> None:
        self.path.write_text(self.text)


def escaped(text: str) -> str:
    return text.replace("\\", "\\\\")


def domain(file: File, variants: str, tests: str, unique: str) -> None:
    for line in variants.splitlines():
        if "…" in line:
            file.extend(line, '#[error("the rental is lent")]\n    ' if "RentalError" in line else "")
        else:
            file.before("/// Why a command", f"#[derive(Debug, Clone, PartialEq, Eq)]\n{line}\n\n")
    file.copy(r"/// A title.*?(?=/// Where)", {"Title": "Borrower"})
    file.before("/// Where", BORROWER.lstrip() + "\n")
    file.before("            (None, RentalCommand::Close)", DECIDE)
    file.before("            (None, RentalEvent::RentalClosed", EVOLVE)
    file.before("            RentalError::Closed => ", "            RentalError::Lent => Self::Rule { "
                'kind: "RENTAL_LENT", description: error.to_string() },\n')
    file.replace(r"    status: Status,\n", "    status: Status,\n    lent: bool,\n    shelf_mark: u32,\n")
    file.replace(r"Ok\(Self \{ (status: \S+) \}\)", r"Ok(Self { \1, lent: false, shelf_mark: 0 })", count=2)
    file.replace(r"Some\(Self \{ (status: \S+) \}\)", r"Some(Self { \1, .. })", count=2)
    file.replace("STATE_SCHEMA: u32 = 1", "STATE_SCHEMA: u32 = 2")
    file.replace(r"Rejection, Timestamp\}", "Rejection, Timestamp, UniqueKey}")
    file.replace(r"(impl Aggregate for Rental \{.*?)\n\}", rf"\1\n\n{escaped(unique)}}}")
    file.before("    #[test]\n    fn one_is_closed", f"{TESTS}{tests}    }}\n\n")
    file.replace(r"assert_codec\(&\[created\(\), closed\(\)\]\)", "assert_codec(&[created(), closed(), lent()])")
    file.replace(r"status: Status::Closed,\n", "status: Status::Closed,\n            borrower: Some(borrower()),\n")
    file.replace(r"_>\(&\[created\(\), closed\(\)\]\)", "_>(&[created(), lent(), closed()])")
    file.replace(r"updated_at: time_of\(2\)", "updated_at: time_of(3)")


def contracts(events: File, commands: File, queries: File) -> None:
    events.copy(r"\n// One was closed\.\nmessage.*$", {"RentalClosed {": "RentalLent { string borrower = 1; "})
    commands.copy(r"  rpc CloseRental[^\n]*\n", {"Close": "Lend"})
    commands.copy(r"\n// One to close\..*$", {"Close": "Lend", r"(message LendRentalRequest \{)": r"\1 string borrower = 5;"})
    commands.replace(r"message CreateRentalRequest \{", r"\g<0> string tool_id = 4;")
    queries.replace(r"message RentalSummary \{", r"\g<0> optional string borrower = 7;")
    queries.copy(r"  rpc ListRentalsByStatus[^\n]*\n", {"ByStatus": "ByBorrower"})
    renames = {"ByStatus": "ByBorrower", r"RentalStatus status = 1 \[.*?\];": "string borrower = 1;"}
    queries.copy(r"\n// Asks for a page of those.*?(?=\n// Asks for the states)", renames)


def row(file: File, block: str) -> None:
    index, fields = block.splitlines()
    file.before("pub struct RentalSummary", f"{index}\n")
    file.extend(fields)
    file.replace(r"use super::\{", "use super::{Borrower, RentalLent, ")
    file.replace(r"status: Status::Open,\n", r"\g<0>borrower: None,\n")
    file.before("            RentalEvent::RentalClosed", "RentalEvent::RentalLent(RentalLent { borrower }) => Change::Update("
                "Patch::new().set(Self::BORROWER, Some(borrower.clone())).set(Self::UPDATED_AT, recorded.time)),\n")


def between(file: File) -> None:
    file.replace(r"use super::\{", "use super::{Borrower, RentalLent, ")
    file.replace("RentalClosed = 1,", r"\g<0> RentalLent = 1,")
    file.replace(r"CreateRentalRequest creates \(\);", "CreateRentalRequest creates (tool_id);\n    LendRentalRequest updates rental_id;")
    file.replace(r"CloseRentalRequest, ", r"\g<0>LendRentalRequest, ")
    file.replace(r"title: row.title.into\(\),", r"\g<0> borrower: row.borrower.map(Into::into),")
    file.text += CONVERSIONS


def services(commands: File, queries: File, lend: str, depending: str, listing: str) -> None:
    commands.replace(r"use super::\{", "use super::{Borrower, ")
    commands.replace(r"use crate::contracts", "use crate::tool::{Tool, ToolId};\n\\g<0>")
    commands.replace(r"\(CommandHandler<Rental, S>\)", "(CommandHandler<Rental, S>, CommandHandler<Tool, S>)")
    commands.replace(r"RentalCommands\(commands.of\(\)\?\)", "RentalCommands(commands.of()?, commands.of()?)")
    commands.replace(r"(Reply<CreateRentalResponse> \{).*?\n    \}\n", rf"\1\n{escaped(depending)}    }}\n\n{escaped(lend)}")
    queries.replace(r"use super::\{", "use super::{Borrower, ")
    renames = {"ByStatus": "ByBorrower", "by_status": "by_borrower", r"let list = .*?await\?;\n": escaped(listing)}
    queries.copy(r"\n    async fn list_rentals_by_status.*?\n    \}\n", renames)


def main() -> None:
    folder = pathlib.Path(sys.argv[1])
    variants, tests, indexed, lend, listing, unique, depending = re.findall(r"(?ms)^```rust\n(.*?)^```$", PAGE.read_text())
    [app] = (path.name for path in (folder / "proto").iterdir())
    of = {name: File(folder / "src/rental" / f"{name}.rs") for name in ("commands", "queries", "summary", "contract")}
    protos = [
        File(folder / "proto" / app / part)
        for part in ("event/v1/rental_events.proto", "command/v1/rental_command_service.proto", "query/v1/rental_query_service.proto")
    ]
    rental = File(folder / "src/rental.rs")
    domain(rental, variants, tests, unique)
    contracts(*protos)
    row(of["summary"], indexed)
    between(of["contract"])
    services(of["commands"], of["queries"], lend, depending, listing)
    for file in [rental, *of.values(), *protos]:
        file.write()


main()
