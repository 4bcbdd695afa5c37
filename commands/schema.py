"""`schema`: what a client in another language has to send."""

from artifact_deletion.request import request_schema
from commands.exit_codes import DONE
from commands.output import say


def schema() -> int:
    """Print the JSON Schema of a request, for clients in other languages."""
    say(request_schema())
    return DONE
