"""The command line: start deletions, follow them, run them again, and read their receipts."""

import argparse
import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError
from sqlalchemy import select
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError

from activities.storage import ledger
from activities.storage.database import Database
from activities.storage.freeze import freeze, frozen_since, thaw
from activities.storage.ledger import Deletion, DeletionState
from activities.storage.receipts import CameBack, came_back, receipts_of
from client import (
    NoSuchDeletion,
    Recorded,
    Trying,
    accept_deletion,
    is_running,
    preview_deletion,
    progress,
    receipt,
    recorded,
    register_search_attributes,
    resume,
    start_deletion,
    trying_again,
    wait_rows_deleted,
)
from settings import DatabaseSettings, Settings, load
from terminal import (
    confirmed,
    follower,
    left_over_lines,
    preview_lines,
    print_columns,
    print_findings,
    print_table,
    receipt_lines,
    status_json,
    status_lines,
)
from workflows.converter import connect, send_traces, unreachable
from workflows.errors import (
    AdaptersUnusable,
    DeletionError,
    EndpointUnusable,
    Frozen,
    TemporalMisconfigured,
    TemporalUnreachable,
)
from workflows.messages import (
    OPAQUE_ID,
    WORKFLOW_NAME,
    DeletionReceipt,
    DeletionRequest,
    Preview,
    Progress,
    Stage,
    refused_fields,
    workflow_id,
)
from workflows.page import NOTHING_DELETED, PAST_RETURN, counted

__all__ = [
    "NoSuchDeletion",
    "Recorded",
    "Trying",
    "accept_deletion",
    "connect",
    "preview_deletion",
    "progress",
    "receipt",
    "recorded",
    "register_search_attributes",
    "resume",
    "start_deletion",
    "trying_again",
    "wait_rows_deleted",
]  # what a backend calls, under the name of the file that it knows

DONE, FAILED, BAD_USAGE, UNREACHABLE = range(4)
INTERRUPTED = 130
"""Ctrl-C, as shells say it."""
_ENDED = {DeletionState.FAILED, DeletionState.CLOSED}
"""The states whose receipt, if there is one, is of the last run."""


def _stages(stages: Iterable[Stage]) -> str:
    quoted = [f'"{stage}"' for stage in stages]
    return f"({', '.join(quoted)})"


LIST_FILTERS = {
    "all with leftovers": "Leftovers > 0",
    "all of organization 42": 'OrganizationId = "42"',
    "all that run, past the point of no return": f'ExecutionStatus = "Running" AND DeletionStage IN {_stages(PAST_RETURN)}',
    "nothing deleted in this run yet": f'ExecutionStatus = "Running" AND DeletionStage IN {_stages(NOTHING_DELETED)}',
    "all that failed": f'WorkflowType = "{WORKFLOW_NAME}" AND ExecutionStatus = "Failed"',
}
"""For the Web UI's list of workflows, and for `temporal workflow list --query`."""


def request_schema() -> str:
    """The JSON Schema of a request, as docs/request.schema.json has it."""
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps(dialect | DeletionRequest.model_json_schema(), indent=2)


def _print_receipt(receipt: DeletionReceipt, *, as_json: bool) -> None:
    if as_json:
        print(receipt.model_dump_json(indent=2))
    else:
        print_columns(receipt_lines(receipt))


async def follow(client: Client, workflow: str, *, quiet: bool = False, as_json: bool = False, every_s: float = 0.5) -> int:
    """Show a running deletion's progress until it ends. Returns the exit code."""
    handle = client.get_workflow_handle(workflow, result_type=DeletionReceipt)
    ended = asyncio.create_task(handle.result())
    try:
        with follower(workflow, as_json=as_json, quiet=quiet) as shown:
            while not ended.done():
                if not quiet:
                    shown.show(*await _now(client, workflow))
                await asyncio.wait([ended], timeout=every_s)
    finally:
        ended.cancel()
    try:
        await ended
    except WorkflowFailureError as error:
        sys.stderr.write(f"{_ended(error)}\n")
        return FAILED
    return DONE


