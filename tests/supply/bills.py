"""Bills of materials, held against Cargo.lock, against cargo's own graph, and against the programs themselves."""

import copy
import dataclasses
import json
import pathlib
import re
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEPLOYABLES = ("command-service", "projector", "query-service")
Crate = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Facts:
    """Facts about crates from other sources."""

    # The checksum of each crate in Cargo.lock; None for ours.
    locked: dict[Crate, str | None]
    # The crates of each deployable by normal dependencies, macros apart, under any features.
    reached: dict[str, set[Crate]]
    # Of which crates each program holds the paths of sources, in its messages of panics.
    held: dict[str, set[Crate]]


def facts(programs: pathlib.Path) -> Facts:
    return Facts(
        locked=locked((ROOT / "Cargo.lock").read_text()),
        reached={name: reached(metadata(), name) for name in DEPLOYABLES},
        held={name: held((programs / name).read_bytes()) for name in DEPLOYABLES},
    )


def locked(text: str) -> dict[Crate, str | None]:
    found = {}
    for package in text.split("[[package]]")[1:]:
        value = dict(re.findall(r'(?m)^(name|version|checksum) = "(.*)"$', package))
        found[value["name"], value["version"]] = value.get("checksum")
    return found


def metadata() -> dict:
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", host()]
    return json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout)


def host() -> str:
    said = subprocess.run(["rustc", "--version", "--verbose"], capture_output=True, text=True, check=True).stdout
    return re.search(r"(?m)^host: (.*)$", said)[1]


def reached(known: dict, root: str) -> set[Crate]:
    packages = {package["id"]: package for package in known["packages"]}
    nodes = {node["id"]: node for node in known["resolve"]["nodes"]}
    left = [each["id"] for each in known["packages"] if each["name"] == root]
    seen = set(left)
    while left:
        for needed in nodes[left.pop()]["deps"]:
            target = packages[needed["pkg"]]
            is_macro = any("proc-macro" in each["kind"] for each in target["targets"])
            is_normal = any(kind["kind"] is None for kind in needed["dep_kinds"])
            if is_normal and not is_macro and needed["pkg"] not in seen:
                seen.add(needed["pkg"])
                left.append(needed["pkg"])
    return {(packages[each]["name"], packages[each]["version"]) for each in seen}


def held(program: bytes) -> set[Crate]:
    found = re.findall(rb"/registry/src/[^/\s]+/([A-Za-z0-9_-]+?)-(\d+\.\d+\.\d+[A-Za-z0-9.+-]*)/", program)
    return {(name.decode(), version.decode()) for name, version in found}


def complaints(name: str, bill: dict, known: Facts) -> list[str]:
    """Complaints about the bill of a deployable."""
    found = []
    root, components = bill["metadata"]["component"], bill["components"]
    if (root["name"], root["type"]) != (name, "application"):
        found.append(f"the root is {root['name']}, of type {root['type']}")
    if (bill["bomFormat"], bill["specVersion"]) != ("CycloneDX", "1.6"):
        found.append("it is not CycloneDX 1.6")
    crates = [(each["name"], each["version"]) for each in [root, *components]]
    if crates[1:] != sorted(set(crates[1:])):
        found.append("crates are not in order, or not each once")
    for component, crate in zip([root, *components], crates, strict=True):
        checksum = known.locked.get(crate, "")
        if checksum == "":
            found.append(f"Cargo.lock has no {crate}")
        elif [each["content"] for each in component.get("hashes", [])] != ([checksum] if checksum else []):
            found.append(f"{crate} has another checksum than in Cargo.lock")
        if not component["licenses"][0].get("expression"):
            found.append(f"{crate} has no licence")
    for crate in sorted(set(crates) - known.reached[name]):
        found.append(f"{crate} is nothing that {name} needs to run")
    for crate in sorted(known.held[name] - set(crates)):
        found.append(f"{crate} is in the program and not in the bill")
    if not known.held[name]:
        found.append("the program names no crates: there is nothing to hold the bill against")
    references = {each["bom-ref"] for each in [root, *components]}
    edges = {each["ref"]: each["dependsOn"] for each in bill["dependencies"]}
    if set(edges) != references or any(set(each) - references for each in edges.values()):
        found.append("dependencies name other crates than components do")
    reachable, left = {root["bom-ref"]}, [root["bom-ref"]]
    while left:
        further = set(edges.get(left.pop(), [])) - reachable
        reachable |= further
        left += further
    if reachable != references:
        found.append("not every crate is reached from the root")
    return found


def broken(bill: dict, known: Facts) -> list[tuple[str, dict, str]]:
    """Bills that are broken, each in one way: how, the bill, and words of the complaint."""
    held_one = sorted(known.held["projector"])[0]

    def changed(change) -> dict:
        other = copy.deepcopy(bill)
        change(other)
        return other

    def put(crate: Crate, **more: object) -> dict:
        named = {"type": "library", "bom-ref": "x", "name": crate[0], "version": crate[1]}
        return changed(lambda each: each["components"].append(named | {"licenses": [{"expression": "MIT"}]} | more))

    tests_only = next(crate for crate in sorted(known.locked) if crate[0] == "proptest")
    without = [each for each in bill["components"] if (each["name"], each["version"]) != held_one]
    return [
        ("another root", changed(lambda each: each["metadata"]["component"].update(name="x")), "the root is"),
        ("a crate too few", changed(lambda each: each.update(components=without)), "in the program and not"),
        ("a crate that only tests need", put(tests_only), "needs to run"),
        ("a crate that is not locked", put(("x", "1.0.0")), "Cargo.lock has no"),
        ("another checksum", changed(lambda each: each["components"][0].update(hashes=[{"content": "0"}])), "another checksum"),
        ("no licence", changed(lambda each: each["components"][0].update(licenses=[{}])), "has no licence"),
        ("another order", changed(lambda each: each["components"].reverse()), "not in order"),
        ("no edges", changed(lambda each: each.update(dependencies=[])), "other crates"),
    ]


def unseen(bill: dict, known: Facts) -> list[str]:
    """The broken bills that the checks do not find."""
    return [
        how
        for how, other, complaint in broken(bill, known)
        if not any(complaint in found for found in complaints("projector", other, known))
    ]
