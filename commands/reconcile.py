"""`reconcile`: what of a project the store holds and no row names, and what rows name in vain. It deletes by a report alone."""

import csv
import gc
import json
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer
from sqlalchemy import select

from commands import options
from commands.display import print_columns
from commands.exit_codes import DONE, FAILED, OUTPUT_LOST, BadUsage
from commands.output import say, warn
from commands.reconcile_text import as_json, lines
from settings import Settings, load

if TYPE_CHECKING:
    from activities.reconcile.reconcile import Reconciliation
    from activities.reconcile.report import Report
    from composition import Parts

_SAID_EVERY = 100_000
OneProject = Annotated[int | None, typer.Option(parser=options.number, metavar="N", help="the project to look at")]
OlderThan = Annotated[
    timedelta, typer.Option(parser=options.age, metavar="TIME", help="an orphan is at least so old, such as 12h or 7d")
]
Implausible = Annotated[
    int,
    typer.Option(
        parser=options.percent,
        metavar="PERCENT",
        help="if more of the artifacts' objects or traces may go by the report, none may",
    ),
]
Usable = Annotated[timedelta, typer.Option(parser=options.age, metavar="TIME", help="how long the report may be acted on")]
Delete = Annotated[str | None, typer.Option("--delete", metavar="REPORT", help="delete what this report lists")]
Csv = Annotated[
    str | None, typer.Option("--csv", metavar="FILE", help="one line for each class and artifact; FILE is written anew")
]
Keys = Annotated[bool, typer.Option("--keys", help="name the keys that rows name in vain, at most ten thousand")]


def reconcile(
    *,
    project: OneProject = None,
    delete: Delete = None,
    older_than: OlderThan = "7d",  # type: ignore[assignment]  # a default is parsed too
    implausible: Implausible = 50,
    keys: Keys = False,
    usable_for: Usable = "7d",  # type: ignore[assignment]  # the same
    csv_file: Csv = None,
    requested_by: options.RequestedBy = None,
    yes: options.Yes = False,
    wait: options.Wait = False,
    json_: options.Json = False,
) -> int | Coroutine[Any, Any, int]:
    """List what the store holds of a project, beside the project's rows, with a worker's settings and rights.

    An orphan lies under an artifact that has no row, and no open or failed deletion owes it. What is too young for that is
    recent: an upload's row may not be committed yet. A comparison leftover is the same of a comparison, under an artifact that
    has a row. The same goes for trace items, if the trace store can list them. A row dangles if it names an object that cannot
    be read. Each version of an object counts, and delete markers do not.

    The report stands in the ledger for a week. With --delete REPORT, the orphans and comparison leftovers that it lists are
    deleted, as far as no row names them by then, and the orphaned artifacts' trace items with them. --requested-by, --yes and
    --wait are for that alone.

    Ends with 1 if there are orphans, comparison leftovers, orphaned trace items or dangling rows.
    """
    if (project is None) == (delete is None):
        raise BadUsage("name a --project to look at, or a report to --delete")
    if delete is not None:
        from commands.delete_orphans import delete_orphans  # noqa: PLC0415  slow to import, and not needed for a look

        return delete_orphans(delete, requested_by=requested_by, yes=yes, wait=wait, as_json=json_)
    with _opened(csv_file) as file, _report(project or 0, older_than, usable_for, implausible) as report:
        lost = None if file is None else _write_csv(report.look, file)
        _show(report, json_=json_, with_keys=keys)
    if lost is not None:
        warn(f"the file of --csv is incomplete: it could not be written ({lost.strerror})")
        return OUTPUT_LOST
    return FAILED if report.dangling or report.deletable else DONE


@contextmanager
def _report(project: int, older_than: timedelta, usable_for: timedelta, plausible: int) -> Iterator["Report"]:
    """In the ledger, for as long as the report is shown."""
    from activities.reconcile.report import report_of, write  # noqa: PLC0415  slow to import, and not needed to refuse a word
    from composition import open_parts  # noqa: PLC0415  the same

    settings = load(Settings)
    parts = open_parts(settings)
    try:
        with ThreadPoolExecutor(settings.store_requests) as requests:
            look = _begun(parts, project, older_than, requests)
            gc.freeze()  # modules and clients stay: no collection need look through them again and again
            with closing(look.tally):
                _say_progress(look.list_objects(), "keys looked at")
                _say_progress(look.check_rows(), "artifacts' rows looked at")
                _say_progress(look.check_traces(), "traces or ids of artifacts looked at")
                write(report := report_of(look, usable_for, plausible))
                yield report
    finally:
        parts.database.dispose()


def _show(report: "Report", *, json_: bool, with_keys: bool) -> None:
    if json_:
        say(json.dumps(as_json(report, with_keys=with_keys), indent=2))
    else:
        print_columns(list(lines(report)))
        for kind, artifact, key in report.look.rows.keys if with_keys else ():
            say(f"dangling, {kind} of {artifact}: {json.dumps(key)}")
    if report.is_implausible:
        warn(
            "WARNING: nothing may be deleted by this report: "
            f"no row stands for {report.deletable_percent:.0f} % of the artifacts' objects, or of their traces. "
            "A wrong join looks like this: "
            "is it the right database, is it complete, and is the project's organization the one in these keys?"
        )


def _opened(csv_file: str | None) -> Any:
    """Open the file before the long look, so that one that cannot be written is refused at once."""
    if csv_file is None:
        return nullcontext()
    try:
        return Path(csv_file).open("w", newline="", encoding="utf-8")
    except OSError as error:
        raise BadUsage(f"the file of --csv cannot be written ({type(error).__name__})") from None


def _begun(parts: "Parts", project: int, older_than: timedelta, requests: ThreadPoolExecutor) -> "Reconciliation":
    from activities.ledger.schema import clock  # noqa: PLC0415
    from activities.reconcile.facts import Project  # noqa: PLC0415

    if not parts.store.listable:
        raise BadUsage("the store cannot list, so nothing can be looked for")
    with parts.database.read() as session:
        organization, now = parts.backend.organization_of(session, project), session.execute(select(clock())).scalar_one()
    if organization is None:
        raise BadUsage(f"there is no project {project}")
    return parts.reconciling(requests, Project(organization, project), older_than, now)


def _say_progress(counts: Iterator[int], of_what: str) -> None:
    said = 0
    for count in counts:
        if count // _SAID_EVERY > said:
            said = count // _SAID_EVERY
            warn(f"{count:,} {of_what}")


def _write_csv(look: "Reconciliation", file: TextIO) -> OSError | None:
    """Write all of it, and close the file. Returns why it could not be written: the report is shown all the same."""
    try:
        with file:
            _write_lines(look, file)
    except OSError as error:
        return error
    return None


def _write_lines(look: "Reconciliation", file: TextIO) -> None:
    from activities.reconcile.report import moment  # noqa: PLC0415  slow to import, and not needed to refuse a word

    writer = csv.writer(file)
    writer.writerow(("class", "artifact", "objects", "bytes", "oldest", "newest"))
    for one in look.tally.lines():
        span = (moment(one.sum.oldest), moment(one.sum.newest))
        writer.writerow((one.name, one.artifact or "", one.sum.objects, one.sum.size, *span))
