"""The checks of alerts, dashboard and runbook. Each takes the sources and yields complaints."""

import collections
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import yaml

import sources
from sources import OF_CLOUDWATCH, OF_PROMETHEUS, Sources

sys.path.insert(0, str(sources.ROOT / "tests/manifests"))
from programs import Programs  # noqa: E402

PATIENCE = 120.0
# The parts of a section of the runbook, in this order.
PARTS = ["Means", "Look", "Do", "Over"]
# Of a dashboard's columns there are so many.
COLUMNS = 24
# Units of Grafana that are in use.
UNITS = {"short", "none", "s", "percentunit", "reqps", "ops", "bytes"}


# --- Alerts and the runbook -------------------------------------------------------------------------------------------


def alerts_have_their_sections(of: Sources) -> Iterator[str]:
    """Every alert has one section of the runbook and every section is an alert's; the same for alarms."""
    alerts = [rule["alert"] for rule in of.rules()]
    headings = [heading for heading, _ in sources.sections(of.runbook, OF_PROMETHEUS)]
    yield from bijection("alert", alerts, headings)
    names = [heading.split(", ") for heading, _ in sources.sections(of.runbook, OF_CLOUDWATCH)]
    yield from bijection("alarm", of.alarms, [name for some in names for name in some])
    for rule in of.rules():
        url = rule["annotations"].get("runbook_url")
        if url != f"k8s/RUNBOOK.md#{sources.anchor(rule['alert'])}":
            yield f"alert {rule['alert']}: its runbook_url is {url}"


def bijection(kind: str, things: list[str], headings: list[str]) -> Iterator[str]:
    counted = collections.Counter(headings)
    for thing, count in collections.Counter(things).items():
        if count > 1:
            yield f"{kind} {thing}: there are {count} of that name"
        if counted[thing] != 1:
            yield f"{kind} {thing}: {counted[thing]} sections in the runbook"
    for heading in counted:
        if heading not in things:
            yield f"the runbook has a section {heading}, and there is no such {kind}"


def sections_are_whole(of: Sources) -> Iterator[str]:
    """Each section says what the alert means, how to look, what to do, and how to see that it is over."""
    for part in (OF_PROMETHEUS, OF_CLOUDWATCH):
        for heading, body in sources.sections(of.runbook, part):
            found = re.findall(r"^\*\*(\w+)\.\*\*", body, re.MULTILINE)
            if found != PARTS:
                yield f"section {heading}: says {found}, not {PARTS}"


def links_lead_somewhere(of: Sources) -> Iterator[str]:
    """Links within the runbook have a heading at their end, and those to other files a file."""
    headings = re.findall(r"^#+ (.+)$", of.runbook, re.MULTILINE)
    anchors = {sources.anchor(heading) for heading in headings}
    for target in re.findall(r"\]\(([^)]+)\)", of.runbook):
        path, _, place = target.partition("#")
        if path and not (sources.RUNBOOK.parent / path).exists():
            yield f"the runbook links to {path}, which is not there"
        if not path and place not in anchors:
            yield f"the runbook links to #{place}, and has no such heading"


def log_lines_are_said(of: Sources) -> Iterator[str]:
    """The runbook's quotes of logs, as code with more than one word or as a message asked for, are in the sources."""
    commands = "\n".join(sources.blocks(of.runbook, ""))
    prose = re.sub(r"^```.*?^```$", "", of.runbook, flags=re.MULTILINE | re.DOTALL)
    asked = re.findall(r'\.message == "([^"]+)"', commands)
    quoted = [text.replace("\n", " ") for text in re.findall(r"`([a-z][a-z,;' \n-]+ [a-z,;' \n]+)`", prose)]
    for line in sorted({*asked, *quoted}):
        if f'"{line}"' not in of.code and line not in ("projector audit",):
            yield f"the runbook quotes {line!r}, which no log says"


def commands_are_known(of: Sources, programs: Programs) -> Iterator[str]:
    """The projector's commands know the flags that the runbook gives them."""
    text = "\n".join(sources.blocks(of.runbook, "")) + "\n" + "\n".join(re.findall(r"`(projector [^`]+)`", of.runbook))
    for line in re.findall(r"^projector .+$", text, re.MULTILINE):
        _, command, *arguments = shlex.split(line)
        flags = {argument.split("=")[0] for argument in arguments if argument.startswith("--")}
        for flag in sorted(flags - programs.flags("projector", command)):
            yield f"the runbook runs `{line}`, and there is no flag {flag}"


# --- PromQL -----------------------------------------------------------------------------------------------------------


def queries_parse(of: Sources, promtool: str) -> Iterator[str]:
    """Every rule, every query of the dashboard and every query of the runbook is PromQL."""
    queries = [(f"alert {rule['alert']}", rule["expr"]) for rule in of.rules()]
    queries += [(f"panel {title}", expr) for title, expr in sources.dashboard_queries(of.dashboard)]
    queries += [("runbook", expr) for expr in sources.blocks(of.runbook, "promql")]
    names = [f"query_{number}" for number in range(len(queries))]
    recorded = [{"record": name, "expr": expr} for name, (_, expr) in zip(names, queries)]
    said = check(promtool, [{"name": "queries", "rules": recorded}])
    for number in re.findall(r'rule \d+, "query_(\d+)"', said):
        place, expr = queries[int(number)]
        yield f"{place}: is no PromQL: {expr.strip()}"
    if "SUCCESS" not in said and not re.search(r'"query_\d+"', said):
        yield f"promtool: {said}"


