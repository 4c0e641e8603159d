"""Holds the table of inputs against the rules as the contracts state them, by protovalidate. Needs no server."""

import protovalidate
from buf.validate import validate_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor

import cases
from cases import Case
from report import Report

# A rule between fields belongs to the message, so protovalidate names no field; these are the ones it is about.
FIELDS_OF_RULE = {
    "create_order.total_currency": ["total_amount"],
    "update_user_profile.change": ["email", "name"],
    "get_orders_by_user.created": ["created_before"],
    "get_orders_by_status.created": ["created_before"],
    "search_events.range": ["end_time"],
    "search_events.follow": ["follow"],
}


def run(report: Report) -> None:
    """Checks every row, and that the table leaves nothing out."""
    table = cases.load()
    with report.part("the table of inputs by the contracts' own rules"):
        for case in table:
            with report.fact(str(case)):
                check(case)
        with report.fact("no two rows of an RPC have the same name"):
            names = [str(case) for case in table]
            assert len(names) == len(set(names)), sorted(name for name in set(names) if names.count(name) > 1)
        for service in cases.services():
            for method in service.methods:
                with report.fact(f"the table knows good and bad inputs of every field of {method.full_name}"):
                    check_coverage(method.input_type, [case for case in table if case.method() is method])


def check(case: Case) -> None:
    """Fails where the rules say something else about a row than the row does."""
    named = fields(case)
    expected = case.violations
    if case.annotations is not None:
        assert case.annotations["reason"], "a row that the rules cannot judge alone says why"
        expected = case.annotations["violations"]
        assert set(expected) < set(case.violations), "an exception that excepts nothing"
    assert named == expected, f"the rules name {named}, the table {expected}"


def fields(case: Case) -> list[str]:
    """The bad fields as the servers name them: each once, sorted."""
    named: set[str] = set()
    for violation in protovalidate.collect_violations(case.message()):
        if violation.proto.HasField("field"):
            named.add(path(violation.proto.field))
        else:
            named.update(FIELDS_OF_RULE[violation.proto.rule_id])
    return sorted(named)


def path(field: validate_pb2.FieldPath) -> str:
    """A path such as `items[2].quantity`."""
    return ".".join(
        element.field_name + (f"[{element.index}]" if element.WhichOneof("subscript") == "index" else "")
        for element in field.elements
    )


def check_coverage(request: Descriptor, rows: list[Case]) -> None:
    """Fails where an RPC has no good input, or a field with rules is never bad."""
    assert any(not row.violations for row in rows), "there is no good input"
    named = {field.split("[")[0].split(".")[0] for row in rows for field in row.violations}
    missing = {field.name for field in request.fields if has_rules(field)} - named
    assert not missing, f"never bad: {sorted(missing)}"


def has_rules(field: FieldDescriptor) -> bool:
    """Whether anything is bad in a field: it has rules itself, or holds a message, which has rules of its own."""
    return field.message_type is not None or field.GetOptions().HasExtension(validate_pb2.field)
