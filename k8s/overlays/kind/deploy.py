"""Deploys the infrastructure template to the local AWS: creates the stack, or brings it up to date.

Needs botocore, which the local AWS brings. Fails where it cannot be done now; the Job tries again.
"""

import sys
import time

import botocore.exceptions
import botocore.session

STACK = "millrace"
PATIENCE = 120.0
POLL = 0.2
RETENTION_DAYS = 30
# What the local AWS has not: archives in CloudFormation, alarms over several metrics.
PARAMETERS = {"NamePrefix": STACK, "DeployArchive": "false", "DeployMathAlarms": "false"}


def deploy(cloudformation, template: str) -> None:
    """Begins to create the stack or to change it."""
    arguments = {
        "StackName": STACK,
        "TemplateBody": template,
        "Parameters": [{"ParameterKey": key, "ParameterValue": value} for key, value in PARAMETERS.items()],
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


def settled(cloudformation) -> str:
    """The stack's status once it does not change any more."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        status = cloudformation.describe_stacks(StackName=STACK)["Stacks"][0]["StackStatus"]
        if not status.endswith("_IN_PROGRESS"):
            return status
        time.sleep(POLL)
    return f"not settled after {PATIENCE:.0f} s"


def archive(events) -> None:
    """Adds the archive that the template could not."""
    bus = events.describe_event_bus(Name=f"{STACK}-events")
    try:
        events.create_archive(ArchiveName=bus["Name"], EventSourceArn=bus["Arn"], RetentionDays=RETENTION_DAYS)
    except events.exceptions.ResourceAlreadyExistsException:
        pass


def main() -> None:
    # Region, endpoint and credentials come from the environment.
    session = botocore.session.get_session()
    cloudformation, events = session.create_client("cloudformation"), session.create_client("events")
    with open(sys.argv[1], encoding="utf-8") as template:
        deploy(cloudformation, template.read())
    status = settled(cloudformation)
    if status not in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
        for event in cloudformation.describe_stack_events(StackName=STACK)["StackEvents"]:
            if event["ResourceStatus"].endswith("_FAILED"):
                print(event["LogicalResourceId"], event.get("ResourceStatusReason", ""), file=sys.stderr)
        sys.exit(f"the stack {STACK} is {status}")
    archive(events)
    print(f"the stack {STACK} is {status}")


if __name__ == "__main__":
    main()
