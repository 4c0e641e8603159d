#!/usr/bin/env python3
"""Holds that the library knows no application: nothing in it names the example's users, orders or customers.

    python3 .ci/library_names.py

Examples in comments and in the front pages of crates may, and so may texts in tests, whose applications are made up.
"""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
LIBRARY = ("crates", "proto/millrace", "proto/src", "proto/build.rs")
NAMES = re.compile(
    r"\b(User|Order|Customer)([A-Z]\w*)?\b"
    r"|\b(by_)?(user|order|customer)s?_(?!by\b|agent\b)\w+|\bby_(user|order|customer)s?\b"
    r"|\b(user|order|customer)s?-\w+"
    r"|\"(user|order|customer)s?[\".]"
    r"|\bshop\b(?!\.example)|\bEMAIL_TAKEN\b"
)
# Users of the local AWS, sort orders, and an order in a test of the derive.
OTHERS = re.compile(r"\busers[_.]lock\b|\buser_process\b|\bfield\(\"order\"|\bstruct Order \{ id: Id\b")
# Tests whose made-up application is called `shop` in their code as well.
ALLOWED = ("crates/infra/tests/templates/",)


def code(name: str, text: str) -> list[str]:
    """The lines without their comments, and in tests without the texts in quotes."""
    if not name.endswith((".rs", ".proto")):
        return [OTHERS.sub("", re.sub(r"(^|\s)#.*", "", line)) for line in text.splitlines()]
    is_test = re.search(r"/(tests|contract)(/|\.rs$)|/testing/", name) is not None
    lines = []
    for line in text.splitlines():
        is_test = is_test or line.startswith("#[cfg(test)]")
        line = OTHERS.sub("", re.sub(r"(^|\s)//.*", "", line))
        lines.append(re.sub(r'"(\\.|[^"\\])*"?', '""', line) if is_test else line)
    return lines


# Lines that must be found, and lines that must not be, in product code of Rust.
BROKEN = ("let id: UserId = x;", 'const TABLE: &str = "order-summaries";', "use shop::shop;", "fn order_status() {}",
    "struct OrderShipped;", "fn by_user()", 'AggregateType::new("order")', '"user.email"')
FINE = ("// such as `order-summaries@1`", "/// `shop-events`", 'let name = "workshop";', "let border_status = 1;")


def finds(line: str) -> bool:
    return any(NAMES.search(each) for each in code("crates/x/src/lib.rs", line))


def main() -> int:
    wrong = [line for line in BROKEN if not finds(line)] + [line for line in FINE if finds(line)]
    for line in wrong:
        print(f"WRONG: {line}")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *LIBRARY]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    found = 0
    for name in names:
        path = ROOT / name
        if name.startswith(ALLOWED) or not path.is_file() or path.suffix not in (".rs", ".proto", ".py", ".toml"):
            continue
        for number, line in enumerate(code(name, path.read_text(errors="replace")), 1):
            if match := NAMES.search(line):
                print(f"{name}:{number}: the library names {match[0]}: {line.strip()}")
                found += 1
    print(f"{len(names)} files of the library, {found} lines that name what is an application's")
    return 1 if found or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
