"""Calls to a server, and the details of its errors."""

from typing import Any, TypeVar

import grpc
from google.protobuf import message, message_factory
from google.protobuf.descriptor import MethodDescriptor
from grpc_status import rpc_status

Detail = TypeVar("Detail", bound=message.Message)

# Longer than anything takes that is not broken.
PATIENCE = 30.0


class Server:
    """One deployable, over one connection."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(address)

    def call(self, method: MethodDescriptor, request: message.Message, tenant: str, timeout: float | None) -> Any:
        """The reply to a request; raises `grpc.RpcError`."""
        reply = message_factory.GetMessageClass(method.output_type)
        unary = self.channel.unary_unary(
            f"/{method.containing_service.full_name}/{method.name}",
            request_serializer=lambda given: given.SerializeToString(),
            response_deserializer=reply.FromString,
        )
        return unary(request, timeout=timeout, metadata=[("x-tenant-id", tenant)])

    def error_of(
        self, method: MethodDescriptor, request: message.Message, tenant: str, timeout: float
    ) -> grpc.RpcError | None:
        """The error that a request gets, if it gets one."""
        try:
            self.call(method, request, tenant, timeout)
        except grpc.RpcError as error:
            return error
        return None


def details(error: grpc.RpcError | None, kind: type[Detail]) -> Detail:
    """The one detail of a kind that an error carries."""
    assert error is not None, "the call succeeded"
    status = rpc_status.from_call(error)
    assert status is not None, f"no details: {error.code().name} {error.details()}"
    found = [kind.FromString(packed.value) for packed in status.details if packed.Is(kind.DESCRIPTOR)]
    kinds = [packed.TypeName() for packed in status.details]
    assert len(found) == 1, f"one {kind.DESCRIPTOR.full_name} expected: {kinds}"
    return found[0]
