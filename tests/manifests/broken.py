"""Manifests that are broken, each in one way, and the complaint it must yield."""

import copy
import dataclasses
from collections.abc import Callable

import checks


def find(resources: list[dict], kind: str, name: str) -> dict:
    return next(each for each in resources if each["kind"] == kind and each["metadata"]["name"] == name)


def generated(resources: list[dict], name: str) -> dict:
    """The data of a generated ConfigMap."""
    return next(each["data"] for each in resources if each["kind"] == "ConfigMap" and checks.generated(each, name))


def container(resources: list[dict], kind: str = "Deployment", name: str = "projector") -> dict:
    return checks.containers(checks.template(find(resources, kind, name)))[0]


def pod(resources: list[dict]) -> dict:
    return checks.template(find(resources, "Deployment", "projector"))["spec"]


def rule(resources: list[dict]) -> dict:
    return find(resources, "PrometheusRule", "millrace")["spec"]["groups"][0]["rules"][0]


def without(resources: list[dict], kind: str, name: str) -> None:
    resources.remove(find(resources, kind, name))


@dataclasses.dataclass(frozen=True)
class Broken:
    """A way to break a manifest, and words of the complaint."""

    name: str
    breaking: Callable[[list[dict]], object]
    complaint: str
    # Of the overlay for kind, instead of that for EKS.
    kind: bool = False


def security(**fields) -> Callable[[list[dict]], object]:
    return lambda all: container(all)["securityContext"].update(fields)


def pop(*path) -> Callable[[list[dict]], object]:
    """Takes a field of the projector's container away."""

    def breaking(resources: list[dict]) -> None:
        place = container(resources)
        for step in path[:-1]:
            place = place[step]
        place.pop(path[-1])

    return breaking


def unset(resources: list[dict], variable: str) -> None:
    """Takes a variable of the projector's away."""
    container(resources)["env"] = [each for each in container(resources)["env"] if each["name"] != variable]


def set_to(resources: list[dict], variable: str, value: str) -> None:
    """Sets a variable of the projector's to something else."""
    next(each for each in container(resources)["env"] if each["name"] == variable)["value"] = value


