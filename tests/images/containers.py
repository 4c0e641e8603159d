"""Images and containers, by podman."""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator

import grpc
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

import environment

DEPLOYABLES = ("command-service", "projector", "query-service")
VERSION = "0.1.0"
PATIENCE = 300.0
# Longer than a start may take on a machine that is busy, and than an end may by the manifest.
START_PATIENCE = 60.0
END_PATIENCE = 30.0
HEALTH_PATIENCE = 5.0
# The memory budget of an idle process, in MiB.
MOST_IDLE = 40
SERVING = health_pb2.HealthCheckResponse.SERVING
# The root certificates, which a base image has to have. The C library is found by asking the programs.
ROOTS = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")
FILES = {
    "etc/passwd": "nonroot:x:65532:65532::/:/nonexistent\n",
    "etc/group": "nonroot:x:65532:\n",
    "etc/nsswitch.conf": "hosts: files dns\n",
}


class Podman:
    """Podman with a store of its own, which goes with it."""

    def __init__(self, scratch: pathlib.Path) -> None:
        self.scratch = scratch
        # No overlays, no systemd: this has to work within a container, too.
        self.command = [
            "podman",
            "--root", str(scratch / "store"),
            "--runroot", str(scratch / "run"),
            "--storage-driver", "vfs",
            "--cgroup-manager", "cgroupfs",
            "--runtime", "runc",
        ]  # fmt: skip

    def run(self, *arguments: str, check: bool = True, patience: float = PATIENCE) -> subprocess.CompletedProcess[str]:
        """Runs a command of podman's to its end."""
        done = subprocess.run(
            [*self.command, *arguments],
            capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, timeout=patience, check=False,
        )  # fmt: skip
        if check and done.returncode:
            raise AssertionError(f"podman {' '.join(arguments)} failed ({done.returncode}):\n{done.stderr}")
        return done

    def build(self, root: pathlib.Path, programs: pathlib.Path) -> list[str]:
        """Builds all images from the repository at `root`. Returns their names."""
        base, bare = self.base(programs), self.scratch / "programs"
        bare.mkdir()
        for name in DEPLOYABLES:
            shutil.copy2(programs / name, bare)
            shutil.copy2(programs / f"{name}.cdx.json", bare)
        for name in DEPLOYABLES:
            self.run(
                "build", "--quiet", "--target", name, "--tag", image(name),
                "--build-arg", f"VERSION={VERSION}",
                "--build-context", f"programs={bare}",
                "--build-context", f"base=container-image://{base}",
                str(root),
            )  # fmt: skip
        return list(DEPLOYABLES)

    def base(self, programs: pathlib.Path) -> str:
        """The stage `base` of the Dockerfile, made of this machine's files."""
        tree, name = self.scratch / "base", "localhost/millrace-base:ci"
        for program in DEPLOYABLES:
            linked = subprocess.run(["ldd", programs / program], capture_output=True, text=True, check=True).stdout
            for library in re.findall(r"(/lib\S*)", linked):
                place = tree / library.lstrip("/")
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(library, place)
        roots = next(pathlib.Path(path) for path in ROOTS if os.path.exists(path))
        place = tree / "etc/ssl/certs/ca-certificates.crt"
        place.parent.mkdir(parents=True)
        shutil.copy2(roots, place)
        for file, text in FILES.items():
            (tree / file).write_text(text)
        archive = shutil.make_archive(str(self.scratch / "base-image"), "tar", tree)
        self.run("import", "--quiet", archive, name)
        return name

    def look_at(self, name: str, largest: int) -> None:
        """Asserts the properties of an image."""
        found = json.loads(self.run("image", "inspect", image(name)).stdout)[0]
        print(f"  {name}: {found['Size'] / 1e6:.1f} MB", flush=True)
        assert found["Size"] <= largest, f"{found['Size']} bytes, of {largest} at most"
        labels = found["Labels"]
        for label in ("title", "description", "licenses", "vendor", "version", "revision"):
            assert labels.get(f"org.opencontainers.image.{label}"), f"no label {label}: {labels}"
        assert labels["org.opencontainers.image.version"] == VERSION
        assert found["Config"].get("User") == "65532:65532", found["Config"]
        for shell in ("/bin/sh", "/bin/bash", "/busybox/sh"):
            tried = self.run("run", "--rm", *UNBOUND, "--entrypoint", shell, image(name), check=False)
            assert tried.returncode == 127, f"{shell} was run: {tried}"
        told = self.file(name, "sbom.cdx.json")
        assert told == (self.scratch / "programs" / f"{name}.cdx.json").read_bytes(), "it says what it is made of"

    def file(self, name: str, path: str) -> bytes:
        """A file of an image."""
        container = self.run("create", *UNBOUND, image(name)).stdout.strip()
        copy = self.scratch / f"{name}-{pathlib.PurePath(path).name}"
        self.run("cp", f"{container}:/{path}", str(copy))
        self.run("rm", container)
        return copy.read_bytes()

    def close(self) -> None:
        """Ends and removes all containers."""
        self.run("rm", "--all", "--force", "--time", "0", check=False)


# The limits of this machine are lower than those that podman would give.
UNBOUND = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", "--network", "host")


def image(name: str) -> str:
    return f"localhost/millrace/{name}:{VERSION}"


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def pod_of(name: str) -> dict:
    """The pod of a deployable, by its manifest."""
    manifest = environment.ROOT / "k8s/base" / f"{name}.yaml"
    every = yaml.safe_load_all(manifest.read_text())
    return next(each for each in every if each["kind"] == "Deployment")["spec"]["template"]["spec"]


