"""Walks through the contracts' promises, one fact after the other, each in a tenant of its own."""

import re
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from google.rpc import error_details_pb2
from google.type import money_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

import cases
from calls import PATIENCE, details
from millrace.query.v1 import history_service_pb2, history_service_pb2_grpc
from millrace.query.v1.as_of_pb2 import AsOf
from millrace.query.v1.history_service_pb2 import GetHistoryRequest, SearchEventsRequest
from millrace.query.v1.read_after_pb2 import ReadAfter
from report import Report
from shop.command.v1 import order_command_service_pb2_grpc, user_command_service_pb2_grpc
from shop.command.v1.order_command_service_pb2 import CreateOrderRequest, UpdateOrderStatusRequest
from shop.command.v1.user_command_service_pb2 import CreateUserRequest, UpdateUserProfileRequest
from shop.event.v1.order_events_pb2 import OrderStatusUpdated
from shop.query.v1 import (
    customer_query_service_pb2_grpc,
    order_query_service_pb2_grpc,
    user_query_service_pb2_grpc,
)
from shop.query.v1.customer_query_service_pb2 import BatchGetCustomerTotalsRequest, GetCustomerTotalsRequest
from shop.query.v1.order_query_service_pb2 import (
    BatchGetOrdersRequest,
    GetOrderAsOfRequest,
    GetOrderRequest,
    GetOrdersByStatusRequest,
    GetOrdersByUserRequest,
    WatchOrderRequest,
)
from shop.query.v1.user_query_service_pb2 import (
    BatchGetUserProfilesRequest,
    GetUserByEmailRequest,
    GetUserProfileAsOfRequest,
    GetUserProfileRequest,
    WatchUserProfileRequest,
)
from shop.type.v1 import order_pb2
from shop.type.v1.order_pb2 import OrderItem
from stack import Addresses

NOBODY = str(uuid.uuid4())
CREATED = order_pb2.ORDER_STATUS_CREATED
PROCESSING = order_pb2.ORDER_STATUS_PROCESSING
SHIPPED = order_pb2.ORDER_STATUS_SHIPPED
DELIVERED = order_pb2.ORDER_STATUS_DELIVERED
Got = TypeVar("Got")
Fact = Callable[[Addresses], None]
FACTS: list[Fact] = []
# The calls that tenants have made, by their paths.
ASKED: set[str] = set()


def run(report: Report, addresses: Addresses) -> None:
    """Checks every fact."""
    with report.part("the walk"):
        for check in FACTS:
            with report.fact(check.__name__.replace("_", " ")):
                check(addresses)
        with report.fact("every call of the contracts was made"):
            paths = {f"/{service.full_name}/{method.name}" for service in cases.services() for method in service.methods}
            assert paths <= ASKED, f"not made: {sorted(paths - ASKED)}"


def fact(check: Fact) -> Fact:
    """Marks a function whose name is a fact, and which fails where it is none."""
    FACTS.append(check)
    return check


# Helpers of the facts.


