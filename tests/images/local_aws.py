"""A local AWS with everything deployed in it, by `cargo run -- aws`."""

import contextlib
import queue
import shlex
import subprocess
import time
from collections.abc import Iterator

import stack


@contextlib.contextmanager
def running() -> Iterator[dict[str, str]]:
    """The variables that deployables need; the AWS behind them ends at the end."""
    process = stack.start("aws")
    output = stack.Output(process)
    try:
        yield variables(process, output)
    finally:
        stack.stop(process)
    assert process.returncode == 0, f"the local AWS ended with {process.returncode}:\n{output.tail()}"


def variables(process: subprocess.Popen[str], output: stack.Output) -> dict[str, str]:
    """Waits until the local AWS says that it is ready, and returns its printed values."""
    found: dict[str, str] = {}
    deadline = time.monotonic() + stack.START_PATIENCE
    while True:
        try:
            line = output.lines.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise TimeoutError(f"the local AWS was not ready within {stack.START_PATIENCE:.0f} s") from None
        if line is None:
            raise RuntimeError(f"the local AWS ended with {process.wait()}:\n{output.tail()}")
        if line.startswith("export "):
            name, value = shlex.split(line)[1].split("=", 1)
            found[name] = value
        elif "ready" in line and found:
            return found
