#!/usr/bin/env python3
"""Holds the documentation against the tree that it is about.

    python .ci/docs.py --programs target/debug

Every page in the tree: files and headings that it links to exist. README.md and docs/: each code block is checked by
its language, and a block of another language is refused. Tables of the reference: they are those of the programs. Every
library crate: its front page has an example that compiles. `--programs` is the directory of the deployables.

Blocks of Rust are compiled: those of README.md by the tests of tests/src/lib.rs, the others by the step `application`.
"""

import argparse
import html
import json
import pathlib
import re
import subprocess
import sys
import textwrap
import xml.etree.ElementTree

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests/manifests"))
from programs import DEPLOYABLES, OF_EVERYBODY, Programs  # noqa: E402

# The pages with commands: the place where CI runs them, and those that are only read here, with the reason.
COMMANDS = {
    "README.md": ("the steps `demo` and `tests`", ""),
    "docs/tutorial/README.md": ("the step `application`", "cargo install, cargo doc: slow; grpcurl: a program in Go"),
    "docs/how-to/call-from-other-languages.md": (
        "tests/clients/python, by the page's own command",
        "Go, Java, TypeScript: each needs its tools, and protoc",
    ),
    "docs/how-it-works/tests-and-models.md": ("the steps `tests`, `busy` and `fuzz`, with other numbers", ""),
    "docs/measured.md": ("", "an hour; the step `bench` runs it with --quick"),
    "docs/operations/deploy.md": (
        "here: those of the AWS CLI, with an `aws` that notes its calls",
        "docker, kind, kubectl: they need a cluster, and an image's registry",
    ),
    "docs/operations/audit-and-redrive.md": ("", "dead letters are needed; tests/e2e/redrive.rs has the same flags"),
    "docs/operations/tls-and-callers.md": ("", "grpcurl, kubectl: they need a cluster"),
    "docs/operations/upgrade.md": ("", "kubectl: it needs a cluster"),
    "docs/reference/logs-and-traces.md": ("", "docker: Jaeger is somebody else's image"),
}
# Pages whose blocks of Rust go into an application that is made for it: `.ci/how_to.py`, and the tutorial's own tests.
IN_AN_APPLICATION = ("docs/how-to/change-an-application.md", "docs/tutorial/README.md")

MAX_LINES, MAX_BYTES = {"README.md": 150}, {"ARCHITECTURE.md": 16 * 1024}


def tracked(*patterns: str) -> list[str]:
    """The files of the tree with names such as these."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [name for name in names if (ROOT / name).is_file()]


def text(*patterns: str) -> str:
    return "\n".join((ROOT / name).read_text(errors="replace") for name in tracked(*patterns))


def prose(page: str) -> str:
    """A page without its code blocks and code spans."""
    return re.sub(r"`[^`\n]+`", "", re.sub(r"(?ms)^ *```.*?^ *```$", "", page))


def anchors(page: str) -> set[str]:
    """The anchors of a page's headings, as GitHub and mdBook make them."""
    found: dict[str, int] = {}
    for heading in re.findall(r"(?m)^#+ +(.+?)\s*$", re.sub(r"(?ms)^ *```.*?^ *```$", "", page)):
        heading = html.unescape(re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading))
        anchor = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        found[anchor] = found.get(anchor, -1) + 1
    return {anchor + (f"-{n}" if n else "") for anchor, last in found.items() for n in range(last + 1)}


def dead_links(name: str):
    page = (ROOT / name).read_text()
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        if not target.exists():
            yield f"{name}: {link}: no such file"
        elif anchor and (target.suffix != ".md" or anchor not in anchors(target.read_text())):
            yield f"{name}: {link}: no such heading"