async def _follow_from_here(client: Client, workflow: str, *, quiet: bool = False, as_json: bool = False) -> int:
    """The same for whoever may press Ctrl-C."""
    try:
        return await follow(client, workflow, quiet=quiet, as_json=as_json)
    except asyncio.CancelledError:
        sys.stderr.write(f"The deletion goes on without you. To see it again: python starter.py status {workflow} --follow\n")
        return INTERRUPTED


async def _now(client: Client, workflow: str) -> tuple[Progress | None, list[Trying]]:
    """A running deletion's progress, if a worker answers, and the steps that are tried again."""
    now: Progress | None = None
    again: list[Trying] = []
    with contextlib.suppress(RPCError):
        again = await trying_again(client, workflow)
        now = await progress(client, workflow)
    return now, again


def _ended(error: WorkflowFailureError) -> str:
    cause = error.cause
    return cause.message if isinstance(cause, ApplicationError) else f"the deletion ended otherwise: {type(cause).__name__}"


async def _setup(arguments: argparse.Namespace) -> int:
    from migrations import as_sql, migrate  # noqa: PLC0415  backends that only start deletions need no Alembic

    if arguments.sql:
        print(as_sql(arguments.sql))
        return DONE
    database = _database()
    migrate(database)
    print("the ledger is up to date")
    added = await register_search_attributes(await connect())
    print(f"search attributes: {', '.join(added) or 'all there already'}")
    return DONE


async def _delete(arguments: argparse.Namespace) -> int:
    request = _request(arguments)
    database = _database()
    with database.write() as session:
        accept_deletion(session, request, reason=arguments.reason)
    return await _run(database, request, wait=arguments.wait, as_json=arguments.json)


def _request(arguments: argparse.Namespace) -> DeletionRequest:
    return DeletionRequest(
        organization_id=arguments.organization,
        artifact_ids=arguments.artifacts,
        project_id=arguments.project,
        requested_by=arguments.requested_by,
        reference=arguments.reference,
    )


async def _preview(arguments: argparse.Namespace) -> int:
    request = _request(arguments)
    strays: list[tuple[str, str]] = []
    if arguments.strays:
        found, strays = await asyncio.to_thread(_preview_here, request)
    else:
        try:
            found = await preview_deletion(await connect(), request)
        except WorkflowFailureError as error:
            sys.stderr.write(f"{_ended(error)}\n")
            return FAILED
    if arguments.json:
        named = {"named_strays": [{"why": why, "key": key} for why, key in strays]} if arguments.strays else {}
        print(json.dumps(found.model_dump(mode="json") | named, indent=2))
    else:
        print_columns(preview_lines(found))
        for why, key in strays:
            print(f"stray, {why}: {json.dumps(key)}")
    return FAILED if found.refused else DONE


def _preview_here(request: DeletionRequest) -> tuple[Preview, list[tuple[str, str]]]:
    """The same dry run in this process, with the worker's settings: keys may not travel through Temporal."""
    from worker import open_database, open_store, preview_step  # noqa: PLC0415  clients need neither store nor its packages

    settings = load(Settings)
    database = open_database(settings)
    with ThreadPoolExecutor(settings.store_requests) as requests:
        step = preview_step(settings, database, open_store(settings), requests)
        found, strays = step.preview_with_strays(request)
    database.dispose()
    return found, [(str(why), key) for why, key in strays]


async def _rerun(arguments: argparse.Namespace) -> int:
    if arguments.all_failed:
        return await _rerun_all(arguments)
    database = _database()
    request = recorded(database, arguments.deletion).request
    running = False
    with contextlib.suppress(RPCError, TemporalUnreachable):
        running = await is_running(await connect(), request.workflow_id)
    if not running:  # one that Reset took up must be left to close what it found failed
        with database.write() as session:
            accept_deletion(session, request)
    return await _run(database, request, wait=arguments.wait, as_json=arguments.json)


