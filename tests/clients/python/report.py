"""The checks and their outcomes."""

import contextlib
import time
import traceback
from collections.abc import Iterator


class Report:
    """Counts facts that hold and facts that do not; says the latter at once."""

    def __init__(self) -> None:
        self.passed = 0
        self.failed = 0

    @contextlib.contextmanager
    def part(self, title: str) -> Iterator[None]:
        """A heading above the checks within, and their count below."""
        print(f"{title} …", flush=True)
        passed, failed, began = self.passed, self.failed, time.monotonic()
        yield
        passed, failed = self.passed - passed, self.failed - failed
        print(f"{title}: {passed} hold, {failed} do not ({time.monotonic() - began:.1f} s)", flush=True)

    @contextlib.contextmanager
    def fact(self, name: str) -> Iterator[None]:
        """A fact: it holds unless its body raises."""
        try:
            yield
        except AssertionError as error:
            self.fail(name, str(error) or traceback.format_exc())
        except Exception:
            self.fail(name, traceback.format_exc())
        else:
            self.passed += 1

    def fail(self, name: str, why: str) -> None:
        """A fact that does not hold."""
        self.failed += 1
        print(f"  FAILED {name}\n    " + why.strip().replace("\n", "\n    "), flush=True)

    def close(self) -> int:
        """Prints the summary and returns the exit code. A run that checked nothing has failed."""
        print(f"{self.passed} passed, {self.failed} failed", flush=True)
        return 0 if self.passed and not self.failed else 1
