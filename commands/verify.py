"""`verify`: what is there now of a deletion."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from artifact_deletion.outbox import Recorded
from artifact_deletion.receipt import Ids
from commands import options
from commands.display import Rows, at, in_utc, print_columns, some
from commands.exit_codes import DONE, FAILED
from commands.output import say
from commands.receipt_text import images_json, images_since
from commands.which import find
from settings import Settings, load

if TYPE_CHECKING:
    from activities.verify_deletion import Verified


def verify(*, deletion: options.Deletion, as_json: options.Json = False, utc: options.Utc = False) -> int:
    """Look again for what a deletion has deleted. Reads and lists only, with a worker's settings.

    Counted are artifacts that have rows, what lies under their prefixes with every version and delete marker, unfinished
    uploads, and blobs that no file names. What has become of images stands in the ledger. Trace items are counted if the
    trace store can count.

    Ends with 0 once nothing is there any more.
    """
    from composition import open_parts  # noqa: PLC0415  slow to import, and not needed to refuse a word

    settings = load(Settings)
    parts = open_parts(settings)
    try:
        with parts.database.read() as session:
            found = find(session, deletion)
        now = datetime.now(UTC)
        with ThreadPoolExecutor(settings.store_requests) as requests:
            verified = parts.verifying(requests).verify(found.request)
    finally:
        parts.database.dispose()
    listable = parts.store.listable
    if as_json:
        say(json.dumps(_as_json(found, verified, now, listable=listable), indent=2))
    else:
        print_columns(_lines(found, verified, now, listable=listable, utc=utc))
    return DONE if verified.is_gone else FAILED


def _as_json(found: Recorded, verified: "Verified", now: datetime, *, listable: bool) -> dict[str, Any]:
    places, lying = verified.places, verified.lying
    return {
        "workflow_id": found.request.workflow_id,
        "state": str(found.state),
        "looked_at": in_utc(now),
        "gone": verified.is_gone,
        "requested_artifacts": len(found.request.artifact_ids),
        "with_rows": Ids.of(one.id for one in places.present).model_dump(),
        "moved": Ids.of(places.moved).model_dump(),
        "objects_unchecked": Ids.of(places.lost).model_dump(),
        "listable": listable,
        "prefixes": verified.prefixes,
        "objects": verified.objects,
        "bytes": verified.size,
        "uploads": verified.uploads,
        "with_objects": Ids.of({one.artifact for one in lying}).model_dump(),
        "blobs_waiting": verified.blobs_waiting,
        "trace_items": verified.trace_items,
        "images_now": images_json(verified.images, found.receipt),
    }


def _lines(found: Recorded, verified: "Verified", now: datetime, *, listable: bool, utc: bool) -> Rows:
    places, lying = verified.places, verified.lying
    looked = f"{verified.objects:,} at {verified.prefixes:,} prefixes and keys, {verified.size:,} bytes"
    return [
        ("Deletion", f"{found.request.workflow_id}, {found.state}"),
        ("Looked at", at(now, utc=utc)),
        ("State", "complete: nothing of it was found" if verified.is_gone else "STILL THERE"),
        ("Artifacts", f"{len(places.present):,} of {len(found.request.artifact_ids):,} have rows"),
        ("  have rows", some([one.id for one in places.present])),
        ("  moved away", some(places.moved)),
        ("  objects unchecked: project unknown", some(places.lost)),
        ("Objects", looked if listable else "not looked for: the store cannot list"),
        ("  of artifacts", some(sorted({one.artifact for one in lying}))),
        ("  unfinished uploads", verified.uploads),
        ("Blobs", f"{verified.blobs_waiting:,} that no file names wait for the backend's clean-up"),
        ("Trace items", "not looked for" if verified.trace_items is None else f"{verified.trace_items:,}"),
        *(images_since(verified.images, found.receipt, utc=utc) if verified.images.named else ()),
    ]