async def _rerun_all(arguments: argparse.Namespace) -> int:
    """Every failed deletion, once whoever asks has seen which those are."""
    database = _database()
    failed = list(_listed(database, organization=arguments.organization, state=DeletionState.FAILED))
    if not failed:
        sys.stderr.write("no deletion has failed\n")
        return DONE
    if not arguments.json:
        _print_list(failed)
    if not arguments.yes and (refused := await _refused(failed)) is not None:
        return refused
    client = await connect()
    requests = [recorded(database, one.workflow_id).request for one in failed]
    for request in requests:
        if not await is_running(client, request.workflow_id):
            with database.write() as session:
                accept_deletion(session, request)
        await start_deletion(client, request)
        if not arguments.wait:
            print(json.dumps({"workflow_id": request.workflow_id}) if arguments.json else request.workflow_id, flush=True)
    if not arguments.wait:
        return DONE
    codes = [await _end_of(client, database, request, as_json=arguments.json) for request in requests]
    return FAILED if FAILED in codes else DONE


async def _refused(failed: Sequence["_Listed"]) -> int | None:
    """Ask whether they are to run. None is a yes, else the exit code."""
    total = sum((Counter(one.left_over) for one in failed), Counter[str]())
    what = f"{len(failed):,} failed deletion{'s' * (len(failed) != 1)} with {counted(total)} left over"
    if not sys.stdin.isatty():
        sys.stderr.write(f"{what}: nothing was started; without a terminal to ask at, --yes says that they are to run again\n")
        return BAD_USAGE
    if not await asyncio.to_thread(confirmed, f"Run {what} again?"):
        sys.stderr.write("nothing was started\n")
        return FAILED
    return None


async def _end_of(client: Client, database: Database, request: DeletionRequest, *, as_json: bool) -> int:
    """Wait for one of many, and say in a line how it ended."""
    with contextlib.suppress(WorkflowFailureError):
        await client.get_workflow_handle(request.workflow_id).result()
    found = recorded(database, request.workflow_id)
    left_over = found.receipt.left_over if found.receipt else {}
    if as_json:
        print(json.dumps({"workflow_id": request.workflow_id, "state": found.state, "left_over": left_over}), flush=True)
    else:
        print(f"{request.workflow_id}: {found.state}{f', {counted(left_over)} left over' if left_over else ''}", flush=True)
    return DONE if found.state is DeletionState.CLOSED else FAILED


async def _run(database: Database, request: DeletionRequest, *, wait: bool, as_json: bool) -> int:
    found = recorded(database, request.workflow_id)
    if found.state is DeletionState.CLOSED and found.receipt:
        _print_receipt(found.receipt, as_json=as_json)
        return DONE
    try:
        client = await connect()
        await start_deletion(client, request)
    except (RPCError, DeletionError) as error:
        sentence, _ = _explained(error)
        sys.stderr.write(f"{request.workflow_id} is accepted, and `starter.py resume` starts it later: {sentence}\n")
        return UNREACHABLE
    if not wait:
        print(json.dumps({"workflow_id": request.workflow_id}) if as_json else request.workflow_id)
        return DONE
    if not as_json:
        print(request.workflow_id)
    code = await _follow_from_here(client, request.workflow_id, quiet=as_json)
    if code != INTERRUPTED and (done := receipt(database, request.workflow_id)):
        _print_receipt(done, as_json=as_json)
    return code


async def _status(arguments: argparse.Namespace) -> int:
    database = _database()
    found = recorded(database, arguments.deletion)
    workflow = found.request.workflow_id
    client = await connect()
    running = await is_running(client, workflow)
    if arguments.follow and running:
        code = await _follow_from_here(client, workflow, as_json=arguments.json)
        if code == INTERRUPTED or not arguments.json:
            return code
        found, running = recorded(database, workflow), False
    now, again = await _now(client, workflow) if running else (None, [])
    left_over = found.receipt.left_over if found.receipt and not running else {}
    frozen = frozen_since(database)
    if arguments.json:
        answer = {"workflow_id": workflow, "state": found.state, "running": running, "left_over": left_over}
        answer |= {"frozen_since": frozen.isoformat(timespec="seconds")} if frozen else {}
        print(json.dumps(answer | (status_json(now, again) if running else {})))
    else:
        taken_up = ", running again" if found.state is DeletionState.FAILED else ""
        print(f"{workflow}: {found.state}{taken_up if running else ', not running'}")
        for line in status_lines(now, again) if running else left_over_lines(left_over, workflow):
            print(line)
        if frozen and not (now and Frozen.__name__ in now.held_up):
            print(_frozen_text(frozen))
    return FAILED if found.state in {DeletionState.FAILED, DeletionState.REFUSED} and not running else DONE


