"""Every tool of a build or of CI is pinned, to the byte, and names no host.

Who installs chooses the registry; a file that names a host would choose for them.
"""

import json
import pathlib
import re

# Commands of cargo's that would otherwise bring Cargo.lock up to date on the quiet.
BUILDING = r"(?:bench|build|check|clippy|doc|install|metadata|run|rustc|test|tree)"
# As a shell has it, and as a list of arguments.
SHELL = re.compile(rf"^(?!\s*(?:#|//|\*)).*?\bcargo\s+{BUILDING}\b.*$", re.MULTILINE)
LISTED = re.compile(rf"""^.*["']cargo["'],\s*["']{BUILDING}["'].*$""", re.MULTILINE)
REQUIREMENT = re.compile(r"(?m)^([A-Za-z0-9._-]+)(?:\[[^]]*\])?(.*)$")


def cargo(name: str, text: str) -> list[str]:
    """Calls of cargo's in a script that do not hold it to Cargo.lock."""
    text = text.replace("\\\n", " ")
    called = [line.strip() for pattern in (SHELL, LISTED) for line in pattern.findall(text)]
    # The purpose of a step is text, between quotes after an equals sign.
    told = re.compile(r"""^\[\w+\]=|^\w+=["']|\becho\b|\bprint\(|^["`]""")
    return [f"{name}: without --locked: {line}" for line in called if "--locked" not in line and not told.search(line)]


def requirements(name: str, text: str) -> list[str]:
    """Python packages that are not pinned by version and hash."""
    complaints = []
    for found in REQUIREMENT.finditer(text.replace("\\\n", " ")):
        if not found[2].startswith("=="):
            complaints.append(f"{name}: {found[1]} has no version")
        if "--hash=sha256:" not in found[2]:
            complaints.append(f"{name}: {found[1]} has no hash")
    if re.search(r"(?m)^\s*(--(extra-)?index-url|--find-links|-i|-f)\b|://", text):
        complaints.append(f"{name}: names where packages come from")
    return complaints


def npm(name: str, text: str) -> list[str]:
    """npm packages that are not pinned by hash, or say where they come from."""
    complaints = []
    for package, facts in json.loads(text)["packages"].items():
        if package and "integrity" not in facts:
            complaints.append(f"{name}: {package} has no hash")
        if "resolved" in facts:
            complaints.append(f"{name}: {package} names where it comes from")
    return complaints


def npmrc(name: str, text: str) -> list[str]:
    """Settings of npm's that would bring a host into a lock file, or run scripts of packages."""
    complaints = [f"{name}: lacks {line}" for line in ("omit-lockfile-registry-resolved=true", "ignore-scripts=true") if line not in text]
    return complaints + [f"{name}: names a registry" for line in text.splitlines() if "registry=" in line or "://" in line]


def cargo_lock(name: str, text: str) -> list[str]:
    """Crates without a checksum that are not ours."""
    complaints = []
    for package in text.split("[[package]]")[1:]:
        if "\nsource = " in package and "\nchecksum = " not in package:
            complaints.append(f"{name}: {re.search('name = (.*)', package)[1]} has no checksum")
    return complaints


def checks(name: str):
    """The checks of a file, by its name."""
    path = pathlib.PurePath(name)
    if path.name == "Cargo.lock":
        return [cargo_lock]
    if path.name == "package-lock.json":
        return [npm]
    if path.name == ".npmrc":
        return [npmrc]
    if path.name == "requirements.txt":
        return [requirements]
    if name == ".ci/run" or path.name == "Dockerfile" or path.suffix in (".sh", ".py", ".js"):
        return [cargo]
    return []


def complaints(files: dict[str, str]) -> list[str]:
    """All that is wrong with the files of a tree, given by name."""
    found = [complaint for name, text in files.items() for check in checks(name) for complaint in check(name, text)]
    for name in files:
        # A lock file is only as good as its being there.
        path = pathlib.PurePath(name)
        for manifest, lock in (("package.json", "package-lock.json"), ("package.json", ".npmrc"), ("requirements.in", "requirements.txt")):
            if path.name == manifest and str(path.with_name(lock)) not in files:
                found.append(f"{name}: has no {lock} beside it")
        if path.name == "Cargo.toml" and "\n[workspace]" in files[name] and str(path.with_name("Cargo.lock")) not in files:
            found.append(f"{name}: has no Cargo.lock beside it")
    return found


# A case for each check: the file's name, its text, and words of the complaint.
BROKEN = [
    ("x/Dockerfile", "RUN cargo build --release\n", "without --locked"),
    (".ci/run", "tests() {\n  cargo test \\\n    --workspace\n}\n", "without --locked"),
    ("x/run.py", 'subprocess.run(["cargo", "run", "--quiet"])\n', "without --locked"),
    ("x/requirements.txt", "pyyaml>=6 \\\n    --hash=sha256:00\n", "has no version"),
    ("x/requirements.txt", "pyyaml==6\nsix==1 \\\n    --hash=sha256:00\n", "pyyaml has no hash"),
    ("x/requirements.txt", "--index-url https://example.com\n", "names where packages come from"),
    ("x/package-lock.json", '{"packages": {"": {}, "node_modules/a": {}}}', "has no hash"),
    ("x/package-lock.json", '{"packages": {"node_modules/a": {"integrity": "0", "resolved": "x"}}}', "names where"),
    ("x/.npmrc", "ignore-scripts=true\n", "lacks omit-lockfile"),
    ("x/.npmrc", "ignore-scripts=true\nomit-lockfile-registry-resolved=true\nregistry=x\n", "names a registry"),
    ("x/Cargo.lock", '[[package]]\nname = "a"\nsource = "s"\n', "has no checksum"),
    ("x/package.json", "{}", "has no package-lock.json"),
    ("x/requirements.in", "six", "has no requirements.txt"),
    ("x/Cargo.toml", '[package]\nname = "a"\n\n[workspace]\n', "has no Cargo.lock"),
]


def unseen() -> list[str]:
    """The broken cases that the checks do not find."""
    return [
        f"{name}: {text!r}"
        for name, text, complaint in BROKEN
        if not any(complaint in found for found in complaints({name: text}))
    ]
