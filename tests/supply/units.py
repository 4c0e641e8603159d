"""Crates that are compiled more than once, because the commands of a day ask for different features of them.

A crate that two commands need in two forms is compiled twice, and both forms stay: minutes for the SDKs. Cargo tells what
it would compile for a command (its unit graph), so nothing is compiled here.
"""

import collections
import copy
import functools
import hashlib
import json
import os
import pathlib
import subprocess
import sys

PROGRAMS = tuple(f"--package={name}" for name in ("command-service", "projector", "query-service", "millrace-features"))
# The commands of a newcomer, of CI, and of the tests themselves.
COMMANDS = (
    ("build",),
    ("test", "--workspace"),
    ("build", *PROGRAMS),
    ("build", *PROGRAMS, "--package=millrace-es-tool"),
)
PATIENCE = 300.0
ROOT = pathlib.Path(__file__).resolve().parents[2]

# A library: its package and its name.
Library = tuple[str, str]


def graph(command: tuple[str, ...], folder: pathlib.Path = ROOT) -> dict:
    """The units that cargo would compile for a command in a folder."""
    # Unit graphs are for nightly toolchains otherwise.
    environment = {**os.environ, "RUSTC_BOOTSTRAP": "1"}
    asked = ["cargo", *command, "--locked", "-Z", "unstable-options", "--unit-graph"]
    done = subprocess.run(asked, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=True)
    return json.loads(done.stdout)


def forms(graph: dict) -> dict[Library, dict[str, str]]:
    """The libraries that are compiled, each in its forms: a form's distinguishing settings, and its own part of them.

    A form differs from another by features, by profile, and by the form of anything that it depends on.
    """
    units = graph["units"]

    @functools.cache
    def own(index: int) -> str:
        unit = units[index]
        profile = {key: value for key, value in unit["profile"].items() if key != "name"}
        return json.dumps([sorted(unit["features"]), profile], sort_keys=True)

    @functools.cache
    def whole(index: int) -> str:
        below = sorted(whole(each["index"]) for each in units[index]["dependencies"])
        name = f"{units[index]['pkg_id']} {units[index]['mode']}"
        return hashlib.sha256(json.dumps([name, own(index), below]).encode()).hexdigest()

    found: dict[Library, dict[str, str]] = collections.defaultdict(dict)
    for index, unit in enumerate(units):
        kinds = unit["target"]["kind"]
        if unit["mode"] == "build" and not {"bin", "custom-build", "example"} & set(kinds):
            found[unit["pkg_id"], unit["target"]["name"]][whole(index)] = own(index)
    return found


def short(package: str) -> str:
    """`registry+https://…#aws-config@1.8.0` is `aws-config@1.8.0`."""
    return package.rsplit("#", 1)[-1].rsplit("/", 1)[-1]


def differences(own: set[str]) -> list[str]:
    """The settings in which a library's forms differ."""
    read = [json.loads(each) for each in own]
    features = [set(each[0]) for each in read]
    said = sorted(set.union(*features) - set.intersection(*features))
    for key in read[0][1]:
        if len({json.dumps(each[1].get(key)) for each in read}) > 1:
            said.append(f"its {key}")
    return said


def united(graphs: list[dict]) -> dict[str, list[str]]:
    """The libraries that all commands together compile more than once, each with the settings in which its forms
    differ; none that merely depends on such."""
    forms_of = collections.defaultdict(dict)
    for each in graphs:
        for library, found in forms(each).items():
            forms_of[library] |= found
    several = {library: set(found.values()) for library, found in forms_of.items() if len(found) > 1}
    return {short(package): differences(own) for (package, _), own in sorted(several.items())}


def complaints(graphs: list[dict]) -> list[str]:
    """The libraries that are compiled more than once. One that merely depends on such is not named."""
    return [
        f"{name} is compiled more than once, since commands do not agree on {', '.join(said)}: see crates/features"
        for name, said in united(graphs).items()
        if said
    ]


def unseen(graphs: list[dict]) -> list[str]:
    """The ways to compile something twice that are not found."""
    other = copy.deepcopy(graphs[0])
    unit = next(unit for unit in other["units"] if unit["mode"] == "build" and unit["target"]["name"] == "bytes")
    missed = []
    for name, change in (("another feature", {"features": ["x"]}), ("another profile", {"profile": {"opt_level": "3"}})):
        before = {key: unit[key] for key in change}
        unit.update(change)
        if not complaints([graphs[0], other]):
            missed.append(f"units: {name}")
        unit.update(before)
    return missed


def main(folders: list[str]) -> int:
    """Prints the packages compiled more than once by the workspace and by applications in other folders; fails where a
    package of others is. Ours are, since an application's profile takes them for packages of others."""
    graphs = [graph(command) for command in COMMANDS]
    graphs += [graph(command, pathlib.Path(folder)) for folder in folders for command in (("build",), ("test",))]
    forms_of = united(graphs)
    for name, said in forms_of.items():
        if said:
            print(f"{name}: {', '.join(said)}"[:240])
    print(f"{len(forms_of)} libraries are compiled more than once")
    return int(any(said and not name.startswith("millrace-") for name, said in forms_of.items()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
