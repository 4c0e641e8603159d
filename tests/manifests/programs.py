"""The variables, flags and ports of the deployables, by their own word."""

import functools
import pathlib
import re
import subprocess

DEPLOYABLES = ("command-service", "projector", "query-service")
PATIENCE = 20.0
# The variables that the AWS SDK and tracing read, which no --help names.
OF_EVERYBODY = frozenset(
    {
        "RUST_LOG",
        "AWS_REGION",
        "AWS_ENDPOINT_URL",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_ROLE_ARN",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
    }
)


class Programs:
    """The deployables' programs in a directory."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.directory = directory
        self.help = functools.cache(self._help)

    def _help(self, program: str, command: str | None = None) -> str:
        """The output of `--help` of a program, or of one of its commands."""
        arguments = [str(self.directory / program), *([command] if command else []), "--help"]
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=PATIENCE, check=True, env={})
        return done.stdout

    def variables(self, program: str, command: str | None = None) -> set[str]:
        """The environment variables that it knows."""
        return set(re.findall(r"\[env: ([A-Z0-9_]+)", self.help(program, command))) | OF_EVERYBODY

    def required(self, program: str, command: str | None = None) -> set[str]:
        """The environment variables without which it does not start."""
        usage = re.search(r"^Usage: .*$", self.help(program, command), re.MULTILINE)
        assert usage, f"{program} has no usage"
        return {flag.upper().replace("-", "_") for flag in re.findall(r"--([a-z-]+) <", usage[0])}

    def flags(self, program: str, command: str | None = None) -> set[str]:
        """The flags that it knows."""
        return set(re.findall(r"^ +(?:-\w, )?(--[a-z-]+)", self.help(program, command), re.MULTILINE))

    def port(self, program: str, variable: str) -> int:
        """The port on which it listens by default."""
        found = re.search(rf"\[env: {variable}=\]\s*\[default: [0-9.]+:(\d+)\]", self.help(program))
        assert found, f"{program} has no default for {variable}"
        return int(found[1])
