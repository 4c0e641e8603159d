"""The table of inputs, `tests/cases/validation.json`; the README beside it tells its form."""

import dataclasses
import json
from typing import Any

from google.protobuf import descriptor_pool, json_format, message, message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

import environment

# Importing them makes their services known to the descriptor pool.
from millrace.query.v1 import history_service_pb2
from shop.command.v1 import order_command_service_pb2, user_command_service_pb2
from shop.query.v1 import customer_query_service_pb2, order_query_service_pb2, user_query_service_pb2

CONTRACTS = (
    user_command_service_pb2,
    order_command_service_pb2,
    user_query_service_pb2,
    order_query_service_pb2,
    customer_query_service_pb2,
    history_service_pb2,
)


def services() -> list[ServiceDescriptor]:
    """Every service of the contracts."""
    return [service for contract in CONTRACTS for service in contract.DESCRIPTOR.services_by_name.values()]


@dataclasses.dataclass(frozen=True)
class Case:
    """One input and the verdict on it."""

    rpc: str
    name: str
    request: dict[str, Any]
    violations: list[str]
    # Where the contracts' rules cannot name all of the violations: which they do name, and why not all.
    annotations: dict[str, Any] | None = None

    def __str__(self) -> str:
        return f"{self.rpc.rsplit('.', 1)[1]}: {self.name}"

    def method(self) -> MethodDescriptor:
        """The RPC that the input is for."""
        service, name = self.rpc.split("/")
        return descriptor_pool.Default().FindServiceByName(service).methods_by_name[name]

    def message(self) -> message.Message:
        """The input as a message."""
        request = message_factory.GetMessageClass(self.method().input_type)()
        return json_format.ParseDict(self.request, request)


def load() -> list[Case]:
    """The whole table."""
    text = (environment.ROOT / "tests/cases/validation.json").read_text(encoding="utf-8")
    return [Case(**{**row, "request": expand(row["request"])}) for row in json.loads(text)]


def expand(value: Any) -> Any:
    """Expands `$repeat` and `$join`."""
    match value:
        case {"$repeat": [part, int(times)]}:
            part = expand(part)
            return part * times if isinstance(part, (str, list)) else [part] * times
        case {"$join": [first, *rest]}:
            whole = expand(first)
            for part in rest:
                whole = whole + expand(part)
            return whole
        case dict():
            return {key: expand(part) for key, part in value.items()}
        case list():
            return [expand(part) for part in value]
        case _:
            return value