def rules_are_valid(of: Sources, promtool: str) -> Iterator[str]:
    said = check(promtool, of.groups)
    if f"SUCCESS: {len(of.rules())} rules found" not in said:
        yield f"promtool check rules: {said}"


def check(promtool: str, groups: list[dict]) -> str:
    """The complaints of `promtool check rules` about some groups."""
    with tempfile.TemporaryDirectory() as scratch:
        (pathlib.Path(scratch) / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}))
        return run([promtool, "check", "rules", "rules.yaml"], scratch)[1]


def alerts_behave(of: Sources, promtool: str) -> Iterator[str]:
    """Each alert fires when it should and does not when it should not, by the tests, of which it has both."""
    with tempfile.TemporaryDirectory() as scratch:
        (pathlib.Path(scratch) / "rules.yaml").write_text(yaml.safe_dump({"groups": of.groups}))
        (pathlib.Path(scratch) / "tests.yaml").write_text(yaml.safe_dump(of.tests))
        code, said = run([promtool, "test", "rules", "tests.yaml"], scratch)
    if code:
        yield f"promtool test rules: {said}"
    fires, rests = set(), set()
    for test in (each for group in of.tests["tests"] for each in group["alert_rule_test"]):
        (fires if test.get("exp_alerts") else rests).add(test["alertname"])
    for alert in (rule["alert"] for rule in of.rules()):
        if alert not in fires:
            yield f"alert {alert}: no test makes it fire"
        if alert not in rests:
            yield f"alert {alert}: no test sees it rest"


def run(command: list[str], directory: str) -> tuple[int, str]:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=PATIENCE, check=False)
    return done.returncode, done.stdout + done.stderr


def every_projection_is_watched(of: Sources) -> Iterator[str]:
    """Rules and queries keep projections apart by a label and name none, so that they hold for all that are registered."""
    queries = [(f"alert {rule['alert']}", rule["expr"]) for rule in of.rules()]
    queries += [(f"panel {title}", expr) for title, expr in sources.dashboard_queries(of.dashboard)]
    for place, expr in queries:
        if named := re.search(r'\bprojection\s*[!=]~?\s*"([^"$]*)"', expr):
            yield f"{place}: is about the projection {named[1]} alone"


# --- The dashboard ----------------------------------------------------------------------------------------------------


def dashboard_is_sound(of: Sources) -> Iterator[str]:
    """As Grafana takes it: ids are unique, panels do not overlap, each is sound."""
    board = of.dashboard
    for field in ("uid", "title", "schemaVersion", "panels", "templating", "time"):
        if field not in board:
            yield f"the dashboard has no {field}"
    # Kept in a ConfigMap, it must not bring its id of another Grafana's database.
    if board.get("id") is not None:
        yield "the dashboard has an id"
    all_panels = sources.panels(board)
    for number, count in collections.Counter(panel["id"] for panel in all_panels).items():
        if count > 1:
            yield f"{count} panels have the id {number}"
    variables = {variable["name"] for variable in board["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]+)\b", str(board["panels"]) + str(board["links"])))
    for name in sorted(used - variables):
        yield f"the dashboard has no variable {name}"
    yield from panels_lie_apart(board["panels"])
    for panel in all_panels:
        if panel["type"] != "row":
            yield from (f"panel {panel['title']}: {complaint}" for complaint in panel_is_sound(panel))
    alerts = {rule["alert"] for rule in of.rules()}
    for name in sorted(set(re.findall(r"\bMillrace[A-Z]\w+", str(board["panels"]))) - alerts):
        yield f"the dashboard names an alert {name}, which is not there"


def panel_is_sound(panel: dict) -> Iterator[str]:
    if not panel.get("description"):
        yield "does not say what it shows"
    defaults = panel["fieldConfig"]["defaults"]
    if defaults.get("unit") not in UNITS:
        yield f"its unit is {defaults.get('unit')}"
    if not defaults.get("thresholds", {}).get("steps"):
        yield "has no thresholds"
    if panel["datasource"]["uid"] != "${datasource}":
        yield "has a data source of its own"
    if not panel.get("targets"):
        yield "shows nothing"
    letters = [target["refId"] for target in panel.get("targets", [])]
    if len(set(letters)) != len(letters):
        yield "has two queries of one letter"
    for target in panel.get("targets", []):
        if target["datasource"]["uid"] != "${datasource}":
            yield "has a query with a data source of its own"
        for matchers in re.findall(r"\{([^}]*)\}", target["expr"]):
            if 'namespace="$namespace"' not in matchers:
                yield f"asks for all namespaces: {target['expr']}"


def panels_lie_apart(panels: list[dict]) -> Iterator[str]:
    taken: dict[tuple[int, int], str] = {}
    for panel in panels:
        place = panel["gridPos"]
        if place["x"] + place["w"] > COLUMNS:
            yield f"panel {panel['title']}: is beyond the edge"
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                if (x, y) in taken:
                    yield f"panel {panel['title']}: lies over {taken[x, y]}"
                    return
                taken[x, y] = panel["title"]


# --- All --------------------------------------------------------------------------------------------------------------


def complaints(of: Sources, promtool: str, programs: Programs) -> Iterator[str]:
    """Of all checks, those first that cost little."""
    yield from alerts_have_their_sections(of)
    yield from sections_are_whole(of)
    yield from links_lead_somewhere(of)
    yield from log_lines_are_said(of)
    yield from commands_are_known(of, programs)
    yield from every_projection_is_watched(of)
    yield from dashboard_is_sound(of)
    yield from rules_are_valid(of, promtool)
    yield from queries_parse(of, promtool)
    yield from alerts_behave(of, promtool)
