"""The client's environment: pinned packages in a virtual environment, and stubs generated from the contracts."""

import contextlib
import fcntl
import hashlib
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]
BUILD = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve() / "clients-python"
REQUIREMENTS = HERE / "requirements.txt"


def enter() -> None:
    """Goes on inside the virtual environment, which is made first if it is not there.

    It is named after its contents and its user, grows under another name and is renamed when it is complete: one
    that exists is whole. Parallel runs wait for the first.
    """
    if sys.version_info < (3, 10):
        sys.exit("the Python client needs Python 3.10 or newer")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    fingerprint = hashlib.sha256(version.encode() + REQUIREMENTS.read_bytes()).hexdigest()[:16]
    venv = BUILD / f"venv-{fingerprint}"
    if pathlib.Path(sys.prefix).resolve() == venv:
        return
    BUILD.mkdir(parents=True, exist_ok=True)
    with open(BUILD / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (venv / "bin/python").is_file():
            install(venv)
    python = str(venv / "bin/python")
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONHOME", "PYTHONPATH")}
    os.execve(python, [python, *sys.argv], clean)


def install(venv: pathlib.Path) -> None:
    """Makes the virtual environment."""
    print("installing the Python client's packages (first time only) …", file=sys.stderr, flush=True)
    unfinished = venv.with_suffix(".unfinished")
    for leftover in (unfinished, venv):
        shutil.rmtree(leftover, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", unfinished], check=True)
    pip = [unfinished / "bin/python", "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
    subprocess.run([*pip, "--require-hashes", "--requirement", REQUIREMENTS], check=True)
    unfinished.rename(venv)


@contextlib.contextmanager
def stubs() -> Iterator[None]:
    """Generates the stubs by the command of the page for clients; from then on they can be imported."""
    page = (ROOT / "docs/how-to/call-from-other-languages.md").read_text()
    command = re.search(r"(?ms)^python (-m grpc_tools.*?)^```$", page)[1]
    with tempfile.TemporaryDirectory(prefix="stubs-", dir=BUILD) as folder:
        command = f"{shlex.quote(sys.executable)} {command.replace('OUT', shlex.quote(folder))}"
        subprocess.run(command, shell=True, cwd=ROOT, check=True)
        sys.path.insert(0, folder)
        yield