@dataclass(frozen=True)
class _Listed:
    """A deletion as a line of the list has it."""

    workflow_id: str
    organization_id: int
    state: str
    artifacts: int
    accepted: str
    reference: str | None
    left_over: dict[str, int]


def _listed(
    database: Database, *, organization: int | None = None, state: str | None = None, limit: int | None = None
) -> Iterator[_Listed]:
    statement = select(Deletion).order_by(Deletion.accepted_at.desc(), Deletion.id).limit(limit)
    if organization is not None:
        statement = statement.where(Deletion.organization_id == organization)
    if state:
        statement = statement.where(Deletion.state == state)
    with database.read() as session:
        for row in session.execute(statement).scalars():
            deletion = workflow_id(row.organization_id, row.id)
            ended = row.receipt if row.state in _ENDED else None
            try:
                request = DeletionRequest.model_validate(row.request)
                left_over = {} if ended is None else DeletionReceipt.model_validate(ended).left_over
            except ValidationError:
                sys.stderr.write(f"{deletion}: its request or receipt is none that this version knows\n")
                continue
            yield _Listed(
                deletion,
                row.organization_id,
                row.state,
                len(request.artifact_ids),
                row.accepted_at.isoformat(timespec="seconds"),
                request.reference,
                left_over,
            )


def _print_list(found: Iterable[_Listed]) -> None:
    print_table(
        ("accepted", "state", "artifacts", "left over", "reference", "deletion"),
        (
            (
                one.accepted,
                one.state,
                f"{one.artifacts:,}",
                counted(one.left_over) or "-",
                one.reference or "-",
                one.workflow_id,
            )
            for one in found
        ),
        styles={DeletionState.FAILED: "red", DeletionState.CLOSED: "green", DeletionState.RUNNING: "cyan"},
    )


async def _list(arguments: argparse.Namespace) -> int:
    found = _listed(_database(), organization=arguments.organization, state=arguments.state, limit=arguments.limit)
    if not arguments.json:
        _print_list(found)
        return DONE
    for one in found:
        print(json.dumps(asdict(one)))
    return DONE


async def _doctor(arguments: argparse.Namespace) -> int:
    from doctor import examine  # noqa: PLC0415  needs what a worker needs

    settings = load(DatabaseSettings if arguments.database_only else Settings)
    found = await examine(settings)
    if arguments.json:
        print(json.dumps([asdict(one) for one in found], indent=2))
    else:
        print_findings(found)
    return FAILED if any(one.state == "bad" for one in found) else DONE


async def _resume(arguments: argparse.Namespace) -> int:
    database = _database()
    if arguments.every is not None:
        return await _relay(database, arguments.every)
    started = await resume(await connect(), database)
    for workflow in started:
        print(workflow)
    print(f"{len(started)} started", file=sys.stderr)
    return DONE


async def _relay(database: Database, every_s: float) -> int:
    """Resume again and again until SIGTERM or SIGINT. An outage is said once, and outlived."""
    asked_to_stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, asked_to_stop.set)
    client, trouble = None, ""
    while not asked_to_stop.is_set():
        try:
            client = client or await connect()
            for workflow in await resume(client, database):
                print(workflow, flush=True)
            trouble = ""
        except (DeletionError, RPCError) as error:
            sentence, _ = _explained(error)
            if sentence != trouble:
                print(sentence, file=sys.stderr, flush=True)
            trouble = sentence
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asked_to_stop.wait(), every_s)
    return DONE


async def _freeze(arguments: argparse.Namespace) -> int:
    # In no other thread: a second Ctrl-C ends the wait, and it is frozen all the same.
    sys.stderr.write("freezing, and waiting for transactions that delete rows at this moment\n")
    print(_frozen_text(freeze(_database(), arguments.reason)))
    return DONE


