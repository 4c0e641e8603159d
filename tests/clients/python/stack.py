"""The servers under test: those of the caller, or a local stack that lives as long as the run.

As a program it runs another one against a local stack, whose addresses that finds in its environment:

    python3 tests/clients/python/stack.py node tests/clients/node/run.js
"""

import collections
import contextlib
import dataclasses
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import environment

# A first start installs the local AWS and may have to compile.
START_PATIENCE = 900.0
# The processes have 20 s to drain, then the local AWS ends.
STOP_PATIENCE = 40.0


@dataclasses.dataclass(frozen=True)
class Addresses:
    """Where the three deployables listen, each as host:port."""

    command: str
    query: str
    projector: str


def printed_addresses(line: str) -> dict[str, str]:
    """The addresses that a line of the local stack's output names, by deployable."""
    found = re.search(r"(command|query|projector).*?\b((?:127\.0\.0\.1|localhost):\d+)", line, re.IGNORECASE)
    return {found[1].lower(): found[2]} if found else {}


def start(*arguments: str) -> subprocess.Popen[str]:
    """Starts the tool that brings up the local stack."""
    return subprocess.Popen(
        ["cargo", "run", "--quiet", "--locked", "--", *arguments],
        cwd=environment.ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        # A session of its own, so that only the signals of this program reach it.
        start_new_session=True,
    )


@contextlib.contextmanager
def running(command: str | None, query: str | None, projector: str | None) -> Iterator[Addresses]:
    """The addresses given, or those of a local stack that is started now and stopped at the end."""
    if command and query and projector:
        yield Addresses(command, query, projector)
        return
    print("starting a local stack (cargo run) …", file=sys.stderr, flush=True)
    process = start()
    output = Output(process)
    try:
        yield wait_for_addresses(process, output)
    except BaseException:
        print("the local stack's last words:\n" + output.tail(), file=sys.stderr, flush=True)
        raise
    finally:
        stop(process)
    # Being interrupted is how the stack is meant to end.
    assert process.returncode == 0, f"the local stack ended with {process.returncode}:\n{output.tail()}"


class Output:
    """Reads a process's output, so that it never waits for a reader."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.lines: queue.Queue[str | None] = queue.Queue()
        self.last: collections.deque[str] = collections.deque(maxlen=60)
        threading.Thread(target=self.read, args=(process,), daemon=True).start()

    def read(self, process: subprocess.Popen[str]) -> None:
        """Runs until the process ends."""
        assert process.stdout
        for line in process.stdout:
            self.last.append(line)
            self.lines.put(line)
        self.lines.put(None)

    def tail(self) -> str:
        """The last lines that were printed."""
        return "".join(self.last)


def wait_for_addresses(process: subprocess.Popen[str], output: Output) -> Addresses:
    """Returns once the stack has printed all three addresses."""
    found: dict[str, str] = {}
    deadline = time.monotonic() + START_PATIENCE
    while len(found) < 3:
        try:
            line = output.lines.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise TimeoutError(f"the local stack printed no addresses within {START_PATIENCE:.0f} s") from None
        if line is None:
            raise RuntimeError(f"the local stack ended with {process.wait()} before it had printed its addresses")
        for deployable, address in printed_addresses(line).items():
            found.setdefault(deployable, address)
    return Addresses(**found)


def stop(process: subprocess.Popen[str]) -> None:
    """Interrupts the stack, as Ctrl-C does; kills it and its children where it does not end."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(STOP_PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def main() -> int:
    if len(sys.argv) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    with running(None, None, None) as addresses:
        told = {f"{deployable.upper()}_ADDR": address for deployable, address in vars(addresses).items()}
        return subprocess.run(sys.argv[1:], env=os.environ | told).returncode


if __name__ == "__main__":
    sys.exit(main())