BROKEN = [
    Broken(
        "a field that Kubernetes does not know", lambda all: container(all).update(readynessProbe={}), "readynessProbe"
    ),
    Broken(
        "a value of another type", lambda all: pod(all).update(terminationGracePeriodSeconds="30"), "not of Kubernetes"
    ),
    Broken("no startup probe", pop("startupProbe"), "no startupProbe"),
    Broken("no liveness probe", pop("livenessProbe"), "no livenessProbe"),
    Broken("no readiness probe", pop("readinessProbe"), "no readinessProbe"),
    Broken(
        "liveness that asks whether AWS can be reached",
        lambda all: container(all)["livenessProbe"]["grpc"].update(service="readiness"),
        "does not ask for liveness",
    ),
    Broken(
        "a probe on another port", lambda all: container(all)["readinessProbe"]["grpc"].update(port=1), "another port"
    ),
    Broken(
        "a probe of a port that speaks TLS",
        lambda all: container(all)["readinessProbe"]["grpc"].update(port=50053),
        "asks on another port than health",
    ),
    Broken("plain text", lambda all: unset(all, "TLS_CERT_FILE"), "TLS_CERT_FILE is not in a secret of its own"),
    Broken(
        "the key of another",
        lambda all: pod(all)["volumes"][0]["secret"].update(secretName="query-service-tls"),
        "TLS_KEY_FILE is not in a secret of its own",
    ),
    Broken(
        "a secret that never changes",
        lambda all: container(all)["volumeMounts"][0].update(subPath="tls.crt"),
        "never changes",
    ),
    Broken(
        "health on loopback",
        lambda all: set_to(all, "HEALTH_ADDR", "127.0.0.1:8086"),
        "not served where the kubelet could ask",
    ),
    Broken("health elsewhere", lambda all: set_to(all, "HEALTH_ADDR", "0.0.0.0:8087"), "a port that is not named"),
    Broken("no tokens", lambda all: container(all)["envFrom"].pop(), "for want of JWT_ISSUER"),
    Broken(
        "tokens for anybody",
        lambda all: generated(all, "identity").pop("JWT_AUDIENCE"),
        "for want of JWT_AUDIENCE",
    ),
    Broken(
        "no keys of tokens",
        lambda all: generated(all, "identity").pop("JWT_JWKS_URL"),
        "no keys that tokens",
    ),
    Broken(
        "a Service that calls TLS plain text",
        lambda all: find(all, "Service", "projector")["spec"]["ports"][0].update(appProtocol="kubernetes.io/h2c"),
        "says that it speaks plain text",
    ),
    Broken(
        "no probe of the local AWS",
        lambda all: container(all, "StatefulSet", "aws").pop("livenessProbe"),
        "no livenessProbe",
        kind=True,
    ),
    Broken("no resources", pop("resources"), "no requests of cpu"),
    Broken("no limit of memory", pop("resources", "limits"), "no limits of memory"),
    Broken(
        "no limit of a Job",
        lambda all: container(all, "Job", "deploy-stack")["resources"].pop("limits"),
        "no limits",
        kind=True,
    ),
    Broken(
        "a root file system that can be written", pop("securityContext", "readOnlyRootFilesystem"), "can be written"
    ),
    Broken(
        "the same, of a CronJob",
        lambda all: container(all, "CronJob", "audit")["securityContext"].update(readOnlyRootFilesystem=False),
        "can be written",
    ),
    Broken("root", lambda all: pod(all)["securityContext"].update(runAsUser=0), "may run as root"),
    Broken("perhaps root", lambda all: pod(all)["securityContext"].pop("runAsNonRoot"), "may run as root"),
    Broken("root in a container", security(runAsNonRoot=False), "may run as root"),
    Broken("no seccomp profile", lambda all: pod(all)["securityContext"].pop("seccompProfile"), "no seccomp"),
    Broken("privileges to be gained", security(allowPrivilegeEscalation=True), "may gain privileges"),
    Broken("a capability", security(capabilities={"drop": ["ALL"], "add": ["NET_ADMIN"]}), "keeps capabilities"),
    Broken("all capabilities", pop("securityContext", "capabilities"), "keeps capabilities"),
    Broken("the host's network", lambda all: pod(all).update(hostNetwork=True), "hostNetwork"),
    Broken(
        "a directory of the host",
        lambda all: pod(all).update(volumes=[{"name": "h", "hostPath": {"path": "/"}}]),
        "a volume of kind hostPath",
    ),
    Broken("a port of the host", lambda all: container(all)["ports"][0].update(hostPort=50053), "port of the host"),
    Broken(
        "a token of the API", lambda all: pod(all).pop("automountServiceAccountToken"), "token of the cluster's API"
    ),
    Broken(
        "a namespace that takes any pod",
        lambda all: find(all, "Namespace", "millrace")["metadata"]["labels"].pop("pod-security.kubernetes.io/enforce"),
        "does not enforce",
    ),
    Broken(
        "an end that comes before the drain",
        lambda all: pod(all).update(terminationGracePeriodSeconds=25),
        "killed before",
    ),
    Broken("no spread", lambda all: pod(all).pop("topologySpreadConstraints"), "is not spread"),
    Broken(
        "a spread over others",
        lambda all: pod(all)["topologySpreadConstraints"][0].update(labelSelector={"matchLabels": {"a": "b"}}),
        "does not count",
    ),
    Broken(
        "a Deployment that selects others",
        lambda all: find(all, "Deployment", "projector")["spec"].update(selector={"matchLabels": {"a": "b"}}),
        "does not select its own",
    ),
    Broken(
        "a Service for nobody",
        lambda all: find(all, "Service", "projector")["spec"].update(selector={"a": "b"}),
        "Service projector: selects no pod",
    ),
    Broken(
        "a Service's port",
        lambda all: find(all, "Service", "projector")["spec"]["ports"][0].update(targetPort="http"),
        "no port http",
    ),
    Broken(
        "a Service that balances connections",
        lambda all: find(all, "Service", "projector")["spec"].pop("clusterIP"),
        "not headless",
    ),
    Broken(
        "a budget for nobody",
        lambda all: find(all, "PodDisruptionBudget", "projector")["spec"].update(selector={"matchLabels": {"a": "b"}}),
        "PodDisruptionBudget projector: selects no pod",
    ),
    Broken("no service", lambda all: without(all, "Service", "projector"), "has no Service"),
    Broken("no budget", lambda all: without(all, "PodDisruptionBudget", "projector"), "no PodDisruptionBudget"),
    Broken(
        "an autoscaler of nothing",
        lambda all: find(all, "HorizontalPodAutoscaler", "query-service")["spec"]["scaleTargetRef"].update(
            name="query"
        ),
        "scales nothing",
    ),
    Broken(
        "a KEDA that scales nothing",
        lambda all: find(all, "ScaledObject", "projector")["spec"]["scaleTargetRef"].update(name="p"),
        "scales nothing",
    ),
    Broken(
        "a KEDA that scales too little",
        lambda all: find(all, "ScaledObject", "projector")["spec"].update(maxReplicaCount=5),
        "messages wait for",
    ),
    Broken(
        "a KEDA that scales to and fro",
        lambda all: find(all, "ScaledObject", "projector")["spec"].pop("advanced"),
        "the number of replicas turns",
    ),
    Broken(
        "two who scale",
        lambda all: find(all, "HorizontalPodAutoscaler", "query-service")["spec"]["scaleTargetRef"].update(
            name="projector"
        ),
        "scaled by",
    ),
    Broken("nobody who scales", lambda all: without(all, "HorizontalPodAutoscaler", "query-service"), "scaled by []"),
    Broken(
        "a policy for nobody",
        lambda all: find(all, "NetworkPolicy", "projector")["spec"].update(podSelector={"matchLabels": {"a": "b"}}),
        "selects no pod",
    ),
    Broken(
        "a policy's port",
        lambda all: find(all, "NetworkPolicy", "metrics")["spec"]["ingress"][0]["ports"][0].update(port="http"),
        "no port http",
    ),
    Broken("no denial", lambda all: without(all, "NetworkPolicy", "default-deny"), "no NetworkPolicy denies"),
    Broken("no policy", lambda all: without(all, "NetworkPolicy", "query-service"), "no NetworkPolicy of its own"),
    Broken("no account", lambda all: without(all, "ServiceAccount", "projector"), "no service account projector"),
    Broken(
        "another namespace",
        lambda all: find(all, "Service", "projector")["metadata"].update(namespace="other"),
        "no namespace",
    ),
    Broken(
        "a variable that is not known",
        lambda all: container(all)["env"].append({"name": "TLS_CERT", "value": "x"}),
        "knows no variable TLS_CERT",
    ),
    Broken(
        "a variable of another deployable",
        lambda all: container(all)["env"].append({"name": "SNAPSHOT_EVERY", "value": "1"}),
        "knows no variable SNAPSHOT_EVERY",
    ),
    Broken(
        "a container without the stack",
        lambda all: container(all)["envFrom"].pop(0),
        "does not know the stack",
    ),
    Broken("a container without a prefix", lambda all: unset(all, "MILLRACE_PREFIX"), "MILLRACE_PREFIX is missing"),
    Broken("no prefix", lambda all: generated(all, "stack").pop("MILLRACE_PREFIX"), "MILLRACE_PREFIX is missing"),
    Broken("no region", lambda all: generated(all, "stack").pop("AWS_REGION"), "AWS_REGION is missing"),
    Broken("a variable that nobody knows", lambda all: generated(all, "stack").update(NO="x"), "a variable NO"),
    Broken(
        "a template that is not deployed",
        lambda all: generated(all, "templates").pop("data.yaml"),
        "not the rendered templates: data.yaml",
        kind=True,
    ),
    Broken(
        "a queue that nobody scales by",
        lambda all: find(all, "ScaledObject", "projector")["spec"]["triggers"].pop(),
        "does not look at the queue",
    ),
    Broken(
        "a queue that is none",
        lambda all: find(all, "ScaledObject", "projector")["spec"]["triggers"][0]["metadata"].update(queueURL="q"),
        "there is no queue q",
    ),
    Broken(
        "a key that is not there",
        lambda all: container(all)["env"][1].update(valueFrom={"configMapKeyRef": {"name": "stack", "key": "NOTHING"}}),
        "is not in the ConfigMap",
    ),
    Broken(
        "a flag that is not known",
        lambda all: container(all, "CronJob", "audit")["args"].append("--fix"),
        "knows no flag --fix",
    ),
    Broken(
        "another port of gRPC",
        lambda all: container(all)["ports"][0].update(containerPort=50051),
        "does not name the port",
    ),
    Broken(
        "no way to the collector",
        lambda all: without(all, "NetworkPolicy", "traces"),
        "no NetworkPolicy lets it out to http://collector",
    ),
    Broken("no port of metrics", lambda all: container(all)["ports"].pop(1), "does not name the port"),
    Broken("a tag in production", lambda all: container(all).update(image="millrace/projector:0.1.0"), "is not pinned"),
    Broken(
        "the latest", lambda all: container(all).update(image="millrace/projector:latest"), "is not pinned", kind=True
    ),
    Broken(
        "no role",
        lambda all: find(all, "ServiceAccount", "projector")["metadata"].pop("annotations"),
        "takes on no role",
    ),
    Broken(
        "another's role",
        lambda all: find(all, "ServiceAccount", "projector")["metadata"]["annotations"].update(
            {"eks.amazonaws.com/role-arn": "arn:aws:iam::111122223333:role/shop-audit"}
        ),
        "takes on no role",
    ),
    Broken(
        "a metric that is none",
        lambda all: rule(all).update(expr='max(relay_late_seconds{namespace="millrace"}) > 1'),
        "no metric relay_late_seconds",
    ),
    Broken("an alert of no urgency", lambda all: rule(all)["labels"].clear(), "how urgent"),
    Broken(
        "nothing scraped",
        lambda all: find(all, "PodMonitor", "millrace")["spec"].update(selector={"matchLabels": {"a": "b"}}),
        "does not scrape",
    ),
    Broken(
        "a foreign kind without a spec",
        lambda all: find(all, "ScaledObject", "projector")["spec"].pop("triggers"),
        "no triggers",
    ),
]


def unseen(eks: list[dict], kind: list[dict], facts: checks.Facts) -> list[str]:
    """The broken manifests of which nothing fitting is said."""
    missed = []
    for each in BROKEN:
        resources = copy.deepcopy(kind if each.kind else eks)
        each.breaking(resources)
        found = checks.complaints("kind" if each.kind else "eks", resources, facts)
        if not any(each.complaint in complaint for complaint in found):
            missed.append(f"{each.name}; said was: {found}")
    return missed