class Truth:
    """The names in the tree that blocks are held against."""

    def __init__(self) -> None:
        self.roots = {name.split("/")[0] for name in tracked() if "/" in name}
        self.sources = text("*.rs", "*.py", "*.js", ".ci/run", "crates/tool/templates/*")
        self.packages = set(re.findall(r'(?m)^name = "([\w-]+)"$', text("*Cargo.toml")))
        self.targets = set(re.findall(r"(?m)^FROM \S+ AS (\S+)$", (ROOT / "Dockerfile").read_text()))
        self.parameters = set(re.findall(r"(?m)^  (\w+):$", text("infra/*.yaml")))
        # By the table of the program, and by the tool's kinds of `new`.
        table = re.findall(r"(?m)^//! \| (`.*?) \|", text("crates/cli/src/lib.rs"))
        self.commands = set(re.findall(r"`(\w+)`", " ".join(table)))
        made = re.search(r"enum New \{(.*?)^\}", text("crates/tool/src/main.rs"), re.M | re.S)[1]
        self.commands |= {name.lower() for name in re.findall(r"(?m)^    (\w+) \{", made)}
        # Services with their methods; of the tutorial's application, by the templates that it is made from.
        contracts = text("proto/*.proto")
        for app, aggregate in (("todo", "task"), ("todo", "project")):
            made = text("crates/tool/templates/*.proto").replace("{{app_snake}}", app)
            contracts += made.replace("{{Agg}}", aggregate.title()).replace("{{Aggs}}", f"{aggregate.title()}s")
        self.methods = set(re.findall(r"\brpc (\w+)\(", contracts))
        self.services = set(re.findall(r"\bservice (\w+) \{", contracts))

    def shell(self, block: str):
        done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, check=False)
        if done.returncode:
            yield done.stderr.strip()
        for path in re.findall(r"(?<![\w./:@$-])([\w.-]+(?:/[\w.-]+)+)", block):
            if path.split("/")[0] in self.roots and not (ROOT / path).exists():
                yield f"{path}: no such file"
        for package in re.findall(r"(?:-p|--package) (\S+)", re.sub(r"docker run.*", "", block)):
            if package not in self.packages:
                yield f"{package}: no such package"
        for target in re.findall(r"docker build --target (\S+)", block):
            if target not in self.targets:
                yield f"{target}: no such target in the Dockerfile"
        for service, method in re.findall(r"\b[\w.]+\.v\d\.(\w+)/(\w+)", block):
            if service not in self.services or method not in self.methods:
                yield f"{service}/{method}: no such method"
        for variable in re.findall(r"(?m)^([A-Z_]+)=\S* +\w", block):
            if not re.search(rf"\b{variable}\b", self.sources) and variable != "PATH":
                yield f"{variable}: no such variable"
        for parameter in re.findall(r'(?m)^ +"?([A-Z]\w+)=', block):
            if parameter not in self.parameters:
                yield f"{parameter}: no such parameter of the templates"
        for words in re.findall(r"cargo[ ]run -- ([a-z]+)|projector ([a-z]+) -|millrace new ([a-z]+)", block):
            if not self.commands.issuperset(word for word in words if word):
                yield f"{' '.join(words).strip()}: no such command"

    def words(self, block: str):
        """Pictures, and the output of programs: some source names each field."""
        for field in re.findall(r"(?<!\w)([a-z_]+)=", block):
            if not re.search(rf"\b{field}\b", self.sources):
                yield f"{field}=: nothing prints such a field"
        if "──gRPC──>" in block and block not in (ROOT / "ARCHITECTURE.md").read_text():
            yield "the picture is not that of ARCHITECTURE.md"

    def json(self, block: str):
        try:
            json.loads(block)
        except ValueError as error:
            yield str(error)

    def yaml(self, block: str):
        variables = (ROOT / "docs/reference/configuration.md").read_text()
        try:
            for name in re.findall(r"name: ([A-Z_]+),", json.dumps(yaml.safe_load(block)).replace('"', "")):
                if f"`{name}`" not in variables:
                    yield f"{name}: no such variable"
        except yaml.YAMLError as error:
            yield str(error)

    def xml(self, block: str):
        try:
            xml.etree.ElementTree.fromstring(f"<all>{block}</all>")
        except xml.etree.ElementTree.ParseError as error:
            yield str(error)

    def rust(self, name: str, block: str):
        if name in IN_AN_APPLICATION:
            aggregate = (ROOT / "crates/tool/templates/aggregate/aggregate.rs").read_text().replace("{{Agg}}", "Task")
            if "tutorial" in name and block.strip() not in aggregate:
                yield "a new application has no such line"
        elif f'include_str!("../../{name}")' not in (ROOT / "tests/src/lib.rs").read_text():
            yield "tests/src/lib.rs does not compile the page's blocks"


