#!/usr/bin/env python3
"""Millrace's dependencies: pinned, and listed.

    python3 tests/supply/run.py --programs target/debug

Every file of the repository that names packages, or calls cargo, is held against `pins.py`. The bills of materials of the
deployables, made anew, twice, are held against `bills.py`; `--programs` is the directory of the programs that they are
of. What cargo would compile for the commands of a day is held against `units.py`. Then each check is shown what is broken
in its way, and has to find it.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import bills
import pins
import units


def tree() -> dict[str, str]:
    """The texts of the checked files that git tracks or would add, by name."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=bills.ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    # Not this folder: it quotes broken cases.
    names = [name for name in names if pins.checks(name) or pathlib.PurePath(name).name in ("Cargo.toml", "package.json", "requirements.in")]
    paths = {name: bills.ROOT / name for name in names if not name.startswith("tests/supply/")}
    return {name: path.read_text() for name, path in paths.items() if path.is_file()}


def bill_of_each() -> dict[str, str]:
    """The bills of all deployables, as they are now."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["cargo", "run", "--quiet", "--locked", "--package", "millrace-sbom", "--", folder]
        subprocess.run(command, cwd=bills.ROOT, check=True)
        return {name: (pathlib.Path(folder) / f"{name}.cdx.json").read_text() for name in bills.DEPLOYABLES}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", required=True, type=pathlib.Path, help="where the deployables' programs are")
    given = parser.parse_args()
    files = tree()
    found = pins.complaints(files)
    print(f"pins: {len(files)} files, {len(found)} complaints")
    made, again, known = bill_of_each(), bill_of_each(), bills.facts(given.programs)
    for name, text in made.items():
        bill = json.loads(text)
        wrong = bills.complaints(name, bill, known)
        if text != again[name]:
            wrong.append("it is not the same twice")
        held = len(known.held[name])
        print(f"{name}: {len(bill['components'])} crates, {held} seen in the program, {len(wrong)} complaints")
        found += [f"{name}: {complaint}" for complaint in wrong]
    graphs = [units.graph(command) for command in units.COMMANDS]
    several = units.complaints(graphs)
    print(f"units: {sum(len(graph['units']) for graph in graphs)} over all commands, {len(several)} complaints")
    found += several
    for complaint in found:
        print(f"  {complaint}")
    unseen = units.unseen(graphs) + pins.unseen() + bills.unseen(json.loads(made["projector"]), known)
    for each in unseen:
        print(f"UNSEEN: no check finds this broken: {each}")
    return 1 if found or unseen else 0


if __name__ == "__main__":
    sys.exit(main())
