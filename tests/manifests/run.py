#!/usr/bin/env python3
"""The Kubernetes manifests, as an operator would apply them, held against the checks and their programs.

    python tests/manifests/run.py --programs target/release
    python tests/manifests/run.py --application ../todo/k8s

Every overlay is rendered by `kubectl kustomize` (of the kubectl beside this Python, else of that on the PATH), the one
for EKS also with every component, and checked: `checks.py` says for what. Then each check is shown a manifest that is
broken in its way, and has to find it (`broken.py`). `--programs` is the directory of the deployables, which are asked
for the variables and flags that they know. `--application` is the folder of manifests that `millrace new app` has made:
these alone are checked, against the templates that are rendered beside it, if there are any. Needs what .ci/requirements.txt names, and no cluster.
"""

import argparse
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import yaml

import broken
import checks
from programs import Programs

ROOT = pathlib.Path(__file__).resolve().parents[2]
PATIENCE = 60.0


def render(kubectl: str, directory: pathlib.Path) -> list[dict]:
    """The rendered resources of a kustomization."""
    command = [kubectl, "kustomize", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    return [resource for resource in yaml.safe_load_all(done.stdout) if resource]


def overlays(kubectl: str) -> dict[str, list[dict]]:
    """Every overlay by its name, rendered; and that for EKS with every component that it offers."""
    found = sorted(path.parent for path in (ROOT / "k8s/overlays").glob("*/kustomization.yaml"))
    rendered = {path.name: render(kubectl, path) for path in found}
    with tempfile.TemporaryDirectory() as scratch:
        for folder in ("k8s", "infra"):
            shutil.copytree(ROOT / folder, pathlib.Path(scratch) / folder)
        whole = pathlib.Path(scratch) / "k8s/overlays/eks"
        kustomization = whole / "kustomization.yaml"
        offered = re.sub(r"(?m)^  # - (\.\./)", r"  - \1", kustomization.read_text())
        kustomization.write_text(offered)
        components = {path.name for path in (ROOT / "k8s/components").iterdir()}
        for component in components:
            if f"  - ../../components/{component}\n" not in offered:
                sys.exit(f"overlays/eks does not offer the component {component}")
        rendered["eks with every component"] = render(kubectl, whole)
    return rendered


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--programs", type=pathlib.Path, help="where the deployables' programs are")
    asked.add_argument("--application", type=pathlib.Path, help="where the manifests of a new application are")
    given = parser.parse_args()
    beside = pathlib.Path(sys.executable).with_name("kubectl")
    kubectl = str(beside) if beside.is_file() else "kubectl"
    if given.application:
        queues = checks.queues(checks.templates(given.application / "../infra"))
        found = checks.complaints_of_an_application(render(kubectl, given.application), queues)
        print("\n".join([*found, f"{given.application}: {len(found)} complaints"]))
        return int(bool(found))
    programs = Programs(given.programs)
    templates = checks.templates(ROOT / "infra")
    facts = checks.Facts(
        programs=programs,
        queues=checks.queues(templates),
        templates=templates,
        metrics=checks.documented_metrics((ROOT / "docs/reference/metrics.md").read_text()),
    )
    rendered = overlays(kubectl)
    complaints = 0
    for name, resources in rendered.items():
        found = checks.complaints(name, resources, facts)
        print(f"{name}: {len(resources)} resources, {len(found)} complaints")
        for complaint in found:
            print(f"  {complaint}")
        complaints += len(found)
    unseen = broken.unseen(rendered["eks with every component"], rendered["kind"], facts)
    for name in unseen:
        print(f"UNSEEN: no check finds this broken: {name}")
    print(f"{len(broken.BROKEN)} broken manifests, {len(unseen)} of them not seen to be")
    return 1 if complaints or unseen else 0


if __name__ == "__main__":
    sys.exit(main())
