"""What a policy is about, as a person names it."""

from typing import Annotated

import typer

from activities.backend.contract import Backend
from activities.ledger.policies import Scope
from commands import options
from commands.exit_codes import BadUsage

Project = Annotated[int | None, typer.Option(parser=options.positive, metavar="N", help="those of one project")]
Kind = Annotated[str | None, typer.Option(parser=options.text, metavar="KIND", help="those of one kind, such as snapshots")]


def scope_of(backend: Backend, organization: int | None, project: int | None, kind: str | None) -> Scope:
    """Raises BadUsage for a kind that there is not."""
    if kind is not None and kind not in backend.bulk.kinds:
        raise BadUsage(f"the kinds of artifacts are {', '.join(backend.bulk.kinds) or 'not told apart by this backend'}")
    return Scope(organization, project, kind)
