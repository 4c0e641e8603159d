"""Sources that are broken, each in one way, and the complaint it must yield."""

import copy
import dataclasses
from collections.abc import Callable

import checks
from programs import Programs
from sources import Sources


@dataclasses.dataclass(frozen=True)
class Broken:
    """A way to break the sources, and words of the complaint."""

    name: str
    breaking: Callable[[Sources], object]
    complaint: str


def rule(of: Sources, alert: str) -> dict:
    return next(rule for rule in of.rules() if rule["alert"] == alert)


def panel(of: Sources, kind: str = "timeseries") -> dict:
    return next(panel for panel in of.dashboard["panels"] if panel["type"] == kind)


def runbook(old: str, new: str) -> Callable[[Sources], object]:
    """Changes the runbook's first such words."""

    def breaking(of: Sources) -> None:
        assert old in of.runbook, old
        of.runbook = of.runbook.replace(old, new, 1)

    return breaking


BROKEN = [
    Broken("an alert without a section", runbook("### MillraceGone\n", "#### MillraceGone\n"), "MillraceGone: 0 sections"),
    Broken("a section without an alert", runbook("### MillraceGone\n", "### MillraceOld\n"), "no such alert"),
    Broken(
        "two sections of an alert",
        runbook("### MillraceRestarts\n", "### MillraceGone\n"),
        "MillraceGone: 2 sections",
    ),
    Broken("an alarm without a section", lambda of: of.alarms.append("new"), "alarm new: 0 sections"),
    Broken("a section without an alarm", lambda of: of.alarms.remove("undelivered"), "no such alarm"),
    Broken(
        "a link to another section",
        lambda of: rule(of, "MillraceGone")["annotations"].update(runbook_url="k8s/RUNBOOK.md#millracenotready"),
        "its runbook_url is",
    ),
    Broken("a section that does not say how to look", runbook("**Look.**", "**See.**"), "not ['Means', 'Look'"),
    Broken("a link within the runbook to nowhere", runbook("(#millraceawsfails)", "(#millraceawsfailed)"), "no such heading"),
    Broken("a link to a file that is not there", runbook("(../docs/operations/deploy.md#alarms)", "(../docs/operations/stack.md)"), "not there"),
    Broken("a log line that nobody says", runbook("`messages are held up`", "`messages are stuck here`"), "which no log says"),
    Broken('a message asked for that nobody says', runbook('.message == "not ready"', '.message == "unready now"'), "which no log says"),
    Broken("a flag that the projector does not know", runbook("projector audit --repair\n", "projector audit --mend\n"), "no flag --mend"),
    Broken("a query of the runbook that is none", runbook("sum by (called) (rate(", "sum by called (rate("), "runbook: is no PromQL"),
    Broken("a rule that is no PromQL", lambda of: rule(of, "MillraceGone").update(expr="absent("), "is no PromQL"),
    Broken(
        "a rule with a field that Prometheus does not know",
        lambda of: rule(of, "MillraceGone").update(fore="5m"),
        "promtool check rules",
    ),
    Broken(
        "an alert that fires too late",
        lambda of: rule(of, "MillraceRelayBehind").update({"for": "30m"}),
        "promtool test rules",
    ),
    Broken(
        "an alert that never fires",
        lambda of: rule(of, "MillraceDeadLetters").update(expr="max(projector_dead_letter_messages) > 1000"),
        "promtool test rules",
    ),
    Broken(
        "an increase alone, which does not see what was counted before the first scrape",
        lambda of: rule(of, "MillraceRelayTrimmed").update(
            expr='sum by (namespace) (increase(relay_trimmed_total{namespace="millrace"}[15m])) > 0'
        ),
        "promtool test rules",
    ),
    Broken("an alert that no test makes fire", lambda of: of.groups[0]["rules"].append({**rule(of, "MillraceGone"), "alert": "New"}), "alert New: no test makes it fire"),
    Broken(
        "an alert that no test sees rest",
        lambda of: of.tests.update(tests=[untested(each, "MillraceGone") for each in of.tests["tests"]]),
        "MillraceGone: no test sees it rest",
    ),
    Broken("panels of one id", lambda of: panel(of).update(id=1), "panels have the id 1"),
    Broken("panels one over the other", lambda of: panel(of)["gridPos"].update(y=0), "lies over"),
    Broken("a panel beyond the edge", lambda of: panel(of)["gridPos"].update(w=40), "beyond the edge"),
    Broken("a panel that says nothing of itself", lambda of: panel(of).pop("description"), "does not say what it shows"),
    Broken("a panel of no unit", lambda of: panel(of)["fieldConfig"]["defaults"].pop("unit"), "its unit is"),
    Broken(
        "an alert about one projection",
        lambda of: rule(of, "MillraceProjectionLate").update(
            expr='projector_queue_messages{namespace="millrace", projection="orders"} > 0'
        ),
        "is about the projection orders alone",
    ),
    Broken("a query that is no PromQL", lambda of: panel(of)["targets"][0].update(expr='sum(x{namespace="$namespace"}'), "is no PromQL"),
    Broken("a query of all namespaces", lambda of: panel(of)["targets"][0].update(expr="sum(rate(rpc_total{code=\"Ok\"}[5m]))"), "asks for all namespaces"),
    Broken("a data source of somebody's own", lambda of: panel(of)["datasource"].update(uid="abc"), "data source of its own"),
    Broken("a variable that is not there", lambda of: of.dashboard["templating"]["list"].pop(), "no variable runbook"),
    Broken("an alert on the dashboard that is not there", lambda of: panel(of).update(description="Alert MillraceNone."), "names an alert MillraceNone"),
]


def untested(group: dict, alert: str) -> dict:
    """A group of tests without those that see an alert rest."""
    tests = [test for test in group["alert_rule_test"] if test["alertname"] != alert or test.get("exp_alerts")]
    return {**group, "alert_rule_test": tests}


def unseen(of: Sources, promtool: str, programs: Programs) -> list[str]:
    """The broken sources that no check finds."""
    missed = []
    for each in BROKEN:
        changed = copy.deepcopy(of)
        each.breaking(changed)
        if not any(each.complaint in complaint for complaint in checks.complaints(changed, promtool, programs)):
            missed.append(each.name)
    return missed