def bad_blocks(name: str, truth: Truth):
    page = (ROOT / name).read_text()
    for block in re.finditer(r"(?ms)^( *)```(.*?)\n(.*?)^ *```$", page):
        place = f"{name}:{page[: block.start()].count(chr(10)) + 1}"
        language, code = block[2], block[3] if block[2] == "text" else textwrap.dedent(block[3])
        checks = {"sh": truth.shell, "text": truth.words}
        checks |= {"json": truth.json, "yaml": truth.yaml, "xml": truth.xml}
        if language == "rust":
            found = truth.rust(name, code)
        elif language in checks:
            found = checks[language](code)
        else:
            found = [f"nothing checks blocks of `{language}`: name one of {', '.join(checks)}, rust"]
        yield from (f"{place}: {complaint}" for complaint in found)


def unlisted_commands(pages: list[str]):
    """Of pages with commands nobody says where they are run, or the other way round."""
    with_commands = {name for name in pages if re.search(r"(?m)^ *```sh$", (ROOT / name).read_text())}
    yield from (f".ci/docs.py: COMMANDS and {name} disagree" for name in sorted(with_commands ^ set(COMMANDS)))


def wrong_deployment():
    """The loops of the page about deploying make every stack, the data first, and delete the others in reverse."""
    page = (ROOT / "docs/operations/deploy.md").read_text()
    blocks = [block for block in re.findall(r"(?ms)^```sh\n(.*?)^```$", page) if "aws cloudformation" in block]
    script = "\n".join(["set -eu", 'aws() { echo "$2" "$4"; }', *blocks])
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    calls = [line.split() for line in done.stdout.splitlines()]
    made = [stack for call, stack in calls if call == "deploy"]
    templates = [(ROOT / name).read_text() for name in tracked("infra/*.yaml")]
    if done.returncode or len(made) != sum("AWSTemplateFormatVersion" in body for body in templates):
        yield f"docs/operations/deploy.md makes the stacks {made}: {done.stderr}"
    if made[:2] != ["shop-data", "shop-application"] or [stack for call, stack in calls if call == "delete-stack"] != made[::-1]:
        yield f"docs/operations/deploy.md: {calls}"


def wrong_variables(programs: Programs):
    """The reference's variables, against those of the deployables, with their defaults."""
    page = (ROOT / "docs/reference/configuration.md").read_text()
    named = set(re.findall(r"`([A-Z][A-Z0-9_]+)`", page))
    known = {variable for program in DEPLOYABLES for variable in programs.variables(program)} - OF_EVERYBODY
    other = text("crates/*.rs")
    yield from (f"docs/reference/configuration.md does not name {variable}" for variable in sorted(known - named))
    for variable in sorted(named - known - OF_EVERYBODY):
        if f'"{variable}"' not in other:
            yield f"docs/reference/configuration.md names {variable}, which no deployable knows"
    defaults = {
        found
        for program in DEPLOYABLES
        for found in re.findall(r"\[env: ([A-Z0-9_]+)=?\]\s*\[default: ([\w.:]+)\]", programs.help(program))
    }
    for variable, default in sorted(defaults):
        cell = re.search(rf"(?m)^\| [^|\n]*`{variable}`[^|\n]*\| ([^|\n]*) \|", page)
        words = re.sub(r"(\d+) MiB", lambda size: str(int(size[1]) << 20), cell[1] if cell else "")
        port = default.rpartition(":")[2]
        if port not in re.findall(r"[\w.]+", words):
            yield f"docs/reference/configuration.md: the default of {variable} is {default}"