async def _thaw(arguments: argparse.Namespace) -> int:  # noqa: ARG001  every command takes its arguments
    since = thaw(_database())
    print(f"thawed: deletions go on within seconds; {_frozen_text(since)}" if since else "deletions were not frozen")
    return DONE


def _frozen_text(since: datetime) -> str:
    return f"frozen since {since:%Y-%m-%d %H:%M:%S} UTC"


async def _confirm(arguments: argparse.Namespace) -> int:
    database = _database()
    request = recorded(database, arguments.deletion).request
    with database.write() as session:
        ledger.confirm(session, request.deletion_id, arguments.by)
        size = ledger.size_of(session, request.deletion_id)
    print(f"{size.workflow_id} is confirmed: {size.artifacts:,} artifacts, {size.keys:,} keys collected so far")
    return DONE


async def _reapply(arguments: argparse.Namespace) -> int:
    """Delete again what a restore brought back, as receipts outside the database say."""
    all_closed, unreadable = receipts_of(_receipt_lines(arguments), arguments.since)
    database = _database()
    with database.read(snapshot=True) as session:
        found = list(came_back(session, all_closed))
    again = [one for one in found if not one.younger]
    total = sum(len(one.artifacts) for one in again)
    for one in found:
        print(_came_back_text(one))
    print(
        f"{len(all_closed):,} receipts since {arguments.since.isoformat(timespec='seconds')}: "
        f"{total:,} artifacts of {len(again):,} deletions are back, and may be deleted again"
    )
    if unreadable:
        sys.stderr.write(f"{unreadable:,} lines are no receipts that this version knows\n")
    done = FAILED if unreadable or len(again) < len(found) else DONE
    if arguments.dry_run or not again:
        return done
    if not arguments.yes and not await asyncio.to_thread(confirmed, f"Delete these {total:,} artifacts again?"):
        sys.stderr.write("nothing was done\n")
        return FAILED
    return await _delete_again(database, [one.closed.request for one in again]) or done


def _receipt_lines(arguments: argparse.Namespace) -> Iterator[str]:
    if arguments.receipts:
        try:
            return iter(Path(arguments.receipts).read_text(errors="replace").splitlines())
        except OSError as error:
            sys.stderr.write(f"the file of receipts cannot be read ({type(error).__name__})\n")
            sys.exit(BAD_USAGE)
    from worker import stored_receipts  # noqa: PLC0415  clients need neither store nor its packages

    settings = load(Settings)
    if settings.receipt_export in {None, "stdout"}:
        sys.stderr.write("ARTIFACT_DELETION_RECEIPT_EXPORT: names no place in the store; name a file (--receipts)\n")
        sys.exit(BAD_USAGE)
    return stored_receipts(settings).lines(arguments.since)


def _came_back_text(one: CameBack) -> str:
    request, at = one.closed.request, one.closed.receipt.times.closed
    text = f"{at.isoformat(timespec='seconds')}  {len(one.artifacts):>7,} of {len(request.artifact_ids):,} artifacts are back"
    if one.younger:
        text += f", LEFT ALONE: {len(one.younger):,} others have ids that it deleted, but were added later"
    return f"{text}  {request.workflow_id}"


async def _delete_again(database: Database, requests: Sequence[DeletionRequest]) -> int:
    with database.write() as session:
        for request in requests:
            accept_deletion(session, request)
    try:
        client = await connect()
        for request in requests:
            await start_deletion(client, request)
            print(request.workflow_id)
    except (RPCError, DeletionError) as error:
        sentence, _ = _explained(error)
        sys.stderr.write(f"all are accepted, and `starter.py resume` starts them later: {sentence}\n")
        return UNREACHABLE
    return DONE


async def _receipt(arguments: argparse.Namespace) -> int:
    found = recorded(_database(), arguments.deletion)
    if found.receipt is None:
        sys.stderr.write("there is no receipt yet: the deletion has not come to its end\n")
        return FAILED
    if found.state not in _ENDED:
        sys.stderr.write(f"{found.request.workflow_id} is {found.state}: its receipt is of an earlier run\n")
    _print_receipt(found.receipt, as_json=arguments.json)
    return DONE if found.state is DeletionState.CLOSED else FAILED


