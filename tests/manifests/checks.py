"""The checks of manifests. Each takes the rendered resources of an overlay and yields complaints."""

import dataclasses
import functools
import json
import pathlib
import re
from collections.abc import Iterator

import kubernetes_validate

import scaling
from programs import DEPLOYABLES, Programs

# The oldest Kubernetes that the manifests are for (it has `preStop.sleep`), and the newest that there is a schema of.
VERSIONS = ("1.30", "1.37")
# Kinds of other people's controllers, of which there is no schema here, with the fields that their `spec` must have.
FOREIGN = {
    "ScaledObject": {"scaleTargetRef", "triggers", "minReplicaCount", "maxReplicaCount"},
    "TriggerAuthentication": {"podIdentity"},
    "PodMonitor": {"selector", "podMetricsEndpoints"},
    "PrometheusRule": {"groups"},
}
# How long a deployable may take from SIGTERM to its end, in seconds.
DRAIN = 20
# Kinds whose pods run until they are told to end.
LASTING = ("Deployment", "StatefulSet")
# Volumes that the restricted profile allows (Kubernetes, "Pod Security Standards").
VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}


@dataclasses.dataclass(frozen=True)
class Facts:
    """The sources that manifests are held against."""

    programs: Programs
    # The names of the registered projections' queues, without the prefix, as the templates have them.
    queues: set[str]
    # The rendered templates that a deployment consists of, policies and roles aside, by the names of their files.
    templates: dict[str, str]
    # The metrics that the reference documents.
    metrics: set[str]


def templates(folder: pathlib.Path) -> dict[str, str]:
    """The rendered templates by the names of their files. The tests of shop/program hold their contents."""
    texts = {path.name: path.read_text() for path in folder.glob("*.yaml")}
    rendered = {name: text for name, text in texts.items() if text.startswith("# Rendered from")}
    return {name: text for name, text in rendered.items() if "-access" not in name}


def queues(templates: dict[str, str]) -> set[str]:
    """The queues of projections: each has a template of its own, with a version in its name."""
    names = {name.removesuffix(".yaml") for name in templates}
    return {name for name in names if re.search(r"-v\d+$", name)}


