"""Receipts and previews for a person. docs/receipt.md explains each field of a receipt."""

import json
from datetime import UTC, datetime
from typing import Any

from activities.images.owed import Total
from artifact_deletion.receipt import DeletionReceipt, Preview
from commands.display import Rows, at, in_utc, print_columns
from commands.output import say
from commands.proof import IMAGES_NOW
from workflows.text import counted, rerun_command, why_left_over


def print_receipt(receipt: DeletionReceipt, *, as_json: bool, utc: bool, images: Total | None = None) -> None:
    """Print a receipt on standard output, and below it what has become of its images since."""
    if as_json:
        since = {} if images is None else {IMAGES_NOW: images_json(images, receipt)}
        say(json.dumps(receipt.model_dump(mode="json") | since, indent=2))
    else:
        since_then = images_since(images, receipt, utc=utc) if images is not None else ()
        print_columns([*receipt_lines(receipt, utc=utc), *since_then])


def receipt_lines(receipt: DeletionReceipt, *, utc: bool) -> Rows:
    """A receipt for a person."""
    done = "complete: nothing is left over" if receipt.complete else f"LEFT OVER: {counted(receipt.left_over)}"
    return [
        ("Deletion", receipt.workflow_id),
        ("State", done),
        *(("  why", f"{code}: {why_left_over(code)}") for code in sorted(receipt.left_over)),
        ("  then", "" if receipt.complete else rerun_command(receipt.workflow_id)),
        ("Asked by", f"{receipt.requested_by or 'not said'}, reference {receipt.reference or 'not said'}"),
        *_artifacts(receipt),
        ("Rows", f"{sum(receipt.rows.values()):,}"),
        *((f"  {table}", f"{count:,}") for table, count in sorted(receipt.rows.items())),
        ("Files", f"{receipt.files.deleted:,} deleted; {receipt.files.blobs_left:,} blobs stay"),
        *((f"  kept: {reason}", ids.count) for reason, ids in receipt.files.kept.items()),
        *_objects(receipt, utc=utc),
        *_images(receipt, utc=utc),
        *_manifests(receipt),
        *_times(receipt, utc=utc),
    ]


def _artifacts(receipt: DeletionReceipt) -> Rows:
    artifacts = receipt.artifacts
    gone = [f"{ids.count} by {other}" for other, ids in artifacts.gone_before.by_deletion.items()]
    return [
        ("Artifacts", f"{artifacts.deleted.count:,} of {receipt.requested_artifacts:,} deleted"),
        ("  gone before", "; ".join(gone)),
        ("  gone, swept", artifacts.gone_before.swept.count),
        ("  gone, objects unchecked", artifacts.gone_before.objects_unchecked.count),
        ("  had no row", artifacts.orphaned.count),
        ("  have a row, left alone", artifacts.living.count),
        ("  moved away", artifacts.moved.count),
        ("  not reached", artifacts.not_reached.count),
        ("  held", artifacts.held.count),
        ("  not expired, stay", artifacts.not_expired.count),
        ("  have rows again", artifacts.reappeared.count),
        ("  owed by others", receipt.owed_by_others),
    ]


def _objects(receipt: DeletionReceipt, *, utc: bool) -> Rows:
    objects = receipt.objects
    since = f", from {at(objects.listed_empty_from, utc=utc)} on" if objects.listed_empty_from else ""
    looked_for = f"{objects.keys_listed_absent:,} of {objects.keys_looked_for:,} listed absent"
    return [
        ("Object keys", f"{objects.sealed:,} sealed: {counted(objects.sealed_by_kind)}"),
        ("  deleted", f"{objects.deleted:,}"),
        ("  absent before", objects.absent),
        ("  kept, still named", objects.kept),
        ("  left over", counted(objects.left_over)),
        ("  found by listing, deleted", f"{objects.found_by_listing:,}"),
        ("  found by listing, left over", counted(objects.found_left_over)),
        ("  prefixes", f"{objects.prefixes_listed_empty:,} of {objects.prefixes:,} listed empty{since}"),
        ("  prefixes unchecked: the store cannot list", objects.prefixes_unchecked),
        ("  archives and icons", looked_for if objects.keys_looked_for else ""),
        ("  unfinished uploads aborted", objects.uploads_aborted),
        ("  prefixes not looked at for uploads", objects.uploads_unchecked),
        ("  digest of the sealed keys", objects.digest),
    ]


def _images(receipt: DeletionReceipt, *, utc: bool) -> Rows:
    images = receipt.images
    if images.policy != "delete":
        return [("Images kept for expiry", receipt.manifests.images_kept)]
    since = f", all of them unreadable from {at(images.hidden_from, utc=utc)} on" if images.hidden_from else ""
    due = f"{at(images.due, utc=utc)}, unless a snapshot names them by then" if images.due and images.hidden else ""
    return [
        ("Images", f"{images.named:,} named{f', hidden by {images.how}' if images.how else ''}"),
        ("  hidden", f"{images.hidden:,}{since}" if images.hidden else ""),
        ("  to be purged by", due),
        ("  kept, other snapshots show them", images.kept),
        ("  absent before", images.absent),
        ("  purged", images.purged),
        ("  restored for an upload", images.restored),
        ("  left over", counted(images.left_over)),
        ("  kept for these artifacts' manifests", ", ".join(map(str, images.unreadable.ids))),
    ]


