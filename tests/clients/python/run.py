#!/usr/bin/env python3
"""Millrace as a client in another language meets it: contracts, rules, servers.

    python tests/clients/python/run.py                    all of it, against a local stack of its own
    python tests/clients/python/run.py annotations        the rules alone, which needs no server
    COMMAND_ADDR=… QUERY_ADDR=… PROJECTOR_ADDR=… python tests/clients/python/run.py walk verdicts
                                                          against servers that run already

Needs Python 3.10 or newer. Its packages and generated code stay under `target/` (or `$CARGO_TARGET_DIR`).
"""

import argparse
import os
import sys

import environment
from report import Report

PARTS = ("annotations", "walk", "verdicts")
ADDRESSES = ("COMMAND_ADDR", "QUERY_ADDR", "PROJECTOR_ADDR")


def arguments() -> argparse.Namespace:
    """The command line; an address that is not named there comes from the environment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"what to run, of {', '.join(PARTS)} [default: all]")
    for name in ADDRESSES:
        option = "--" + name.lower().replace("_", "-")
        parser.add_argument(option, dest=name, default=os.environ.get(name), help=f"host:port [env: {name}]")
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    given.parts = given.parts or list(PARTS)
    named = [name for name in ADDRESSES if getattr(given, name)]
    if 0 < len(named) < len(ADDRESSES):
        parser.error("name all three addresses, or none to have a local stack started")
    return given


def main() -> int:
    given = arguments()
    environment.enter()
    with environment.stubs():
        # Only now can these be imported: they need the packages and the stubs.
        import annotations
        import stack
        import verdicts
        import walk

        report = Report()
        if "annotations" in given.parts:
            annotations.run(report)
        if set(given.parts) & {"walk", "verdicts"}:
            with stack.running(*(getattr(given, name) for name in ADDRESSES)) as addresses:
                if "walk" in given.parts:
                    walk.run(report, addresses)
                if "verdicts" in given.parts:
                    verdicts.run(report, addresses)
        return report.close()


if __name__ == "__main__":
    sys.exit(main())
