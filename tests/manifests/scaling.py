"""The scaling of the projector, simulated: the rules of KEDA and of Kubernetes' autoscaler over the policy as rendered.

Sources: Kubernetes, "Horizontal Pod Autoscaling" (algorithm, tolerance, configurable scaling behavior); KEDA, "Scaling
Deployments" and its scalers `aws-sqs-queue` and `aws-cloudwatch`: a trigger is an external metric by average value.
"""

import collections
import dataclasses
import functools
import json
import math
from collections.abc import Callable, Iterator

# The autoscaler looks every so many seconds, and leaves the number alone where it is off by a tenth at most.
SYNC, TOLERANCE = 15, 0.1
# Seconds from a replica's creation to its first message, and the age of what SQS and CloudWatch tell.
START, DEPTH_DELAY, AGE_DELAY = 30, 30, 150
# Messages of a queue that a replica works on at a time (MESSAGES_AT_ONCE).
AT_ONCE = 200
# What an autoscaler does where its `behavior` does not say.
DEFAULTS = {
    "scaleUp": {
        "stabilizationWindowSeconds": 0,
        "policies": [
            {"type": "Percent", "value": 100, "periodSeconds": 15},
            {"type": "Pods", "value": 4, "periodSeconds": 15},
        ],
    },
    "scaleDown": {
        "stabilizationWindowSeconds": 300,
        "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}],
    },
}


@dataclasses.dataclass
class Queue:
    """A queue and its messages, in the order in which they came."""

    waiting: collections.deque = dataclasses.field(default_factory=collections.deque)
    depth: float = 0
    depths: list[float] = dataclasses.field(default_factory=list)
    ages: list[float] = dataclasses.field(default_factory=list)

    def second(self, now: int, arriving: float, served: float) -> None:
        """A second passes."""
        if arriving:
            self.waiting.append([now, arriving])
            self.depth += arriving
        while served > 0 and self.waiting:
            taken = min(served, self.waiting[0][1])
            self.waiting[0][1] -= taken
            self.depth -= taken
            served -= taken
            if self.waiting[0][1] <= 0:
                self.waiting.popleft()
        self.depths.append(self.depth)
        self.ages.append(now - self.waiting[0][0] if self.waiting else 0)

    def told(self, trigger: dict, now: int) -> float:
        """What a trigger is told now."""
        if trigger["type"] == "aws-sqs-queue":
            return self.depths[now - DEPTH_DELAY] if now >= DEPTH_DELAY else 0
        # The largest in a period.
        end, period = now - AGE_DELAY, int(trigger["metadata"]["metricStatPeriod"])
        return max(self.ages[max(0, end - period) : end], default=0) if end > 0 else 0


def target(trigger: dict) -> float:
    metadata = trigger["metadata"]
    return float(metadata["queueLength"] if trigger["type"] == "aws-sqs-queue" else metadata["targetMetricValue"])


def queue_of(trigger: dict) -> str:
    """The name of the queue that a trigger looks at."""
    metadata = trigger["metadata"]
    return metadata["queueURL"] if trigger["type"] == "aws-sqs-queue" else metadata["dimensionValue"]


class Autoscaler:
    """An autoscaler by a ScaledObject's specification."""

    def __init__(self, spec: dict) -> None:
        self.spec = spec
        given = ((spec.get("advanced") or {}).get("horizontalPodAutoscalerConfig") or {}).get("behavior") or {}
        self.behavior = {name: {**rules, **given.get(name, {})} for name, rules in DEFAULTS.items()}
        self.replicas = spec["minReplicaCount"]
        self.changes: list[tuple[int, int]] = []
        self.recommended: list[tuple[int, int]] = []

    def look(self, now: int, queues: dict[str, Queue]) -> None:
        wanted = max((self.by_trigger(trigger, now, queues) for trigger in self.spec["triggers"]), default=0)
        self.recommended.append((now, wanted))
        rules = self.behavior["scaleUp" if wanted > self.replicas else "scaleDown"]
        since = now - rules["stabilizationWindowSeconds"]
        recent = [number for at, number in self.recommended if at >= since]
        if wanted > self.replicas:
            wanted = min(max(self.replicas, min(recent)), max(self.limits(rules, now, 1)))
        elif wanted < self.replicas:
            wanted = max(min(self.replicas, max(recent)), min(self.limits(rules, now, -1)))
        wanted = min(max(wanted, self.spec["minReplicaCount"]), self.spec["maxReplicaCount"])
        if wanted != self.replicas:
            self.changes.append((now, wanted - self.replicas))
            self.replicas = wanted

    def by_trigger(self, trigger: dict, now: int, queues: dict[str, Queue]) -> int:
        ratio = queues[queue_of(trigger)].told(trigger, now) / target(trigger)
        if abs(ratio / self.replicas - 1) <= TOLERANCE:
            return self.replicas
        return math.ceil(ratio)

    def limits(self, rules: dict, now: int, sign: int) -> Iterator[int]:
        """The number that each policy allows, by the number at the beginning of its period."""
        for policy in rules["policies"]:
            changed = [by for at, by in self.changes if at > now - policy["periodSeconds"] and by * sign > 0]
            before, value = self.replicas - sum(changed), policy["value"]
            if policy["type"] == "Pods":
                yield before + sign * value
            else:
                yield math.ceil(before * (1 + value / 100)) if sign > 0 else math.floor(before * (1 - value / 100))