def documented_metrics(reference: str) -> set[str]:
    """The names in the reference's table of metrics."""
    table = reference.split("\n## Metrics\n", 1)[1].split("\n## ", 1)[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`([a-z_]+)", row)}


# --- Finding one's way ------------------------------------------------------------------------------------------------


def named(resource: dict) -> str:
    """A resource as a person calls it."""
    return f"{resource['kind']} {resource['metadata']['name']}"


def generated(config: dict, name: str) -> bool:
    """Whether a ConfigMap was generated under a name."""
    return re.fullmatch(rf"{name}-[a-z0-9]{{10}}", config["metadata"]["name"]) is not None


def stack(resources: list[dict]) -> dict[str, str]:
    """The data of the ConfigMap `stack`."""
    found = [config["data"] for config in of_kind(resources, "ConfigMap") if generated(config, "stack")]
    return found[0] if found else {}


def of_kind(resources: list[dict], *kinds: str) -> list[dict]:
    return [resource for resource in resources if resource["kind"] in kinds]


def template(resource: dict) -> dict | None:
    """The template of a workload's pods; nothing where it is no workload."""
    spec = resource.get("spec") or {}
    if resource["kind"] in ("Deployment", "StatefulSet", "DaemonSet", "Job"):
        return spec["template"]
    if resource["kind"] == "CronJob":
        return spec["jobTemplate"]["spec"]["template"]
    if resource["kind"] == "Pod":
        return resource
    return None


def workloads(resources: list[dict]) -> list[tuple[dict, dict]]:
    """Each workload with its pods' template."""
    return [(resource, pod) for resource in resources if (pod := template(resource)) is not None]


def containers(pod: dict) -> list[dict]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def labels(pod: dict) -> dict[str, str]:
    return (pod.get("metadata") or {}).get("labels") or {}


def selects(selector: dict, of: dict[str, str]) -> bool:
    """Whether a label selector selects these labels."""
    for key, value in (selector.get("matchLabels") or {}).items():
        if of.get(key) != value:
            return False
    for term in selector.get("matchExpressions") or []:
        assert term["operator"] == "In", "no other operator is in use"
        if of.get(term["key"]) not in term["values"]:
            return False
    return True


def selected(resources: list[dict], selector: dict) -> list[dict]:
    """The pods' templates that a selector selects."""
    return [pod for _, pod in workloads(resources) if selects(selector, labels(pod))]


def port_names(pod: dict) -> set[str | int]:
    ports = [port for container in containers(pod) for port in container.get("ports", [])]
    return {port.get("name") for port in ports} | {port["containerPort"] for port in ports}


def deployable(container: dict) -> str | None:
    """Which deployable a container runs, by its image's name."""
    name = re.split(r"[@:]", container["image"].rsplit("/", 1)[-1])[0]
    return name if name in DEPLOYABLES else None


def named_ports(container: dict) -> list[dict]:
    return [{key: port.get(key) for key in ("name", "containerPort")} for port in container.get("ports", [])]


def value_of(container: dict, variable: str) -> str | None:
    """The value of an environment variable, if the container itself sets it."""
    return next((each.get("value") for each in container.get("env", []) if each["name"] == variable), None)


def command_of(container: dict) -> str | None:
    """The command for operators that a container runs, if it is one."""
    arguments = container.get("args") or []
    return arguments[0] if arguments and not arguments[0].startswith("-") else None


# --- The checks -------------------------------------------------------------------------------------------------------


def fits_its_schema(resources: list[dict]) -> Iterator[str]:
    """Strictly: a field that Kubernetes does not know is a complaint."""
    for resource in resources:
        if resource["kind"] not in FOREIGN:
            yield from misfits(json.dumps(resource))
        elif missing := FOREIGN[resource["kind"]] - set(resource["spec"]):
            yield f"{named(resource)}: no {', '.join(sorted(missing))}"


@functools.cache
def misfits(text: str) -> tuple[str, ...]:
    """Complaints about a resource, by its schemas, which take long to read."""
    resource, found = json.loads(text), []
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(resource, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            where = ".".join(str(step) for step in error.absolute_path)
            found.append(f"{named(resource)}: not of Kubernetes {version}: {where}: {error.message}")
        except kubernetes_validate.SchemaNotFoundError as error:
            found.append(f"{named(resource)}: {error.message}")
    return tuple(found)


def is_restricted(resources: list[dict]) -> Iterator[str]:
    """The restricted profile (Kubernetes, "Pod Security Standards"), and that the namespace enforces it."""
    for namespace in of_kind(resources, "Namespace"):
        if labels({"metadata": namespace["metadata"]}).get("pod-security.kubernetes.io/enforce") != "restricted":
            yield f"{named(namespace)}: does not enforce the restricted profile"
    for workload, pod in workloads(resources):
        spec, who = pod["spec"], named(workload)
        for field in ("hostNetwork", "hostPID", "hostIPC"):
            if spec.get(field):
                yield f"{who}: {field}"
        for volume in spec.get("volumes", []):
            if kinds := set(volume) - {"name"} - VOLUMES:
                yield f"{who}: a volume of kind {', '.join(kinds)}"
        of_pod = spec.get("securityContext") or {}
        if of_pod.get("sysctls"):
            yield f"{who}: sysctls"
        for container in containers(pod):
            of_container = container.get("securityContext") or {}
            where = f"{who}, container {container['name']}"

            def said(field, of_pod=of_pod, of_container=of_container):
                return of_container.get(field, of_pod.get(field))

            if said("runAsNonRoot") is not True or said("runAsUser") in (0, None):
                yield f"{where}: may run as root"
            if (said("seccompProfile") or {}).get("type") not in ("RuntimeDefault", "Localhost"):
                yield f"{where}: no seccomp profile"
            if of_container.get("allowPrivilegeEscalation") is not False or of_container.get("privileged"):
                yield f"{where}: may gain privileges"
            capabilities = of_container.get("capabilities") or {}
            if capabilities.get("drop") != ["ALL"] or capabilities.get("add"):
                yield f"{where}: keeps capabilities"
            if any(port.get("hostPort") for port in container.get("ports", [])):
                yield f"{where}: a port of the host"


def is_bounded(resources: list[dict]) -> Iterator[str]:
    """A root file system that cannot be written, and resources."""
    for workload, pod in workloads(resources):
        for container in containers(pod):
            where = f"{named(workload)}, container {container['name']}"
            if (container.get("securityContext") or {}).get("readOnlyRootFilesystem") is not True:
                yield f"{where}: its root file system can be written"
            resources_of = container.get("resources") or {}
            for kind, names in (("requests", ("cpu", "memory")), ("limits", ("memory",))):
                for name in names:
                    if name not in (resources_of.get(kind) or {}):
                        yield f"{where}: no {kind} of {name}"
        if pod["spec"].get("automountServiceAccountToken") is not False:
            yield f"{named(workload)}: has a token of the cluster's API"


def is_probed(resources: list[dict]) -> Iterator[str]:
    """Three probes, on the health names that are for them, and an end that is waited for."""
    for workload, pod in workloads(resources):
        if workload["kind"] not in LASTING:
            continue
        for container in containers(pod):
            where = f"{named(workload)}, container {container['name']}"
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                if probe not in container:
                    yield f"{where}: no {probe}"
                    continue
                if not deployable(container):
                    continue
                grpc = container[probe].get("grpc") or {}
                expected = "readiness" if probe == "readinessProbe" else "liveness"
                if grpc.get("service") != expected:
                    yield f"{where}: the {probe} does not ask for {expected}"
                # The kubelet speaks no TLS: where gRPC does, health has a port of its own.
                port = "health" if value_of(container, "TLS_CERT_FILE") else "grpc"
                if {"name": port, "containerPort": grpc.get("port")} not in named_ports(container):
                    yield f"{where}: the {probe} asks on another port than {port}"
            if deployable(container):
                stop = ((container.get("lifecycle") or {}).get("preStop") or {}).get("sleep") or {}
                if pod["spec"].get("terminationGracePeriodSeconds", 30) <= stop.get("seconds", 0) + DRAIN:
                    yield f"{named(workload)}: is killed before it has drained"
        if any(deployable(container) for container in containers(pod)):
            if len(pod["spec"].get("topologySpreadConstraints") or []) < 2:
                yield f"{named(workload)}: is not spread over zones and nodes"


def points_at_something(resources: list[dict]) -> Iterator[str]:
    """All named pods, ports, workloads, accounts and configurations exist."""
    for workload, pod in workloads(resources):
        if (selector := workload["spec"].get("selector")) and not selects(selector, labels(pod)):
            yield f"{named(workload)}: does not select its own pods"
        for constraint in pod["spec"].get("topologySpreadConstraints") or []:
            if not selects(constraint["labelSelector"], labels(pod)):
                yield f"{named(workload)}: a spread that does not count its own pods"
    for service in of_kind(resources, "Service"):
        pods = selected(resources, {"matchLabels": service["spec"]["selector"]})
        if not pods:
            yield f"{named(service)}: selects no pod"
        for port in service["spec"]["ports"]:
            if any(port["targetPort"] not in port_names(pod) for pod in pods):
                yield f"{named(service)}: its pods have no port {port['targetPort']}"
    for budget in of_kind(resources, "PodDisruptionBudget"):
        if not selected(resources, budget["spec"]["selector"]):
            yield f"{named(budget)}: selects no pod"
    for policy in of_kind(resources, "NetworkPolicy"):
        pods = selected(resources, policy["spec"]["podSelector"])
        if not pods:
            yield f"{named(policy)}: selects no pod"
        for rule in policy["spec"].get("ingress") or []:
            for port in rule.get("ports", []):
                if any(port["port"] not in port_names(pod) for pod in pods):
                    yield f"{named(policy)}: its pods have no port {port['port']}"
    for monitor in of_kind(resources, "PodMonitor"):
        pods = selected(resources, monitor["spec"]["selector"])
        if len(pods) < len(DEPLOYABLES):
            yield f"{named(monitor)}: does not scrape every deployable"
        for endpoint in monitor["spec"]["podMetricsEndpoints"]:
            if any(endpoint["port"] not in port_names(pod) for pod in pods):
                yield f"{named(monitor)}: its pods have no port {endpoint['port']}"
    yield from names_exist(resources)


def names_exist(resources: list[dict]) -> Iterator[str]:
    """Names of accounts and of configuration."""
    accounts = {account["metadata"]["name"] for account in of_kind(resources, "ServiceAccount")} | {"default"}
    maps = {each["metadata"]["name"]: set(each.get("data") or {}) for each in of_kind(resources, "ConfigMap")}
    for workload, pod in workloads(resources):
        who = named(workload)
        if pod["spec"].get("serviceAccountName", "default") not in accounts:
            yield f"{who}: there is no service account {pod['spec']['serviceAccountName']}"
        for volume in pod["spec"].get("volumes", []):
            if "configMap" in volume and volume["configMap"]["name"] not in maps:
                yield f"{who}: there is no ConfigMap {volume['configMap']['name']}"
        for container in containers(pod):
            for each in container.get("envFrom", []):
                if each["configMapRef"]["name"] not in maps:
                    yield f"{who}: there is no ConfigMap {each['configMapRef']['name']}"
            for each in container.get("env", []):
                reference = (each.get("valueFrom") or {}).get("configMapKeyRef")
                if reference and reference["key"] not in maps.get(reference["name"], set()):
                    yield f"{who}: {each['name']} is not in the ConfigMap {reference['name']}"
    for resource in resources:
        namespace = resource["metadata"].get("namespace")
        if resource["kind"] != "Namespace" and namespace not in {
            each["metadata"]["name"] for each in of_kind(resources, "Namespace")
        }:
            yield f"{named(resource)}: is in no namespace that there is"


def is_scaled_and_guarded(resources: list[dict]) -> Iterator[str]:
    """Each deployable has its budget, account, policy, and a scaler where it can be scaled at all."""
    scalers: dict[str, list[str]] = {}
    for scaler in of_kind(resources, "HorizontalPodAutoscaler", "ScaledObject"):
        target = scaler["spec"]["scaleTargetRef"]
        scalers.setdefault(target["name"], []).append(named(scaler))
        kinds = [each["metadata"]["name"] for each in of_kind(resources, target["kind"])]
        if target["name"] not in kinds:
            yield f"{named(scaler)}: scales nothing"
    deployments = {each["metadata"]["name"]: each for each in of_kind(resources, "Deployment")}
    for name in DEPLOYABLES:
        if name not in deployments:
            yield f"there is no Deployment {name}"
            continue
        own = labels(template(deployments[name]))
        pinned = "replicas" in deployments[name]["spec"]
        if pinned == (name in scalers) or len(scalers.get(name, [])) > 1:
            yield f"Deployment {name}: scaled by {scalers.get(name, [])}, replicas given: {pinned}"
        for kind, selector in (
            ("PodDisruptionBudget", lambda each: each["spec"]["selector"]),
            ("NetworkPolicy", lambda each: {"matchLabels": {}} | each["spec"]["podSelector"]),
        ):
            its_own = [each for each in of_kind(resources, kind) if each["metadata"]["name"] == name]
            if not its_own or not selects(selector(its_own[0]), own):
                yield f"Deployment {name}: has no {kind} of its own"
    denies = [
        policy
        for policy in of_kind(resources, "NetworkPolicy")
        if policy["spec"]["podSelector"] == {}
        and set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"}
        and not policy["spec"].get("ingress")
        and not policy["spec"].get("egress")
    ]
    if not denies:
        yield "no NetworkPolicy denies what no other allows"


def is_reached(resources: list[dict]) -> Iterator[str]:
    """Each deployable has a service of its name that leads to all of its replicas."""
    services = {each["metadata"]["name"]: each["spec"] for each in of_kind(resources, "Service")}
    for deployment in of_kind(resources, "Deployment"):
        name, pod = deployment["metadata"]["name"], template(deployment)
        if not any(deployable(container) for container in containers(pod)):
            continue
        if name not in services or not selects({"matchLabels": services[name]["selector"]}, labels(pod)):
            yield f"Deployment {name}: has no Service of its own"
        elif services[name].get("clusterIP") != "None":
            yield f"Service {name}: is not headless, so gRPC would not be balanced"


def is_configured(resources: list[dict]) -> Iterator[str]:
    """Each deployable is told a region and a prefix, by a ConfigMap as a whole."""
    maps = {each["metadata"]["name"]: set(each.get("data") or {}) for each in of_kind(resources, "ConfigMap")}
    for workload, pod in workloads(resources):
        for container in containers(pod):
            given = set().union(*(maps.get(each["configMapRef"]["name"], ()) for each in container.get("envFrom", [])))
            for name in sorted({"AWS_REGION", "MILLRACE_PREFIX"} - given):
                yield f"{named(workload)}, container {container['name']}: {name} is missing"


def is_understood(resources: list[dict], facts: Facts) -> Iterator[str]:
    """Every variable, flag and port is one that the deployable knows, and none that it needs is missing."""
    maps = {each["metadata"]["name"]: set(each.get("data") or {}) for each in of_kind(resources, "ConfigMap")}
    for workload, pod in workloads(resources):
        for container in containers(pod):
            program = deployable(container)
            if not program:
                continue
            command, where = command_of(container), f"{named(workload)}, container {container['name']}"
            given = {each["name"] for each in container.get("env", [])}
            for each in container.get("envFrom", []):
                # The data of `stack` is for all: `is_what_was_deployed` holds that some program knows it.
                if not each["configMapRef"]["name"].startswith("stack-"):
                    given |= maps.get(each["configMapRef"]["name"], set())
            for name in sorted(given - facts.programs.variables(program, command)):
                yield f"{where}: {program} knows no variable {name}"
            flags = {argument.split("=")[0] for argument in container.get("args") or [] if argument.startswith("--")}
            for flag in sorted(flags - facts.programs.flags(program, command)):
                yield f"{where}: {program} knows no flag {flag}"
            if not any(each["configMapRef"]["name"].startswith("stack-") for each in container.get("envFrom", [])):
                yield f"{where}: does not know the stack"
            # Without a prefix of its own, it would take the application's name for it, and perhaps another's tables.
            needed = facts.programs.required(program, command) | {"AWS_REGION", "MILLRACE_PREFIX"}
            for name in sorted(needed - given):
                yield f"{where}: {name} is missing"
            if command:
                continue
            for port, variable in (("grpc", "GRPC_ADDR"), ("metrics", "METRICS_ADDR")):
                expected = {"name": port, "containerPort": facts.programs.port(program, variable)}
                if expected not in named_ports(container):
                    yield f"{where}: does not name the port {expected}"


def is_guarded(overlay: str, resources: list[dict]) -> Iterator[str]:
    """In production gRPC is served over TLS, from secrets that can be swapped, to callers who are authenticated."""
    if not overlay.startswith("eks"):
        return
    maps = {each["metadata"]["name"]: each.get("data") or {} for each in of_kind(resources, "ConfigMap")}
    for workload, pod in workloads(resources):
        secrets = {each["name"]: each["secret"]["secretName"] for each in pod["spec"].get("volumes", []) if "secret" in each}
        for container in containers(pod):
            if workload["kind"] not in LASTING or not deployable(container):
                continue
            where = f"{named(workload)}, container {container['name']}"
            for variable in ("TLS_CERT_FILE", "TLS_KEY_FILE"):
                directory = (value_of(container, variable) or "").rpartition("/")[0]
                mounts = [each for each in container.get("volumeMounts", []) if each["mountPath"] == directory]
                if secrets.get(mounts[0]["name"] if mounts else None) != f"{workload['metadata']['name']}-tls":
                    yield f"{where}: {variable} is not in a secret of its own"
                elif "subPath" in mounts[0]:
                    yield f"{where}: {variable} never changes, being mounted with subPath"
            health = (value_of(container, "HEALTH_ADDR") or "").rpartition(":")
            if not health[0] or health[0] in ("127.0.0.1", "[::1]", "localhost"):
                yield f"{where}: health is not served where the kubelet could ask"
            elif {"name": "health", "containerPort": int(health[2])} not in named_ports(container):
                yield f"{where}: health is served on a port that is not named"
            given = {}
            for each in container.get("envFrom", []):
                given |= maps.get(each["configMapRef"]["name"], {})
            for variable in ("JWT_ISSUER", "JWT_AUDIENCE"):
                if not given.get(variable):
                    yield f"{where}: callers are not authenticated, for want of {variable}"
            if not given.get("JWT_JWKS_URL") and not given.get("JWT_JWKS_FILE"):
                yield f"{where}: no keys that tokens are verified with"
    for service in of_kind(resources, "Service"):
        if service["metadata"]["name"] in DEPLOYABLES and any(
            port.get("appProtocol") != "https" for port in service["spec"]["ports"]
        ):
            yield f"{named(service)}: says that it speaks plain text"


def is_what_was_deployed(overlay: str, resources: list[dict], facts: Facts) -> Iterator[str]:
    """The configuration has all needed names and no unknown one; images are pinned, in production to the byte."""
    settings = stack(resources)
    for key in sorted({"AWS_REGION", "MILLRACE_PREFIX"} - set(settings)):
        yield f"stack.env: {key} is missing"
    known = {name for program in DEPLOYABLES for name in facts.programs.variables(program)}
    for key in sorted(set(settings) - known):
        yield f"stack.env: no deployable knows a variable {key}"
    for config in of_kind(resources, "ConfigMap"):
        if generated(config, "templates") and config["data"] != facts.templates:
            differing = set(config["data"].items()) ^ set(facts.templates.items())
            yield f"not the rendered templates: {', '.join(sorted({name for name, _ in differing}))}"
    for workload, pod in workloads(resources):
        for container in containers(pod):
            pinned = r".+@sha256:[0-9a-f]{64}" if overlay.startswith("eks") else r".+:[0-9][0-9A-Za-z.-]*"
            if not re.fullmatch(pinned, container["image"]):
                yield f"{named(workload)}: the image {container['image']} is not pinned"
    if overlay.startswith("eks"):
        for account in of_kind(resources, "ServiceAccount"):
            role = (account["metadata"].get("annotations") or {}).get("eks.amazonaws.com/role-arn", "")
            name = f"{settings.get('MILLRACE_PREFIX')}-{account['metadata']['name']}"
            if not re.fullmatch(rf"arn:[a-z-]+:iam::\d{{12}}:role/{name}", role):
                yield f"{named(account)}: takes on no role of its name"


def scales_by_every_queue(resources: list[dict], registered: set[str]) -> Iterator[str]:
    """Where KEDA scales the projector, it looks at the queue of every registered projection, and at no other."""
    prefix = stack(resources).get("MILLRACE_PREFIX")
    queues = {f"{prefix}-{queue}" for queue in registered}
    for scaler in of_kind(resources, "ScaledObject"):
        for kind in ("aws-sqs-queue", "aws-cloudwatch"):
            asked = {scaling.queue_of(each) for each in scaler["spec"]["triggers"] if each["type"] == kind}
            for queue in sorted(queues - asked):
                yield f"{named(scaler)}: does not look at the queue {queue} by {kind}"
            for queue in sorted(asked - queues):
                yield f"{named(scaler)}: there is no queue {queue}"


def scales_in_time(resources: list[dict]) -> Iterator[str]:
    """Where KEDA scales the projector, messages wait no longer than they should, and the number of replicas is calm."""
    for scaler in of_kind(resources, "ScaledObject"):
        for complaint in scaling.complaints(scaler["spec"]):
            yield f"{named(scaler)}: {complaint}"


def asks_for_metrics_that_exist(resources: list[dict], facts: Facts) -> Iterator[str]:
    """Alerts are about metrics that the reference documents."""
    for rules in of_kind(resources, "PrometheusRule"):
        for rule in (rule for group in rules["spec"]["groups"] for rule in group["rules"]):
            asked = set(re.findall(r"\b([a-z_]+)\{", rule["expr"]))
            if not asked:
                yield f"alert {rule['alert']}: asks for no metric"
            for metric in sorted(asked):
                if metric not in facts.metrics and metric.removesuffix("_bucket") not in facts.metrics:
                    yield f"alert {rule['alert']}: there is no metric {metric}"
            if rule["labels"].get("severity") not in ("page", "ticket") or not rule["annotations"].get("summary"):
                yield f"alert {rule['alert']}: says neither how urgent it is nor what is wrong"


def reaches_its_collector(resources: list[dict]) -> Iterator[str]:
    """Every workload with an address for traces can reach it."""
    for workload, pod in workloads(resources):
        for container in containers(pod):
            url = value_of(container, "OTEL_EXPORTER_OTLP_ENDPOINT")
            if not url:
                continue
            open_ports = {
                port["port"]
                for policy in of_kind(resources, "NetworkPolicy")
                if selects(policy["spec"]["podSelector"], labels(pod))
                for rule in policy["spec"].get("egress") or []
                for port in rule.get("ports", [])
            }
            if int(url.rsplit(":", 1)[1]) not in open_ports:
                yield f"{named(workload)}: no NetworkPolicy lets it out to {url}"


def complaints(overlay: str, resources: list[dict], facts: Facts) -> list[str]:
    """All complaints about an overlay. A misfit with a schema ends the checks."""
    return list(fits_its_schema(resources)) or [
        *is_restricted(resources),
        *is_bounded(resources),
        *is_probed(resources),
        *points_at_something(resources),
        *is_scaled_and_guarded(resources),
        *is_reached(resources),
        *is_understood(resources, facts),
        *is_guarded(overlay, resources),
        *is_what_was_deployed(overlay, resources, facts),
        *(found := list(scales_by_every_queue(resources, facts.queues))),
        *([] if found else scales_in_time(resources)),
        *asks_for_metrics_that_exist(resources, facts),
        *reaches_its_collector(resources),
    ]


def complaints_of_an_application(resources: list[dict], queues: set[str]) -> list[str]:
    """All complaints about the manifests that `millrace new app` makes."""
    return list(fits_its_schema(resources)) or [
        *is_restricted(resources),
        *is_bounded(resources),
        *is_probed(resources),
        *points_at_something(resources),
        *is_scaled_and_guarded(resources),
        *is_reached(resources),
        *is_configured(resources),
        *scales_by_every_queue(resources, queues),
    ]
