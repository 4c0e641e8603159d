"""The checked sources: alerts, alarms, the dashboard, the runbook, from the repository."""

import dataclasses
import html
import json
import pathlib
import re

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
COMPONENT = ROOT / "k8s/components/prometheus"
RUNBOOK = ROOT / "k8s/RUNBOOK.md"
OF_PROMETHEUS = "Alerts of Prometheus"
OF_CLOUDWATCH = "Alarms of CloudWatch"


@dataclasses.dataclass
class Sources:
    """All of it, read. Tests of the checks change one part."""

    # The groups of Prometheus' rules.
    groups: list[dict]
    # `promtool test rules`' file.
    tests: dict
    # Names of CloudWatch's alarms, without the prefix; those of a projection, once for all.
    alarms: list[str]
    dashboard: dict
    runbook: str
    # Rust sources, in one text, for the log lines that the runbook quotes.
    code: str

    def rules(self) -> list[dict]:
        return [rule for group in self.groups for rule in group["rules"]]


def read() -> Sources:
    folders = ("command-service/src", "projector/src", "query-service/src", "crates")
    code = [path.read_text() for folder in folders for path in sorted((ROOT / folder).rglob("*.rs"))]
    return Sources(
        groups=yaml.safe_load((COMPONENT / "alerts.yaml").read_text())["spec"]["groups"],
        tests=yaml.safe_load((pathlib.Path(__file__).with_name("alerts_test.yaml")).read_text()),
        alarms=alarm_names(),
        dashboard=json.loads((COMPONENT / "dashboard.json").read_text()),
        runbook=RUNBOOK.read_text(),
        code="\n".join(code),
    )


def alarm_names() -> list[str]:
    templates = [path.read_text() for path in sorted((ROOT / "infra").glob("*.yaml"))]
    pattern = r'AlarmName:\s+"?Fn::Sub"?: "\$\{Prefix\}-([a-z0-9-]+)"'
    names = [name for template in templates for name in re.findall(pattern, template)]
    return sorted({re.sub(r"^[a-z0-9-]+-v\d+-", "&lt;projection&gt;-", name) for name in names})


def anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^a-z0-9 _-]", "", html.unescape(heading).lower()).replace(" ", "-")


def sections(runbook: str, part: str) -> list[tuple[str, str]]:
    """The headings of a part of the runbook, each with the text below it."""
    found = re.search(rf"^## {part}$(.*?)(?=^## |\Z)", runbook, re.MULTILINE | re.DOTALL)
    if not found:
        return []
    pieces = re.split(r"^### (.+)$", found[1], flags=re.MULTILINE)
    return list(zip(pieces[1::2], pieces[2::2]))


def blocks(runbook: str, language: str) -> list[str]:
    """The fenced blocks of a language; "" is those of none."""
    return [body for tag, body in re.findall(r"^```(\w*)\n(.*?)^```$", runbook, re.MULTILINE | re.DOTALL) if tag == language]


def panels(dashboard: dict) -> list[dict]:
    """All panels, those within collapsed rows among them."""
    return [each for panel in dashboard["panels"] for each in (panel, *panel.get("panels", []))]


def dashboard_queries(dashboard: dict) -> list[tuple[str, str]]:
    """Every query with the title of its panel, its variables replaced as Grafana would."""
    found = [(panel["title"], target["expr"]) for panel in panels(dashboard) for target in panel.get("targets", [])]
    found += [("annotations", each["expr"]) for each in dashboard["annotations"]["list"] if "expr" in each]
    return [(title, expr.replace("$__rate_interval", "1m").replace("$namespace", "millrace")) for title, expr in found]