def images_since(images: Total, receipt: DeletionReceipt | None, *, utc: bool) -> Rows:
    """What has become of images by now. `receipt`: of the deletion that named them, once it has one."""
    last = f", the last at {at(images.settled_at, utc=utc)}" if images.settled_at else ""
    return [
        ("Images by now", f"{images.hidden:,} hidden, {images.purged:,} purged, {images.restored:,} restored{last}"),
        ("  not purged in time: see images status", _overdue(images, receipt)),
        ("  not decided yet", images.undecided),
    ]


def _overdue(images: Total, receipt: DeletionReceipt | None) -> int:
    """How many are still hidden after the time by which the receipt says that they are purged."""
    due = receipt and receipt.images.due
    return images.hidden if due and due < datetime.now(UTC) else 0


def images_json(images: Total, receipt: DeletionReceipt | None) -> dict[str, Any]:
    """The same for scripts."""
    return {
        "hidden": images.hidden,
        "purged": images.purged,
        "restored": images.restored,
        "overdue": _overdue(images, receipt),
        "undecided": images.undecided,
        "settled_at": in_utc(images.settled_at) if images.settled_at else None,
    }


def _manifests(receipt: DeletionReceipt) -> Rows:
    manifests, items = receipt.manifests, receipt.trace_items
    return [
        ("Manifests", f"{manifests.read:,} read"),
        ("  evicted", manifests.evicted),
        ("  unreadable", manifests.unreadable),
        ("  stray keys left alone", manifests.strays),
        ("Trace items", f"{items.matched:,} matched, {items.state}"),
        ("  unchecked: project unknown", items.unchecked_artifacts),
    ]


def _times(receipt: DeletionReceipt, *, utc: bool) -> Rows:
    times = receipt.times
    each = (("Accepted", times.accepted), ("Rows gone", times.rows_deleted), ("Closed", times.closed))
    of_promised = f" of {times.promised_days} promised" if times.promised_days else ""
    return [
        *((name, at(moment, utc=utc) if moment else "no") for name, moment in each),
        ("  after", f"{times.days:g}{of_promised} days" if times.days is not None else ""),
    ]


def preview_lines(preview: Preview) -> Rows:
    """A preview for a person."""
    sizes = [found.size for found in preview.objects.values()]
    total = sum(found.count for found in preview.objects.values())
    uploads = preview.unfinished_uploads
    return [
        *(("REFUSED", reason) for reason in preview.refused),
        ("Artifacts", f"{preview.artifacts.count:,} of {preview.requested_artifacts:,} would be deleted"),
        ("  gone, would be swept", preview.gone_swept.count),
        ("  gone, objects unchecked", preview.gone_unchecked.count),
        ("  held, would stay", preview.held.count),
        ("  not expired, would stay", preview.not_expired.count),
        ("  selective, would show less", preview.heirs.count),
        *(("  in open deletion", other) for other in preview.overlapping),
        ("Rows", f"{sum(preview.rows.values()):,}"),
        *((f"  {table}", f"{count:,}") for table, count in preview.rows.items()),
        *((f"  file kept: {reason}", ids.count) for reason, ids in preview.files_kept.items()),
        ("Objects", f"{total:,}{_bytes(None if None in sizes else sum(size or 0 for size in sizes))}"),
        *((f"  {kind}", f"{found.count:,}{_bytes(found.size)}") for kind, found in preview.objects.items()),
        ("  icons kept, still named", preview.icons_kept),
        ("  unfinished uploads", "not known: the store cannot list them" if uploads is None else uploads),
        *_images_found(preview),
        ("Manifests", f"{preview.manifests.read:,} read"),
        ("  evicted", preview.manifests.evicted),
        ("  unreadable", preview.manifests.unreadable),
        ("Keys left alone", f"{preview.manifests.strays:,}"),
        *((f"  {reason}", f"{count:,}") for reason, count in preview.strays.items()),
    ]


def _images_found(preview: Preview) -> Rows:
    images = preview.images
    if images.policy != "delete":
        return [("Images kept for expiry", preview.manifests.images_kept)]
    most = "at most " if images.unknown else ""
    closed = [f"{', '.join(map(str, artifacts.ids))} of project {project}" for project, artifacts in images.closed.items()]
    return [
        ("Images", f"{images.named:,} named, {most}{images.to_hide:,} would be hidden, then purged"),
        ("  kept, other snapshots show them", images.named_by_others),
        ("  snapshots that are not in the index", images.unknown),
        ("  would be left over", counted(images.left_over)),
        ("  kept for these artifacts' manifests", "; ".join(closed)),
    ]


def _bytes(size: int | None) -> str:
    return ", size not known: the store cannot list" if size is None else f", {size:,} bytes"