def flags_of(pod: dict) -> list[str]:
    """Podman's flags to run a container as the kubelet would."""
    container = pod["containers"][0]
    of_container, of_pod = container["securityContext"], pod["securityContext"]
    flags = ["--user", f"{of_pod['runAsUser']}:{of_pod['runAsGroup']}"]
    flags += ["--read-only"] if of_container["readOnlyRootFilesystem"] else []
    # Podman would mount writable folders over it; the kubelet does not.
    flags += ["--read-only-tmpfs=false"]
    flags += ["--cap-drop", ",".join(of_container["capabilities"]["drop"])]
    flags += ["--security-opt", "no-new-privileges"] if not of_container["allowPrivilegeEscalation"] else []
    return flags


@dataclasses.dataclass
class Container:
    """A deployable that runs."""

    name: str
    podman: Podman
    address: str
    process: subprocess.Popen[bytes]
    log: pathlib.Path
    pod: dict
    # When liveness and readiness were first SERVING, in seconds from the process's start.
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def pid(self) -> int:
        told = self.podman.run("inspect", "--format", "{{.State.Pid}}", self.name, check=False)
        return int(told.stdout) if told.returncode == 0 and told.stdout.strip().isdigit() else 0

    def status(self, field: str) -> str:
        """A line of the process's status in /proc."""
        text = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        return re.search(rf"^{field}:\s*(.*)$", text, re.MULTILINE)[1]

    def started(self) -> float:
        """When the process was started, on the clock of the machine's boot."""
        after_name = pathlib.Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return int(after_name[19]) / os.sysconf("SC_CLK_TCK")

    def health(self, service: str) -> int:
        with grpc.insecure_channel(self.address) as channel:
            request = health_pb2.HealthCheckRequest(service=service)
            return health_pb2_grpc.HealthStub(channel).Check(request, timeout=HEALTH_PATIENCE).status

    def wait_until_serving(self) -> None:
        """Returns once it is ready, having noted when it was."""
        deadline, host, port = time.monotonic() + START_PATIENCE, *self.address.split(":")
        seen: dict[str, float] = {}
        while len(seen) < 2:
            assert time.monotonic() < deadline, f"{self.name} is not ready:\n{self.log.read_text()}"
            assert self.process.poll() is None, f"{self.name} has ended:\n{self.log.read_text()}"
            with contextlib.suppress(OSError, grpc.RpcError):
                socket.create_connection((host, int(port)), timeout=HEALTH_PATIENCE).close()
                for service in ("liveness", "readiness"):
                    if service not in seen and self.health(service) == SERVING:
                        seen[service] = time.clock_gettime(time.CLOCK_BOOTTIME)
            time.sleep(0.005)
        started = self.started()
        self.seconds = {service: at - started for service, at in seen.items()}

    def is_held(self) -> None:
        """Asserts by /proc that it can do no more than its manifest allows."""
        assert self.status("Uid").split() == [str(self.pod["securityContext"]["runAsUser"])] * 4
        for capabilities in ("CapEff", "CapPrm", "CapBnd"):
            assert int(self.status(capabilities), 16) == 0, f"{capabilities}: {self.status(capabilities)}"
        assert self.status("NoNewPrivs") == "1"
        mounts = pathlib.Path(f"/proc/{self.pid}/mountinfo").read_text().splitlines()
        root = next(mount.split() for mount in mounts if mount.split()[4] == "/")
        assert "ro" in root[5].split(","), f"the root can be written: {root}"

    def answers_its_probes(self) -> None:
        """Probes it as the kubelet would."""
        probed = self.pod["containers"][0]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            service = probed[probe]["grpc"]["service"]
            assert self.health(service) == SERVING, f"{probe}: {service} is not SERVING"
        resident = int(self.status("VmRSS").split()[0]) / 1024
        limit = probed["resources"]["limits"]["memory"]
        print(
            f"  {self.name}: alive after {self.seconds['liveness']:.2f} s,"
            f" ready after {self.seconds['readiness']:.2f} s; {resident:.1f} MiB resident, of {limit} at most",
            flush=True,
        )
        assert resident <= MOST_IDLE, f"an idle process takes {resident:.1f} MiB"

    def ends(self) -> None:
        """Asserts that it ends in order."""
        began = time.monotonic()
        self.podman.run("kill", "--signal", "TERM", self.name)
        code = self.process.wait(END_PATIENCE)
        print(f"  {self.name}: ended with {code} after {time.monotonic() - began:.1f} s", flush=True)
        assert code == 0, f"it ended with {code}:\n{self.log.read_text()}"


@contextlib.contextmanager
def running(podman: Podman, variables: dict[str, str]) -> Iterator[dict[str, Container]]:
    """A container of each deployable, ready; none is left at the end."""
    containers: dict[str, Container] = {}
    with contextlib.ExitStack() as cleaning:
        for name in DEPLOYABLES:
            pod, address, log = pod_of(name), free_address(), podman.scratch / f"{name}.log"
            own = {each["name"] for each in pod["containers"][0]["env"]}
            given = {key: value for key, value in variables.items() if key in own or key.startswith("AWS_")}
            given |= {"GRPC_ADDR": address, "METRICS_ADDR": free_address(), "LOG_FORMAT": "json"}
            flags = [flag for key, value in given.items() for flag in ("--env", f"{key}={value}")]
            command = [*podman.command, "run", "--name", name, *UNBOUND, *flags_of(pod), *flags, image(name)]
            with log.open("wb") as output:
                process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
            cleaning.callback(end, process)
            containers[name] = Container(name, podman, address, process, log, pod)
            containers[name].wait_until_serving()
        yield containers


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends a podman that still runs; its container goes with the store."""
    if process.poll() is None:
        process.kill()
        process.wait()