async def _schema(arguments: argparse.Namespace) -> int:  # noqa: ARG001  every command takes its arguments
    print(request_schema())
    return DONE


async def _demo(arguments: argparse.Namespace) -> int:  # noqa: ARG001  every command takes its arguments
    try:
        from demo.run import demo  # noqa: PLC0415  needs the development packages
    except ModuleNotFoundError:
        sys.stderr.write("the demo is in the repository only, with its packages: make demo\n")
        return BAD_USAGE

    code: int = await demo()
    return code


def _database() -> Database:
    settings = load(DatabaseSettings)
    return Database(settings.database_url.get_secret_value(), pool_size=1)


def _number(value: str) -> int:
    # ASCII digits alone: int() takes more than a person would call a number.
    if not re.fullmatch(r"-?[0-9]{1,30}", value, re.ASCII) or abs(number := int(value)) >= 2**63:
        raise argparse.ArgumentTypeError("must be a whole number of at most 63 bits")
    return number


def _text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:  # bytes that were typed in another encoding
        raise argparse.ArgumentTypeError("must be text in UTF-8") from None
    return value


def _seconds(value: str) -> float:
    found = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)([smh])", value, re.ASCII)
    if not found or (seconds := float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]]) == 0:
        raise argparse.ArgumentTypeError("must be a time such as 30s, 5m or 1h")
    return seconds


def _time(value: str) -> datetime:
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        raise argparse.ArgumentTypeError("must be a time such as 2026-11-25T02:00:00+00:00") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _opaque_id(value: str) -> str:
    if not re.fullmatch(OPAQUE_ID, value):
        raise argparse.ArgumentTypeError("must be an opaque id, such as user:7")
    return value


def _limit(value: str) -> int:
    if (number := _number(value)) < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def _add_emergencies(command: Callable[..., argparse.ArgumentParser]) -> None:
    freezing = command("freeze", _freeze, "stop all deletions, everywhere, within seconds; they wait, none fails")
    freezing.add_argument("--reason", type=_text, required=True, help="free text; stays in the ledger")
    command("thaw", _thaw, "let frozen deletions go on")
    confirming = command("confirm", _confirm, "let a deletion go on that is larger than may go unconfirmed", deletion=True)
    confirming.add_argument("--by", type=_opaque_id, required=True, help="opaque id of whoever confirms")
    reapplying = command("reapply", _reapply, "after a restore: delete again what it brought back, by receipts kept outside")
    reapplying.add_argument(
        "--since",
        type=_time,
        required=True,
        help="the moment to which the database was restored; UTC unless it says",
    )
    reapplying.add_argument("--receipts", metavar="FILE", help="receipts as JSON lines, where workers print them")
    reapplying.add_argument("--dry-run", action="store_true", help="say what came back, and do nothing")
    reapplying.add_argument("--yes", action="store_true", help="ask no question")


def _add_requests(command: Callable[..., argparse.ArgumentParser]) -> None:
    delete = command("delete", _delete, "delete artifacts of an organization")
    previewing = command("preview", _preview, "what a deletion would do; changes nothing")
    previewing.add_argument(
        "--strays",
        action="store_true",
        help="name each key that would be left alone, and why: looks from here, with the worker's settings",
    )
    for made in (delete, previewing):
        made.add_argument("artifacts", nargs="+", type=_number, help="artifact ids")
        made.add_argument("--organization", type=_number, required=True, help="the organization they all belong to")
        made.add_argument("--project", type=_number, help="where artifacts lay whose rows are already gone")
        made.add_argument("--requested-by", help="opaque id of whoever asks")
        made.add_argument("--reference", help="ticket or request id")
    delete.add_argument("--reason", type=_text, help="free text; stays in the ledger")
    rerun = command("rerun", _rerun, "run a failed or cancelled deletion again: it does what is left")
    which = rerun.add_mutually_exclusive_group(required=True)
    which.add_argument("deletion", type=_text, nargs="?", help="workflow id, or the digest at its end")
    which.add_argument("--all-failed", action="store_true", help="all that failed, as after an outage; shows them and asks")
    rerun.add_argument("--organization", type=_number, help="with --all-failed: those of one organization")
    rerun.add_argument("--yes", action="store_true", help="with --all-failed: do not ask")
    for made in (delete, rerun):
        made.add_argument("--wait", action="store_true", help="follow it to its end")
    for made in (delete, previewing, rerun):
        made.add_argument("--json", action="store_true", help="for scripts")


