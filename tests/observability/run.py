#!/usr/bin/env python3
"""Alerts, the dashboard and the runbook, held against each other and against their sources.

    python tests/observability/run.py --promtool promtool --programs target/debug

`checks.py` says what is checked: each alert of Prometheus and each alarm of CloudWatch has its section of the runbook; each
alert fires and rests as `alerts_test.yaml` says; all PromQL parses; the dashboard is one that Grafana takes. Then each check
is shown something that is broken in its way, and has to find it (`broken.py`). That metrics and labels are those which the
processes serve is shown by an end-to-end test (`tests/e2e/metrics.rs`).

`--programs` is the directory of the deployables, which are asked for the flags that they know. Needs what
.ci/requirements.txt names, and no network.
"""

import argparse
import pathlib
import sys

import broken
import checks
import sources
from programs import Programs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--promtool", default="promtool", help="Prometheus' tool for rules")
    parser.add_argument("--programs", required=True, type=pathlib.Path, help="where the deployables' programs are")
    given = parser.parse_args()
    read, programs = sources.read(), Programs(given.programs)
    found = list(checks.complaints(read, given.promtool, programs))
    print(
        f"{len(read.rules())} alerts, {len(read.alarms)} alarms, {len(sources.panels(read.dashboard))} panels, "
        f"{len(sources.blocks(read.runbook, 'promql'))} queries of the runbook: {len(found)} complaints"
    )
    for complaint in found:
        print(f"  {complaint}")
    unseen = broken.unseen(read, given.promtool, programs)
    for name in unseen:
        print(f"UNSEEN: no check finds this broken: {name}")
    print(f"{len(broken.BROKEN)} broken ones, {len(unseen)} of them not seen to be")
    return 1 if found or unseen else 0


if __name__ == "__main__":
    sys.exit(main())
