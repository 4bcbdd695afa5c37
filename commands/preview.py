"""`preview`: what a deletion would do if it ran now."""

import asyncio
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

import typer
from temporalio.client import WorkflowFailureError

from artifact_deletion.client import preview_deletion
from artifact_deletion.receipt import Preview
from artifact_deletion.request import DeletionRequest
from commands import options
from commands.connection import connect
from commands.display import print_columns
from commands.exit_codes import DONE, FAILED
from commands.following import end_of
from commands.output import say, warn
from commands.receipt_text import preview_lines
from settings import Settings, load

Strays = Annotated[
    bool,
    typer.Option(
        "--strays", help="name each key that would be left alone, and why: looks from here, with the worker's settings"
    ),
]


async def preview(
    *,
    artifacts: options.Artifacts = None,
    organization: options.Organization,
    ids_from: options.IdsFrom = None,
    project: options.Project = None,
    images: options.Images = "delete",
    requested_by: options.RequestedBy = None,
    reference: options.Reference = None,
    strays: Strays = False,
    as_json: options.Json = False,
) -> int:
    """Say what a deletion would do; changes nothing.

    Objects are counted where they lie, over all usecases together, by kind: manifest, head_images, comparison_manifest,
    comparison_response, archive and icon are named by columns and ids, diff_mask by comparisons' manifests. What no one names
    is “found by listing”. In a bucket that keeps versions, each version and each delete marker counts.

    Where the store cannot list, keys are counted instead, once for each usecase in which they could lie: with four usecases
    up to four times as many as there are objects.

    Images are counted by the index of their projects' snapshots, and by up to 200 manifests that it does not have yet.
    """
    ids = options.artifact_ids(artifacts, ids_from)
    request = DeletionRequest(
        organization_id=organization,
        artifact_ids=ids,
        project_id=project,
        requested_by=requested_by,
        reference=reference,
        images=images,
    )
    return await _preview(request, strays=strays, as_json=as_json)


async def _preview(request: DeletionRequest, *, strays: bool, as_json: bool) -> int:
    named: list[tuple[str, str]] = []
    try:
        if strays:
            found, named = await asyncio.to_thread(_preview_here, request)
        else:
            found = await preview_deletion(await connect(), request)
    except WorkflowFailureError as error:
        warn(end_of(error, request.preview_id))
        return FAILED
    if as_json:
        more = {"named_strays": [{"why": why, "key": key} for why, key in named]} if strays else {}
        say(json.dumps(found.model_dump(mode="json") | more, indent=2))
    else:
        _show(found, named)
    return FAILED if found.refused else DONE


def _show(found: Preview, named: Iterable[tuple[str, str]]) -> None:
    print_columns(preview_lines(found))
    for why, key in named:
        say(f"stray, {why}: {json.dumps(key)}")


def _preview_here(request: DeletionRequest) -> tuple[Preview, list[tuple[str, str]]]:
    """Do the same dry run in this process, with the worker's settings: keys may not travel through Temporal."""
    from composition import open_parts  # noqa: PLC0415  slow to import, and rarely asked for

    settings = load(Settings)
    parts = open_parts(settings)
    try:
        with ThreadPoolExecutor(settings.store_requests) as requests, ThreadPoolExecutor(settings.manifest_readers) as reads:
            return parts.previewing(parts.planner(reads), requests).preview_with_strays(request)
    finally:
        parts.database.dispose()
