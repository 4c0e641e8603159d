"""Deploys the infrastructure templates to the local AWS: creates their stacks, or brings them up to date.

Needs botocore, which the local AWS brings. Fails where it cannot be done now; the Job tries again.
"""

import os
import pathlib
import re
import sys
import time

import botocore.exceptions
import botocore.session

PATIENCE = 120.0
POLL = 0.2
RETENTION_DAYS = 30
# Rules stand on the bus, so these come before those of projections.
FIRST = ("data", "application")
# Resources that the local AWS lacks: archives in CloudFormation, alarms over several metrics.
PARAMETERS = {"DeployArchive": "false", "DeployMathAlarms": "false"}


def in_order(folder: pathlib.Path) -> list[pathlib.Path]:
    """The templates in the order in which their stacks are created."""
    templates = {path.stem: path for path in folder.glob("*.yaml")}
    return [templates.pop(name) for name in FIRST] + [templates[name] for name in sorted(templates)]


def deploy(cloudformation, stack: str, prefix: str, template: str) -> None:
    """Begins to create a stack or to change it."""
    # CloudFormation refuses parameters that a template does not have. Rendered templates have one form.
    section = re.search(r"^Parameters:\n((?: .*\n)*)", template, re.MULTILINE)
    known = re.findall(r"^  (\w+):$", section[1] if section else "", re.MULTILINE)
    wanted = {"Prefix": prefix, **PARAMETERS}
    arguments = {
        "StackName": stack,
        "TemplateBody": template,
        "Parameters": [
            {"ParameterKey": key, "ParameterValue": value} for key, value in wanted.items() if key in known
        ],
        "Capabilities": ["CAPABILITY_NAMED_IAM"],
    }
    try:
        cloudformation.create_stack(**arguments)
        return
    except cloudformation.exceptions.AlreadyExistsException:
        pass
    try:
        cloudformation.update_stack(**arguments)
    except botocore.exceptions.ClientError as error:
        # CloudFormation tells this case only by its message.
        if "No updates are to be performed" not in str(error):
            raise


def settled(cloudformation, stack: str) -> str:
    """A stack's status once it does not change any more."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        status = cloudformation.describe_stacks(StackName=stack)["Stacks"][0]["StackStatus"]
        if not status.endswith("_IN_PROGRESS"):
            return status
        time.sleep(POLL)
    return f"not settled after {PATIENCE:.0f} s"


def archive(events, prefix: str) -> None:
    """Adds the archive that the template could not."""
    bus = events.describe_event_bus(Name=f"{prefix}-events")
    try:
        events.create_archive(ArchiveName=bus["Name"], EventSourceArn=bus["Arn"], RetentionDays=RETENTION_DAYS)
    except events.exceptions.ResourceAlreadyExistsException:
        pass


def main() -> None:
    # Endpoint, credentials and prefix come from the environment, as for the deployables.
    prefix, region = os.environ["MILLRACE_PREFIX"], os.environ["AWS_REGION"]
    session = botocore.session.get_session()
    cloudformation = session.create_client("cloudformation", region_name=region)
    events = session.create_client("events", region_name=region)
    for template in in_order(pathlib.Path(sys.argv[1])):
        stack = f"{prefix}-{template.stem}"
        deploy(cloudformation, stack, prefix, template.read_text(encoding="utf-8"))
        status = settled(cloudformation, stack)
        if status not in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
            for event in cloudformation.describe_stack_events(StackName=stack)["StackEvents"]:
                if event["ResourceStatus"].endswith("_FAILED"):
                    print(event["LogicalResourceId"], event.get("ResourceStatusReason", ""), file=sys.stderr)
            sys.exit(f"the stack {stack} is {status}")
        print(f"the stack {stack} is {status}")
    archive(events, prefix)


if __name__ == "__main__":
    main()
