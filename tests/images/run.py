#!/usr/bin/env python3
"""The images, built and run as Kubernetes would run them, without a registry and without a daemon.

    python tests/images/run.py --programs target/release --largest 40000000

Builds the three images of the Dockerfile by podman, from programs that are there already and a base made of this
machine's own C library and roots of trust. Runs each with the user, the read-only root, the capabilities and the probes
of its manifest in k8s/base, against a local AWS, calls them from outside, and ends them. Prints what was measured.
Needs podman and runc, root, Cargo, and Python 3.10 or newer.
"""

import argparse
import contextlib
import os
import pathlib
import shutil
import signal
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "clients/python"))

import environment  # noqa: E402 (it is the Python client's, which this borrows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", required=True, type=pathlib.Path, help="the folder of the programs")
    parser.add_argument("--largest", required=True, type=int, help="the largest size of an image in bytes")
    given = parser.parse_args()
    for program in ("podman", "runc"):
        if not shutil.which(program):
            sys.exit(f"{program} is not on the PATH: apt-get install podman runc")
    if os.geteuid() != 0:
        sys.exit("the images are built and run by root: podman is given neither user namespaces nor systemd")
    environment.enter()
    # So that SIGTERM ends the containers too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to end"))
    with environment.stubs(), tempfile.TemporaryDirectory(prefix="millrace-images-") as scratch:
        # Only now can these be imported: they need the packages and the stubs.
        import walk
        from containers import Podman, running
        from report import Report

        import local_aws
        import stack

        report = Report()
        podman = Podman(pathlib.Path(scratch))
        with contextlib.closing(podman):
            with report.part("images"):
                for name in podman.build(environment.ROOT, given.programs.resolve()):
                    with report.fact(f"the image of {name} is small, says what it is, and has no shell"):
                        podman.look_at(name, given.largest)
            with report.part("containers"), local_aws.running() as variables, running(podman, variables) as containers:
                for container in containers.values():
                    with report.fact(f"{container.name} is held as its manifest says"):
                        container.is_held()
                    with report.fact(f"{container.name} answers its probes"):
                        container.answers_its_probes()
                addresses = [containers[name].address for name in ("command-service", "query-service", "projector")]
                walk.run(report, stack.Addresses(*addresses))
                for container in containers.values():
                    with report.fact(f"{container.name} ends with 0 on SIGTERM"):
                        container.ends()
        return report.close()


if __name__ == "__main__":
    sys.exit(main())