class AsTenant(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    """Names the tenant with each call and bounds it, unless the call bounds itself. Notes which calls were made."""

    def __init__(self, name: str) -> None:
        self.name = name

    def intercept_unary_unary(self, continuation: Any, call: Any, request: Any) -> Any:
        ASKED.add(call.method if isinstance(call.method, str) else call.method.decode())
        return continuation(
            call._replace(metadata=[("x-tenant-id", self.name)], timeout=call.timeout or PATIENCE), request
        )

    def intercept_unary_stream(self, continuation: Any, call: Any, request: Any) -> Any:
        return self.intercept_unary_unary(continuation, call, request)


class Commands:
    """A command service, with the results in its replies as return values."""

    def __init__(self, stub: Any) -> None:
        self.stub = stub

    def __getattr__(self, name: str) -> Callable[..., Any]:
        call = getattr(self.stub, name)
        return lambda *given, **named: call(*given, **named).result


class Tenant:
    """The services as one tenant sees them."""

    def __init__(self, addresses: Addresses, name: str | None = None) -> None:
        self.name = name or f"walk-{uuid.uuid4().hex}"
        commands = grpc.intercept_channel(grpc.insecure_channel(addresses.command), AsTenant(self.name))
        queries = grpc.intercept_channel(grpc.insecure_channel(addresses.query), AsTenant(self.name))
        self.users = Commands(user_command_service_pb2_grpc.UserCommandServiceStub(commands))
        self.orders = Commands(order_command_service_pb2_grpc.OrderCommandServiceStub(commands))
        self.profiles = user_query_service_pb2_grpc.UserQueryServiceStub(queries)
        self.summaries = order_query_service_pb2_grpc.OrderQueryServiceStub(queries)
        self.customers = customer_query_service_pb2_grpc.CustomerQueryServiceStub(queries)
        self.history = history_service_pb2_grpc.HistoryServiceStub(queries)

    def create_user(self, email: str = "john.doe@example.com") -> Any:
        """A user."""
        return self.users.CreateUser(CreateUserRequest(email=email, name="John Doe"))

    def create_order(self, user: Any) -> Any:
        """An order of that user."""
        return self.orders.CreateOrder(CreateOrderRequest(user_id=user.read_after.aggregate_id, items=[laptop()]))

    def move(self, order: Any, status: "order_pb2.OrderStatus", **more: Any) -> Any:
        """Moves that order to a status."""
        request = UpdateOrderStatusRequest(order_id=order.read_after.aggregate_id, status=status, **more)
        return self.orders.UpdateOrderStatus(request)


def laptop() -> OrderItem:
    """Any valid item."""
    return OrderItem(product="laptop", quantity=1, price=usd(999, 990_000_000))


def usd(units: int, nanos: int = 0) -> money_pb2.Money:
    """An amount."""
    return money_pb2.Money(currency_code="USD", units=units, nanos=nanos)


def after(reply: Any) -> ReadAfter:
    """The read-after token that a command's reply holds, as it is."""
    return reply.read_after


def never(reply: Any) -> ReadAfter:
    """A token of a version that never comes."""
    return ReadAfter(
        aggregate_type=reply.read_after.aggregate_type,
        aggregate_id=reply.read_after.aggregate_id,
        version=reply.read_after.version + 1,
    )


def history_of(aggregate_type: str, aggregate_id: str, **more: Any) -> GetHistoryRequest:
    """Asks for an aggregate's events."""
    return GetHistoryRequest(aggregate_type=aggregate_type, aggregate_id=aggregate_id, **more)


def refused(code: grpc.StatusCode, call: Callable[..., Any], *given: Any, **named: Any) -> grpc.RpcError:
    """The error of a call that is refused with that code."""
    try:
        reply = call(*given, **named)
    except grpc.RpcError as error:
        assert error.code() is code, f"{code.name} expected: {error.code().name} {error.details()}"
        return error
    raise AssertionError(f"{code.name} expected, and the call succeeded: {reply}")


def reason(error: grpc.RpcError) -> error_details_pb2.ErrorInfo:
    """The reason of an error, which is always of Millrace's domain."""
    info = details(error, error_details_pb2.ErrorInfo)
    assert info.domain == "millrace", info
    return info


def bad_fields(error: grpc.RpcError) -> list[str]:
    """The fields that an error names."""
    return sorted(violation.field for violation in details(error, error_details_pb2.BadRequest).field_violations)


def eventually(ask: Callable[[], Got], wanted: Callable[[Got], bool]) -> Got:
    """The first answer that is wanted."""
    deadline = time.monotonic() + PATIENCE
    while not wanted(answer := ask()):
        assert time.monotonic() < deadline, f"still not: {answer}"
        time.sleep(0.05)
    return answer


# The facts.


@fact
def a_user_and_an_order_can_be_read_by_every_query_as_soon_as_they_are_stored(addresses: Addresses) -> None:
    tenant = Tenant(addresses)
    user = tenant.users.CreateUser(
        CreateUserRequest(email="John.Doe@example.com", name="John Doe", command_id="signup-1")
    )
    assert (user.read_after.version, user.command_id, user.replayed) == (1, "signup-1", False), user
    items = [
        OrderItem(product="laptop", quantity=1, price=usd(999, 990_000_000)),
        OrderItem(product="mouse", quantity=2, price=usd(29, 990_000_000)),
    ]
    total = usd(1059, 970_000_000)
    order = tenant.orders.CreateOrder(
        CreateOrderRequest(user_id=user.read_after.aggregate_id, items=items, total_amount=total, command_id="cart-1")
    )
    assert (order.read_after.version, order.command_id, order.replayed) == (1, "cart-1", False), order
    moved = tenant.move(order, PROCESSING, expected_version=1)
    assert (moved.read_after.aggregate_id, moved.read_after.version) == (order.read_after.aggregate_id, 2), moved
    assert len({uuid.UUID(reply.event_id) for reply in (user, order, moved)}) == 3

    by_id = tenant.profiles.GetUserProfile(GetUserProfileRequest(user_id=user.read_after.aggregate_id, after=after(user)))
    profile = by_id.user_profile
    assert (profile.user_id, profile.version) == (user.read_after.aggregate_id, 1), profile
    assert (profile.email, profile.name) == ("John.Doe@example.com", "John Doe"), profile
    assert profile.created_at.ToNanoseconds() == profile.updated_at.ToNanoseconds() > 0, profile
    by_email = tenant.profiles.GetUserByEmail(GetUserByEmailRequest(email="john.doe@EXAMPLE.com", after=after(user)))
    assert by_email.user_profile == profile, by_email

    in_capitals = GetOrderRequest(order_id=order.read_after.aggregate_id.upper(), after=after(moved))
    summary = tenant.summaries.GetOrder(in_capitals).order
    assert (summary.order_id, summary.user_id) == (order.read_after.aggregate_id, user.read_after.aggregate_id), summary
    assert (summary.status, summary.version) == (PROCESSING, 2), summary
    assert (list(summary.items), summary.total_amount) == (items, total), summary
    assert 0 < summary.created_at.ToNanoseconds() <= summary.updated_at.ToNanoseconds(), summary
    of_user = tenant.summaries.GetOrdersByUser(GetOrdersByUserRequest(user_id=user.read_after.aggregate_id, after=after(moved)))
    assert (list(of_user.orders), of_user.next_page_token) == ([summary], ""), of_user
    orders = tenant.summaries.BatchGetOrders(
        BatchGetOrdersRequest(order_ids=[NOBODY, order.read_after.aggregate_id], after=after(moved))
    )
    assert (list(orders.orders), list(orders.missing_order_ids)) == ([summary], [NOBODY]), orders
    users = tenant.profiles.BatchGetUserProfiles(
        BatchGetUserProfilesRequest(user_ids=[user.read_after.aggregate_id, NOBODY], after=after(user))
    )
    assert (list(users.user_profiles), list(users.missing_user_ids)) == ([profile], [NOBODY]), users
    totals = tenant.customers.GetCustomerTotals(
        GetCustomerTotalsRequest(user_id=user.read_after.aggregate_id, after=after(moved))
    ).totals
    assert (totals.orders, totals.cancelled, list(totals.spent)) == (1, 0, [total]), totals
    assert totals.last_order_at == summary.created_at, totals
    customers = tenant.customers.BatchGetCustomerTotals(
        BatchGetCustomerTotalsRequest(user_ids=[NOBODY, user.read_after.aggregate_id], after=after(moved))
    )
    assert (list(customers.totals), list(customers.missing_user_ids)) == ([totals], [NOBODY]), customers
    for status, expected in ((PROCESSING, [summary]), (CREATED, [])):
        in_status = tenant.summaries.GetOrdersByStatus(GetOrdersByStatusRequest(status=status, after=after(moved)))
        assert (list(in_status.orders), in_status.next_page_token) == (expected, ""), in_status


@fact
def a_repeated_command_gets_the_first_reply_again(addresses: Addresses) -> None:
    tenant = Tenant(addresses)
    create = CreateUserRequest(email="john.doe@example.com", name="John Doe", command_id="signup")
    user = twice(tenant.users.CreateUser, create)
    update = UpdateUserProfileRequest(user_id=user.read_after.aggregate_id, name="Jane Doe", command_id="rename")
    assert twice(tenant.users.UpdateUserProfile, update).read_after.version == 2
    place = CreateOrderRequest(user_id=user.read_after.aggregate_id, items=[laptop()], command_id="cart")
    order = twice(tenant.orders.CreateOrder, place)
    move = UpdateOrderStatusRequest(order_id=order.read_after.aggregate_id, status=PROCESSING, command_id="pack")
    assert twice(tenant.orders.UpdateOrderStatus, move).read_after.version == 2


def twice(call: Callable[[Any], Any], command: Any) -> Any:
    """The reply to a command, having seen that its repetition gets the same."""
    first, again = call(command), call(command)
    assert (first.replayed, again.replayed) == (False, True), (first, again)
    again.replayed = False
    assert first == again, (first, again)
    return first


@fact
def a_command_id_with_another_body_is_refused(addresses: Addresses) -> None:
    tenant = Tenant(addresses)
    tenant.users.CreateUser(CreateUserRequest(email="a@example.com", name="A", command_id="signup"))
    other = CreateUserRequest(email="b@example.com", name="B", command_id="signup")
    error = refused(grpc.StatusCode.INVALID_ARGUMENT, tenant.users.CreateUser, other)
    assert reason(error).reason == "COMMAND_ID_REUSED", error


@fact
def two_users_of_a_tenant_never_hold_one_address(addresses: Addresses) -> None:
    tenant = Tenant(addresses)
    first = tenant.create_user("first@example.com")
    second = tenant.create_user("second@example.com")
    create = CreateUserRequest(email="FIRST@example.com", name="F")
    error = refused(grpc.StatusCode.ALREADY_EXISTS, tenant.users.CreateUser, create)
    assert reason(error).reason == "EMAIL_TAKEN", error
    take = UpdateUserProfileRequest(user_id=second.read_after.aggregate_id, email="first@example.com")
    error = refused(grpc.StatusCode.ALREADY_EXISTS, tenant.users.UpdateUserProfile, take)
    assert reason(error).reason == "EMAIL_TAKEN", error

    leave = UpdateUserProfileRequest(user_id=first.read_after.aggregate_id, email="third@example.com")
    left = tenant.users.UpdateUserProfile(leave)
    taken = tenant.users.UpdateUserProfile(take)
    assert (left.read_after.version, taken.read_after.version) == (2, 2), (left, taken)
    for email, reply in (("first@example.com", taken), ("third@example.com", left)):
        found = tenant.profiles.GetUserByEmail(GetUserByEmailRequest(email=email, after=after(reply)))
        assert found.user_profile.user_id == reply.read_after.aggregate_id, found


@fact
def what_does_not_exist_is_named(addresses: Addresses) -> None:
    tenant = Tenant(addresses)
    refusals = [
        (tenant.users.UpdateUserProfile, UpdateUserProfileRequest(user_id=NOBODY, name="N")),
        (tenant.orders.UpdateOrderStatus, UpdateOrderStatusRequest(order_id=NOBODY, status=PROCESSING)),
        (tenant.profiles.GetUserProfile, GetUserProfileRequest(user_id=NOBODY)),
        (tenant.profiles.GetUserByEmail, GetUserByEmailRequest(email="nobody@example.com")),
        (tenant.summaries.GetOrder, GetOrderRequest(order_id=NOBODY)),
        (tenant.history.GetHistory, history_of("user", NOBODY)),
        (tenant.profiles.GetUserProfileAsOf, GetUserProfileAsOfRequest(user_id=NOBODY, as_of=AsOf(version=1))),
        (tenant.summaries.GetOrderAsOf, GetOrderAsOfRequest(order_id=NOBODY, as_of=AsOf(version=1))),
        (tenant.customers.GetCustomerTotals, GetCustomerTotalsRequest(user_id=NOBODY)),
    ]
    for call, request in refusals:
        info = details(refused(grpc.StatusCode.NOT_FOUND, call, request), error_details_pb2.ResourceInfo)
        assert info.resource_type, info


@fact
def an_outdated_expected_version_is_refused_with_the_current_one(addresses: Addresses) -> None:
    tenant = Tenant(addresses)
    user = tenant.create_user()
    stale = UpdateUserProfileRequest(user_id=user.read_after.aggregate_id, name="Jane Doe", expected_version=7)
    info = reason(refused(grpc.StatusCode.ABORTED, tenant.users.UpdateUserProfile, stale))
    assert (info.reason, dict(info.metadata)) == ("VERSION_CONFLICT", {"current_version": "1"}), info
    order = tenant.create_order(user)
    info = reason(refused(grpc.StatusCode.ABORTED, tenant.move, order, PROCESSING, expected_version=2))
    assert (info.reason, dict(info.metadata)) == ("VERSION_CONFLICT", {"current_version": "1"}), info


@fact
def a_status_that_does_not_follow_and_an_order_of_nobody_are_refused(addresses: Addresses) -> None:
    tenant = Tenant(addresses)
    order = tenant.create_order(tenant.create_user())
    of_nobody = CreateOrderRequest(user_id=NOBODY, items=[laptop()])
    for error in (
        refused(grpc.StatusCode.FAILED_PRECONDITION, tenant.move, order, SHIPPED),
        refused(grpc.StatusCode.FAILED_PRECONDITION, tenant.orders.CreateOrder, of_nobody),
    ):
        violations = details(error, error_details_pb2.PreconditionFailure).violations
        assert violations and all(violation.type and violation.description for violation in violations), violations


@fact
def a_read_model_that_is_behind_says_when_to_ask_again(addresses: Addresses) -> None:
    tenant = Tenant(addresses)
    user = tenant.create_user()
    future = never(user)
    for call, request in (
        (tenant.profiles.GetUserProfile, GetUserProfileRequest(user_id=user.read_after.aggregate_id, after=future)),
        (tenant.summaries.GetOrdersByUser, GetOrdersByUserRequest(user_id=user.read_after.aggregate_id, after=future)),
    ):
        began = time.monotonic()
        error = refused(grpc.StatusCode.UNAVAILABLE, call, request, timeout=5.0)
        assert reason(error).reason == "READ_MODEL_BEHIND", error
        retry = details(error, error_details_pb2.RetryInfo).retry_delay
        assert retry.ToMilliseconds() > 0, retry
        assert time.monotonic() - began > 0.5, "it did not wait"


@fact
def a_query_without_a_deadline_waits_two_seconds(addresses: Addresses) -> None:
    tenant = Tenant(addresses)
    user = tenant.create_user()
    # A bare stub: the tenant's own would set a deadline.
    bare = user_query_service_pb2_grpc.UserQueryServiceStub(grpc.insecure_channel(addresses.query))
    future = never(user)
    request = GetUserProfileRequest(user_id=user.read_after.aggregate_id, after=future)
    began = time.monotonic()
    call = bare.GetUserProfile.future(request, metadata=[("x-tenant-id", tenant.name)])
    error = refused(grpc.StatusCode.UNAVAILABLE, call.result, timeout=PATIENCE)
    assert reason(error).reason == "READ_MODEL_BEHIND", error
    assert 1.5 < time.monotonic() - began < 10.0, f"{time.monotonic() - began:.1f} s"


@fact
def a_list_is_read_page_by_page_newest_first(addresses: Addresses) -> None:
    tenant = Tenant(addresses)
    user = tenant.create_user()
    placed = {tenant.create_order(user).read_after.aggregate_id for _ in range(5)}
    of_user = GetOrdersByUserRequest(user_id=user.read_after.aggregate_id)
    eventually(lambda: tenant.summaries.GetOrdersByUser(of_user), lambda page: len(page.orders) == 5)
    for call, request in (
        (tenant.summaries.GetOrdersByUser, of_user),
        (tenant.summaries.GetOrdersByStatus, GetOrdersByStatusRequest(status=CREATED)),
    ):
        pages = list(all_pages(call, request))
        assert [len(page) for page in pages] == [2, 2, 1], pages
        orders = [order for page in pages for order in page]
        assert {order.order_id for order in orders} == placed, orders
        times = [order.created_at.ToNanoseconds() for order in orders]
        assert times == sorted(times, reverse=True), times


def all_pages(call: Callable[[Any], Any], request: Any, field: str = "orders") -> Iterator[list[Any]]:
    """The pages of a list, each with two elements of that field, ten pages at most."""
    request = type(request).FromString(request.SerializeToString())
    request.page_size = 2
    for _ in range(10):
        page = call(request)
        yield list(getattr(page, field))
        request.page_token = page.next_page_token
        if not request.page_token:
            return
    raise AssertionError("the list does not end")


@fact
def every_page_of_a_search_is_read(addresses: Addresses) -> None:
    tenant = Tenant(addresses)
    user = tenant.create_user()
    placed = [tenant.create_order(user).event_id for _ in range(5)]
    pages = list(all_pages(tenant.history.SearchEvents, SearchEventsRequest(event_type="OrderCreated"), "events"))
    assert [len(page) for page in pages] == [2, 2, 1], pages
    assert [event.event_id for page in pages for event in page] == placed, pages


@fact
def a_watch_shows_each_newer_version_and_goes_on_where_it_was_left(addresses: Addresses) -> None:
    tenant = Tenant(addresses)
    user = tenant.create_user()
    order = tenant.create_order(user)
    watch = tenant.summaries.WatchOrder(WatchOrderRequest(order_id=order.read_after.aggregate_id, after=after(order)))
    assert next(watch).order.version == 1
    for status in (PROCESSING, SHIPPED):
        moved = tenant.move(order, status)
        state = next(watch).order
        assert (state.status, state.version) == (status, moved.read_after.version), state
    watch.cancel()

    resumed = WatchOrderRequest(order_id=order.read_after.aggregate_id, seen_version=2)
    watch = tenant.summaries.WatchOrder(resumed)
    assert next(watch).order.version == 3, "what is newer than what was seen comes at once"
    tenant.move(order, DELIVERED)
    assert next(watch).order.version == 4
    watch.cancel()

    watch = tenant.profiles.WatchUserProfile(
        WatchUserProfileRequest(user_id=user.read_after.aggregate_id, after=after(user)), timeout=2.0
    )
    assert next(watch).user_profile.name == "John Doe"
    tenant.users.UpdateUserProfile(UpdateUserProfileRequest(user_id=user.read_after.aggregate_id, name="Jane Doe"))
    assert next(watch).user_profile.name == "Jane Doe"
    refused(grpc.StatusCode.DEADLINE_EXCEEDED, next, watch)


@fact
def nobody_watches_what_is_not_there_or_belongs_to_another(addresses: Addresses) -> None:
    owner, stranger = Tenant(addresses), Tenant(addresses)
    user = owner.create_user()
    order = owner.create_order(user)
    owner.summaries.GetOrder(GetOrderRequest(order_id=order.read_after.aggregate_id, after=after(order)))
    for watch in (
        owner.summaries.WatchOrder(WatchOrderRequest(order_id=NOBODY)),
        stranger.summaries.WatchOrder(WatchOrderRequest(order_id=order.read_after.aggregate_id)),
        stranger.profiles.WatchUserProfile(WatchUserProfileRequest(user_id=user.read_after.aggregate_id)),
    ):
        error = refused(grpc.StatusCode.NOT_FOUND, next, watch)
        assert details(error, error_details_pb2.ResourceInfo).resource_type in ("order", "user"), error


@fact
def requests_may_be_compressed_and_large_replies_are(addresses: Addresses) -> None:
    tenant = Tenant(addresses)
    user = tenant.create_user()
    items = [laptop()] * 100
    create = CreateOrderRequest(user_id=user.read_after.aggregate_id, items=items)
    order = tenant.orders.CreateOrder(create, compression=grpc.Compression.Gzip)
    get = GetOrderRequest(order_id=order.read_after.aggregate_id, after=after(order))
    # The client says by itself that it takes gzip, and undoes it.
    summary = tenant.summaries.GetOrder(get, compression=grpc.Compression.Gzip).order
    assert list(summary.items) == items, summary
    error = refused(
        grpc.StatusCode.UNIMPLEMENTED, tenant.summaries.GetOrder, get, compression=grpc.Compression.Deflate
    )
    assert "deflate" in error.details(), error


@fact
def a_page_token_serves_its_own_query_alone(addresses: Addresses) -> None:
    tenant = Tenant(addresses)
    user = tenant.create_user()
    for _ in range(2):
        order = tenant.create_order(user)
    first = GetOrdersByUserRequest(user_id=user.read_after.aggregate_id, page_size=1)
    token = eventually(
        lambda: tenant.summaries.GetOrdersByUser(first).next_page_token,
        lambda token: token != "",
    )
    other_user = GetOrdersByUserRequest(user_id=order.read_after.aggregate_id, page_size=1, page_token=token)
    by_status = GetOrdersByStatusRequest(status=CREATED, page_size=1, page_token=token)
    refusals: list[tuple[Callable[[Any], Any], Any]] = [
        (tenant.summaries.GetOrdersByUser, other_user),
        (tenant.summaries.GetOrdersByStatus, by_status),
    ]
    for place in (0, len(token) // 2, len(token) - 1):
        # The last letter too: where some of its bits carry nothing, they still have to be zero.
        for letter in "Aa1":
            if token[place] != letter:
                tampered = token[:place] + letter + token[place + 1 :]
                request = GetOrdersByUserRequest(user_id=user.read_after.aggregate_id, page_size=1, page_token=tampered)
                refusals.append((tenant.summaries.GetOrdersByUser, request))
    for call, request in refusals:
        error = refused(grpc.StatusCode.INVALID_ARGUMENT, call, request)
        assert bad_fields(error) == ["page_token"], error
    stolen = GetOrdersByUserRequest(user_id=user.read_after.aggregate_id, page_size=1, page_token=token)
    refused(grpc.StatusCode.INVALID_ARGUMENT, Tenant(addresses).summaries.GetOrdersByUser, stolen)


@fact
def the_past_of_an_order_is_told_as_soon_as_it_is_stored(addresses: Addresses) -> None:
    tenant = Tenant(addresses)
    user = tenant.create_user()
    order = tenant.create_order(user)
    moved = tenant.move(order, PROCESSING)
    shipped = tenant.move(order, SHIPPED)
    history = tenant.history.GetHistory(history_of("order", order.read_after.aggregate_id))
    payloads = [event.event.TypeName().rsplit(".", 1)[1] for event in history.events]
    assert payloads == ["OrderCreated", "OrderStatusUpdated", "OrderStatusUpdated"], history
    assert [event.event_id for event in history.events] == [order.event_id, moved.event_id, shipped.event_id]
    assert [event.version for event in history.events] == [1, 2, 3], history
    payload = OrderStatusUpdated()
    assert history.events[1].event.Unpack(payload) and payload.status == PROCESSING, history
    assert history.events[1].command_id == moved.command_id, history

    for as_of, status in (
        ({"version": 1}, CREATED),
        ({"version": 2}, PROCESSING),
        ({"time": history.events[1].time}, PROCESSING),
        ({"version": 3}, SHIPPED),
    ):
        request = GetOrderAsOfRequest(order_id=order.read_after.aggregate_id, as_of=AsOf(**as_of))
        past = tenant.summaries.GetOrderAsOf(request).order
        assert (past.status, past.user_id, len(past.items)) == (status, user.read_after.aggregate_id, 1), (as_of, past)
    request = GetUserProfileAsOfRequest(user_id=user.read_after.aggregate_id, as_of=AsOf(version=1))
    profile = tenant.profiles.GetUserProfileAsOf(request)
    assert profile.user_profile.name == "John Doe", profile

    search = SearchEventsRequest(event_type="OrderStatusUpdated", after=after(shipped))
    found = tenant.history.SearchEvents(search).events
    assert [event.event_id for event in found] == [moved.event_id, shipped.event_id], found
    search.start_time.CopyFrom(history.events[1].time)
    search.end_time.CopyFrom(history.events[2].time)
    found = tenant.history.SearchEvents(search).events
    assert [event.event_id for event in found] == [moved.event_id], found


@fact
def a_history_is_read_page_by_page_from_either_end(addresses: Addresses) -> None:
    tenant = Tenant(addresses)
    user = tenant.create_user()
    for name in ("A", "B", "C", "D"):
        tenant.users.UpdateUserProfile(UpdateUserProfileRequest(user_id=user.read_after.aggregate_id, name=name))
    for order, versions in (
        (history_service_pb2.SORT_ORDER_OLDEST_FIRST, [[1, 2], [3, 4], [5]]),
        (history_service_pb2.SORT_ORDER_NEWEST_FIRST, [[5, 4], [3, 2], [1]]),
    ):
        request = history_of("user", user.read_after.aggregate_id, order=order)
        pages = list(all_pages(tenant.history.GetHistory, request, "events"))
        assert [[event.version for event in page] for page in pages] == versions, pages


@fact
def a_tenant_neither_sees_nor_changes_what_belongs_to_another(addresses: Addresses) -> None:
    owner, stranger = Tenant(addresses), Tenant(addresses)
    user = owner.create_user()
    order = owner.create_order(user)
    owner.summaries.GetOrder(GetOrderRequest(order_id=order.read_after.aggregate_id, after=after(order)))
    for call, request in (
        (stranger.profiles.GetUserProfile, GetUserProfileRequest(user_id=user.read_after.aggregate_id)),
        (stranger.profiles.GetUserByEmail, GetUserByEmailRequest(email="john.doe@example.com")),
        (stranger.summaries.GetOrder, GetOrderRequest(order_id=order.read_after.aggregate_id)),
        (stranger.history.GetHistory, history_of("order", order.read_after.aggregate_id)),
        (stranger.customers.GetCustomerTotals, GetCustomerTotalsRequest(user_id=user.read_after.aggregate_id)),
        (
            stranger.profiles.GetUserProfileAsOf,
            GetUserProfileAsOfRequest(user_id=user.read_after.aggregate_id, as_of=AsOf(version=1)),
        ),
        (stranger.users.UpdateUserProfile, UpdateUserProfileRequest(user_id=user.read_after.aggregate_id, name="X")),
    ):
        refused(grpc.StatusCode.NOT_FOUND, call, request)
    refused(grpc.StatusCode.NOT_FOUND, stranger.move, order, PROCESSING)
    refused(grpc.StatusCode.FAILED_PRECONDITION, stranger.create_order, user)
    of_user = stranger.summaries.GetOrdersByUser(GetOrdersByUserRequest(user_id=user.read_after.aggregate_id))
    in_status = stranger.summaries.GetOrdersByStatus(GetOrdersByStatusRequest(status=CREATED))
    assert not of_user.orders and not in_status.orders, (of_user, in_status)
    found = stranger.history.SearchEvents(SearchEventsRequest(event_type="OrderCreated"))
    assert not found.events, found

    # Even the same command is another one: the ids differ, and the address is free.
    same = CreateUserRequest(email="same@example.com", name="S", command_id="same")
    theirs, ours = stranger.users.CreateUser(same), owner.users.CreateUser(same)
    assert theirs.read_after.aggregate_id != ours.read_after.aggregate_id and not ours.replayed, (theirs, ours)


@fact
def a_tenant_that_is_none_is_refused(addresses: Addresses) -> None:
    for name in ("Capitals", "a b", "a#b", "x" * 65):
        tenant = Tenant(addresses, name)
        refused(grpc.StatusCode.INVALID_ARGUMENT, tenant.create_user)
        request = GetUserProfileRequest(user_id=NOBODY)
        refused(grpc.StatusCode.INVALID_ARGUMENT, tenant.profiles.GetUserProfile, request)


@fact
def a_refusal_of_many_fields_still_reaches_the_caller(addresses: Addresses) -> None:
    # Details travel in a header, and clients bound those: Java and Python at 8 KiB.
    tenant = Tenant(addresses)
    # The last fills the 256 KiB that a request may have.
    for lines in (100, 120_000):
        request = CreateOrderRequest(items=[OrderItem()] * lines)
        fields = bad_fields(refused(grpc.StatusCode.INVALID_ARGUMENT, tenant.orders.CreateOrder, request))
        assert "user_id" in fields and 20 < len(fields) == len(set(fields)), fields
        for field in set(fields) - {"user_id", "items"}:
            found = re.fullmatch(r"items\[(\d+)]\.(?:product|quantity|price)", field)
            assert found and int(found[1]) < lines, field


@fact
def bytes_that_are_no_request_are_a_bad_argument(addresses: Addresses) -> None:
    bad_bytes = {"no message": b"\xff\xff\xff\xff", "a cut message": b"\x0a\x7fabc", "no UTF-8": b"\x0a\x02\xc3\x28"}
    for service in cases.services():
        address = addresses.command if ".command." in service.full_name else addresses.query
        with grpc.insecure_channel(address) as channel:
            for method in service.methods:
                call = channel.unary_unary(f"/{service.full_name}/{method.name}")
                for what, given in bad_bytes.items():
                    try:
                        refused(grpc.StatusCode.INVALID_ARGUMENT, call, given, timeout=PATIENCE)
                    except AssertionError as error:
                        raise AssertionError(f"{method.full_name}, {what}: {error}") from None


@fact
def a_request_beyond_all_measure_is_refused_and_the_next_one_served(addresses: Addresses) -> None:
    tenant = Tenant(addresses)
    request = CreateUserRequest(email="john.doe@example.com", name="x" * 32_000_000)
    refused(grpc.StatusCode.INVALID_ARGUMENT, tenant.users.CreateUser, request)
    assert tenant.create_user().read_after.version == 1


@fact
def every_service_is_healthy_and_an_unknown_one_is_not_known(addresses: Addresses) -> None:
    names = {"command": [""], "query": [""], "projector": [""]}
    for service in cases.services():
        names["command" if ".command." in service.full_name else "query"].append(service.full_name)
    for deployable, services in names.items():
        with grpc.insecure_channel(getattr(addresses, deployable)) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            for name in services:
                status = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=PATIENCE).status
                assert status == health_pb2.HealthCheckResponse.SERVING, (deployable, name, status)
            unknown = health_pb2.HealthCheckRequest(service="millrace.none.v1.NoService")
            refused(grpc.StatusCode.NOT_FOUND, health.Check, unknown, timeout=PATIENCE)


@fact
def reflection_tells_the_contracts_in_both_of_its_versions(addresses: Addresses) -> None:
    for version in ("v1", "v1alpha"):
        listed = {
            deployable: reflected_services(getattr(addresses, deployable), version) for deployable in vars(addresses)
        }
        for service in cases.services():
            deployable = "command" if ".command." in service.full_name else "query"
            assert service.full_name in listed[deployable], (version, deployable, listed[deployable])
            told = reflected(getattr(addresses, deployable), version, service.full_name)
            assert methods(told) == methods(service), (version, service.full_name)
        for deployable, services in listed.items():
            assert "grpc.health.v1.Health" in services, (version, deployable, services)


def methods(service: Any) -> dict[str, tuple[str, str]]:
    """A service's methods, with their inputs and outputs."""
    return {method.name: (method.input_type.full_name, method.output_type.full_name) for method in service.methods}


def reflected_services(address: str, version: str) -> set[str]:
    """The services that a server says it has."""
    (reply,) = reflect(address, version, [reflection_pb2.ServerReflectionRequest(list_services="")])
    return {service.name for service in reply.list_services_response.service}


def reflected(address: str, version: str, service: str) -> Any:
    """A service as a server tells it, with all that it builds on."""
    asked = reflection_pb2.ServerReflectionRequest(file_containing_symbol=service)
    files: dict[str, descriptor_pb2.FileDescriptorProto] = {}
    wanted: set[str] = set()
    while True:
        for reply in reflect(address, version, [asked]):
            assert reply.HasField("file_descriptor_response"), reply
            for encoded in reply.file_descriptor_response.file_descriptor_proto:
                file = descriptor_pb2.FileDescriptorProto.FromString(encoded)
                files[file.name] = file
                wanted.update(file.dependency)
        missing = wanted - files.keys()
        if not missing:
            break
        asked = reflection_pb2.ServerReflectionRequest(file_by_filename=missing.pop())
    pool = descriptor_pool.DescriptorPool()
    while files:
        # A file goes in once nothing that it imports is left outside.
        ready = [name for name, file in files.items() if not files.keys() & set(file.dependency)]
        assert ready, f"the imports go round in a circle: {sorted(files)}"
        for name in ready:
            pool.Add(files.pop(name))
    return pool.FindServiceByName(service)


def reflect(address: str, version: str, requests: list[Any]) -> list[Any]:
    """A server's replies by reflection. The messages of both versions are the same but for their package."""
    with grpc.insecure_channel(address) as channel:
        call = channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        return list(call(iter(requests), timeout=PATIENCE))