@dataclasses.dataclass(frozen=True)
class Run:
    """What a simulation came to, second by second, of its busiest queue."""

    ages: list[float]
    replicas: list[int]
    turns: int


def run(spec: dict, seconds: int, arriving: Callable[[int], float], latency: Callable[[int], float]) -> Run:
    """Lets messages arrive at one of the queues. A replica works on so many at a time, each for so many seconds."""
    queues = {queue_of(trigger): Queue() for trigger in spec["triggers"]}
    busy = next(iter(queues.values()))
    scaler, started, replicas = Autoscaler(spec), [-START] * spec["minReplicaCount"], []
    for now in range(seconds):
        ready = sum(now - at >= START for at in started)
        for queue in queues.values():
            queue.second(now, arriving(now) if queue is busy else 0, ready * AT_ONCE / latency(now))
        if now % SYNC == 0:
            scaler.look(now, queues)
            started = started[: scaler.replicas] + [now] * (scaler.replicas - len(started))
        replicas.append(scaler.replicas)
    ups = [by > 0 for _, by in scaler.changes]
    turns = sum(one != other for one, other in zip(ups, ups[1:]))
    return Run(busy.ages, replicas, turns)


HOUR = 3600
# A replica's usual time for a message: 3,000 a second.
USUAL = AT_ONCE / 3000


@dataclasses.dataclass(frozen=True)
class Scenario:
    """What comes in the second hour and the third, after an hour of 500 messages a second and before another one."""

    arriving: float
    latency: float = USUAL
    # The longest wait in seconds, once replicas had ten minutes to be added, of all and of nearly all seconds.
    longest: int = 10
    usually: int = 0
    # How often the number of replicas may begin to rise or to fall.
    turns: int = 12


SCENARIOS = {
    "a load that three or four replicas carry": Scenario(10_000),
    "a load that ten replicas carry": Scenario(30_000),
    "a load that the largest number hardly carries": Scenario(55_000, longest=60, turns=24),
    "an AWS that takes half a second a request": Scenario(3_000, latency=0.5),
    "messages that are few and slow": Scenario(2, latency=300, longest=180, usually=150),
    "hardly a message": Scenario(1, turns=0),
}


def complaints(spec: dict) -> tuple[str, ...]:
    """Scenarios in which a ScaledObject's specification does badly."""
    return of_text(json.dumps(spec))


@functools.cache
def of_text(text: str) -> tuple[str, ...]:
    """The same, of a specification as JSON: most manifests have the same one."""
    return tuple(simulated(json.loads(text)))


def simulated(spec: dict) -> Iterator[str]:
    for name, scenario in SCENARIOS.items():
        rush = range(HOUR, 3 * HOUR)
        calm = 0 if scenario.turns == 0 else 500
        came = run(
            spec,
            4 * HOUR,
            lambda now: scenario.arriving if now in rush else calm,
            lambda now: scenario.latency if now in rush else USUAL,
        )
        ages = sorted(came.ages[HOUR + 600 : 3 * HOUR])
        longest, usually = ages[-1], ages[len(ages) * 9 // 10]
        if longest > scenario.longest or usually > scenario.usually:
            yield f"{name}: messages wait for {longest} s, usually for up to {usually} s"
        if came.turns > scenario.turns:
            yield f"{name}: the number of replicas turns {came.turns} times"
        if came.replicas[-1] != spec["minReplicaCount"]:
            yield f"{name}: an hour later there are {came.replicas[-1]} replicas still"