def wrong_tables():
    """The tables of errors and of the bus, against the one that a test of the server goes through, and the envelope."""
    page = (ROOT / "docs/reference/errors.md").read_text()
    named = {
        (code, reason)
        for code, details in re.findall(r"(?m)^\| [^|]+ \| ([A-Z_]+) \| ([^|]*) \|$", page)
        for reason in re.findall(r"\b[A-Z]+(?:_[A-Z]+)*\b", details.partition("ErrorInfo")[2])
        if len(reason) > 3
    }
    rows = re.findall(r', (\w+),\s*Some\("([A-Z_]+)"\)', text("crates/server/src/failure.rs"))
    # Two of its rows are of no application.
    given = {(re.sub(r"(?<!^)(?=[A-Z])", "_", code).upper(), reason) for code, reason in rows}
    given -= {("UNIMPLEMENTED", "INDEX_OFF"), ("ALREADY_EXISTS", "STOCK_UNIT_TAKEN")}
    given |= {("UNIMPLEMENTED", reason) for reason in re.findall(r'reason: "(\w+)"', text("crates/query/src/*.rs"))}
    for code, reason in sorted(given ^ named):
        fault = "has, and no call gives" if (code, reason) in named else "does not have"
        yield f"docs/reference/errors.md {fault} {code} {reason}"

    page = (ROOT / "docs/reference/events-on-the-bus.md").read_text()
    table = re.findall(r"(?m)^\| (`.+?) \|", page)
    named = {field for cell in table for field in re.findall(r"`(\w+)`", cell)}
    fields = re.findall(r"(?m)^    pub (\w+):", text("crates/core/src/envelope.rs"))
    given = {field.title().replace("_", "") for field in fields} | {"EventDataOmitted"}
    yield from (f"docs/reference/events-on-the-bus.md: {field}" for field in sorted(given ^ named))


def pages_without_example():
    for manifest in tracked("crates/*/Cargo.toml", "proto/Cargo.toml"):
        folder = (ROOT / manifest).parent
        library = folder / "src/lib.rs"
        if not library.exists() or 'name = "millrace-es-' not in (ROOT / manifest).read_text():
            continue
        front = "\n".join(line for line in library.read_text().splitlines() if line.startswith("//!"))
        if 'include_str!("../README.md")' in library.read_text():
            front = (folder / "README.md").read_text()
        opened = re.findall(r"(?ms)^(?://! )?```(.*?)$.*?```$", front)
        if not any(set(words.split(",")) <= {"", "rust", "no_run"} for words in opened):
            yield f"{library.relative_to(ROOT)}: the crate's front page has no example that compiles"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", required=True, type=pathlib.Path, help="where the deployables' programs are")
    given = parser.parse_args()
    truth = Truth()
    pages = [name for name in tracked("*.md") if not name.startswith("crates/tool/templates/")]
    book = [name for name in pages if name == "README.md" or name.startswith("docs/")]
    summary = (ROOT / "docs/SUMMARY.md").read_text()
    complaints = [complaint for name in pages for complaint in dead_links(name)]
    complaints += [complaint for name in book for complaint in bad_blocks(name, truth)]
    complaints += [
        f"docs/SUMMARY.md does not have {name}"
        for name in book
        if name not in ("README.md", "docs/SUMMARY.md") and f"({name.removeprefix('docs/')})" not in summary
    ]
    complaints += [*unlisted_commands(book), *wrong_deployment()]
    complaints += [*wrong_variables(Programs(given.programs)), *wrong_tables(), *pages_without_example()]
    for name, most in MAX_LINES.items():
        if (lines := len((ROOT / name).read_text().splitlines())) > most:
            complaints.append(f"{name} has {lines} lines, more than {most}")
    for name, most in MAX_BYTES.items():
        if (size := (ROOT / name).stat().st_size) > most:
            complaints.append(f"{name} has {size} bytes, more than {most}")
    for complaint in complaints:
        print(complaint)
    print(f"{len(pages)} pages, {len(complaints)} complaints. Read and not run:")
    print("\n".join(f"  {name}: {why}" for name, (_, why) in COMMANDS.items() if why))
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
