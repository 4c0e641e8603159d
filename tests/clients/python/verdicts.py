"""Sends the table of inputs to the servers and holds their verdicts against it."""

import concurrent.futures
import uuid

import grpc

import cases
from calls import Server, details
from cases import Case
from google.rpc import error_details_pb2
from report import Report
from stack import Addresses

# The status of a good input from a server without any user or order.
GOOD = {
    "CreateUser": grpc.StatusCode.OK,
    "UpdateUserProfile": grpc.StatusCode.NOT_FOUND,
    "CreateOrder": grpc.StatusCode.FAILED_PRECONDITION,
    "UpdateOrderStatus": grpc.StatusCode.NOT_FOUND,
    "GetUserProfile": grpc.StatusCode.NOT_FOUND,
    "GetUserByEmail": grpc.StatusCode.NOT_FOUND,
    "BatchGetUserProfiles": grpc.StatusCode.OK,
    "GetOrder": grpc.StatusCode.NOT_FOUND,
    "BatchGetOrders": grpc.StatusCode.OK,
    "GetOrdersByUser": grpc.StatusCode.OK,
    "GetOrdersByStatus": grpc.StatusCode.OK,
    "BatchGetCustomerTotals": grpc.StatusCode.OK,
    "GetCustomerTotals": grpc.StatusCode.NOT_FOUND,
    "GetHistory": grpc.StatusCode.NOT_FOUND,
    "GetUserProfileAsOf": grpc.StatusCode.NOT_FOUND,
    "GetOrderAsOf": grpc.StatusCode.NOT_FOUND,
    "SearchEvents": grpc.StatusCode.OK,
    # A watch of nothing ends before it begins; so a call that expects one reply does here as well.
    "WatchUserProfile": grpc.StatusCode.NOT_FOUND,
    "WatchOrder": grpc.StatusCode.NOT_FOUND,
}
# A query waits for an unwritten version until one of these.
WAITED = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


def run(report: Report, addresses: Addresses) -> None:
    """Checks every row, several at a time."""
    command, query = Server(addresses.command), Server(addresses.query)
    run_id = uuid.uuid4().hex[:12]
    with report.part("the table of inputs by the servers"), concurrent.futures.ThreadPoolExecutor(16) as threads:
        # Each row has a tenant of its own, so that no row meets another's data.
        verdicts = [
            (case, threads.submit(check, command if ".command." in case.rpc else query, case, f"{run_id}-{number}"))
            for number, case in enumerate(cases.load())
        ]
        for case, verdict in verdicts:
            with report.fact(str(case)):
                verdict.result()


def check(server: Server, case: Case, tenant: str) -> None:
    """Fails where the server says something else about a row than the row does."""
    waits = "after" in case.request and not case.violations
    error = server.error_of(case.method(), case.message(), tenant, timeout=1.0 if waits else 20.0)
    code = error.code() if error else grpc.StatusCode.OK
    if not case.violations:
        expected = WAITED if waits else {GOOD[case.method().name]}
        assert code in expected, f"a good input got {code.name}: {error and error.details()}"
        return
    assert code is grpc.StatusCode.INVALID_ARGUMENT, f"a bad input got {code.name}: {error and error.details()}"
    violations = details(error, error_details_pb2.BadRequest).field_violations
    named = sorted(violation.field for violation in violations)
    assert named == case.violations, f"the server names {named}, the table {case.violations}"
    assert all(violation.description for violation in violations), "a violation says what is wrong"