def _add_list(command: Callable[..., argparse.ArgumentParser]) -> argparse.ArgumentParser:
    listing = command("list", _list, "deletions, newest first")
    listing.formatter_class = argparse.RawDescriptionHelpFormatter
    filters = "\n".join(f"  {what}:\n    {query}" for what, query in LIST_FILTERS.items())
    listing.epilog = (
        "Filters for the list in Temporal's Web UI, or for `temporal workflow list --query`. A line there is a run: one with\n"
        f"leftovers keeps them there, also when a later run has dealt with them, and the deletion is closed here.\n\n{filters}"
    )
    listing.add_argument("--organization", type=_number)
    listing.add_argument("--state", choices=list(DeletionState))
    listing.add_argument("--limit", type=_limit, default=50)
    return listing


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Delete snapshot artifacts for good: start deletions, follow them, run them again.",
        epilog="exit codes: 0 done, 1 failed or left over, 2 bad usage, 3 Temporal or the database not reached, 130 Ctrl-C",
    )
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, run: Any, help: str, *, deletion: bool = False) -> argparse.ArgumentParser:  # noqa: A002
        made = commands.add_parser(name, help=help, description=help)
        made.set_defaults(run=run)
        if deletion:
            made.add_argument("deletion", type=_text, help="workflow id, or the digest at its end")
        return made

    setup = command("setup", _setup, "create or update the ledger's tables and the search attributes; safe to repeat")
    setup.add_argument("--sql", choices=["postgresql", "sqlite"], help="print the tables' SQL instead")
    _add_requests(command)
    status = command("status", _status, "where a deletion is", deletion=True)
    status.add_argument("--follow", action="store_true", help="until it ends")
    listing = _add_list(command)
    resuming = command("resume", _resume, "start every accepted deletion that nobody runs")
    resuming.add_argument("--every", type=_seconds, help="again and again, such as every 30s, 5m or 1h, until it is stopped")
    _add_emergencies(command)
    shown = command("receipt", _receipt, "what a deletion did", deletion=True)
    examining = command(
        "doctor", _doctor, "look at all that a worker needs, with its settings, and say what to do; changes nothing"
    )
    examining.add_argument("--database-only", action="store_true", help="ledger and schema, as for a backend's own tests")
    for made in (status, listing, shown, examining):
        made.add_argument("--json", action="store_true", help="for scripts")
    command("schema", _schema, "the JSON Schema of a request, for clients in other languages")
    command("demo", _demo, "the whole of it, on servers of its own that end with it")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parsed = _parser().parse_args(arguments)
    try:
        code: int = asyncio.run(parsed.run(parsed))
    except (ValidationError, NoSuchDeletion, DeletionError, RPCError, KeyboardInterrupt) as error:
        sentence, code = _explained(error)
        sys.stderr.write(f"{sentence}\n")
    return code


def _explained(error: BaseException) -> tuple[str, int]:
    match error:
        case ValidationError():
            return refused_fields(error), BAD_USAGE
        case NoSuchDeletion() | AdaptersUnusable() | EndpointUnusable() | TemporalMisconfigured():
            return str(error), BAD_USAGE
        case DeletionError():
            return str(error), UNREACHABLE
        case RPCError():
            return str(unreachable(error)), UNREACHABLE
    return "interrupted; a deletion that was started goes on", INTERRUPTED


def run() -> NoReturn:
    """Run the command line of this process, and end it."""
    ended_with = main()
    send_traces()
    sys.stdout.flush()
    sys.stderr.flush()
    # The SDK's threads can hold up an interpreter that ends while a call is still open, as after Ctrl-C.
    os._exit(ended_with)


if __name__ == "__main__":
    run()
