"""What a person reads of a deletion in Temporal's Web UI and on the command line, as pure functions of what is known.

Markdown lists after an empty line, since the Web UI draws a list as a paragraph otherwise, and tables without borders. A
workflow cannot see that a step is tried again: the texts point to where Temporal shows it.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from artifact_deletion.receipt import AtWork, DeletionReceipt, Progress, Stage

LEFT_OVER = {
    "AccessDenied": "the store refuses to delete them: look at the worker's permissions, object locks and legal holds",
    "DeletedButListed": "the store says that it deleted them, and goes on listing the very same: look at the store",
    "Held": "a hold keeps them, or what they were compared with: `holds` lists it, and once it is lifted a re-run deletes them",
    "ImagesHeld": "images of a project that is held: `holds` lists it, and once it is lifted a re-run hides them",
    "ImagesStay": "images: the worker is set to keep them, or cannot hide them in its store",
    "InvalidRequest": "the store refuses to delete them: look at object locks and retention",
    "ManifestsUnreadable": "images of a project of which a snapshot's manifest says nothing: `images status` names those",
    "MasksUnknown": "a manifest that cannot be read, in a store that cannot list: a person has to look for its masks",
    "Moved": "they belong to another organization by now: ask for them there",
    "NamedElsewhere": "their objects lie where the artifact was before it was moved: a person has to look",
    "NoSuchUpload": "unfinished uploads that the store lists but cannot abort: let its lifecycle rules end them",
    "NotAttempted": "no request got an answer before the step ended: is the store up, or did rows come back?",
    "OwedByOthers": "another deletion took rows of theirs and still owes objects: finish that one, then run this one again",
    "PrefixNotListed": "no listing got an answer before the step ended: may the worker list, or did rows come back?",
    "Reappeared": "they have rows again, from a backup perhaps: a re-run deletes those too",
    "RowsNotDeleted": "a step before the rows' deletion did not succeed in its time: the history has its failure",
    "StillThere": "icons that no app info names, back after they were deleted: a re-run deletes them, unless one does by then",
    "StillWritten": "a writer goes on under the artifacts' prefixes: stop it first",
    "TraceItemsUnconfirmed": "the trace store still counts their items: is its consumer at work?",
}
"""What each reason means, and what to do, by its code. Other codes are the store's own."""
NEEDS = {
    "collect_keys": "the object store and the database",
    "delete_objects": "the object store and the database",
    "delete_trace_items": "the trace store and the database",
    "sweep_prefixes": "the object store and the database",
    "watch_images": "Temporal and the database",
    "hide_images": "the object store and the database",
    "settle_images": "the object store and the database",
    "close_deletion": "the database, and the store where receipts are exported, if they are",
}
"""What each step waits for; all others need the database alone."""
NOTHING_DELETED = (Stage.OPENING, Stage.WAITING, Stage.COLLECTING)
PAST_RETURN = (Stage.DELETING_ROWS, Stage.DELETING_OBJECTS, Stage.CLOSING)
_ORDER = (*NOTHING_DELETED, *PAST_RETURN, Stage.COMPLETED)
_STUCK = (
    "**Stuck?** A step takes seconds, a large one some minutes.",
    "",
    "1. *Pending Activities* says in *Last Failure* why a step waits or is tried again. One never attempted needs a worker.",
    "2. If a cause is named there, mend it; `python starter.py doctor` finds most of them.",
    "3. Press nothing: the step is tried again by itself, at least every minute, and goes on where it is.",
)


def why_left_over(code: str) -> str:
    """What a reason means, and what to do about it."""
    return LEFT_OVER.get(code, "the store's own code: its documentation says what it means")


def counted(counts: Mapping[str, int]) -> str:
    """As in: AccessDenied 2, NotAttempted 1,000."""
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))


def rerun_command(workflow_id: str) -> str:
    """The command for when the cause is mended."""
    return f"python starter.py rerun {workflow_id}"


def left_over_message(counts: Mapping[str, int], workflow_id: str) -> str:
    """A failed deletion's message: counts, reasons, and what to do."""
    reasons = " ".join(f"{code}: {why_left_over(code)}." for code in sorted(counts))
    return (
        f"{sum(counts.values()):,} left over ({counted(counts)}); all else is done. {reasons} "
        f"When the cause is mended: {rerun_command(workflow_id)}"
    )


def at(moment: datetime) -> str:
    """A time in UTC, to the second."""
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def stage_line(progress: Progress) -> str:
    """Where it is, and until when if it waits for its time."""
    return f"{progress.stage} until {at(progress.waits_until)}" if progress.waits_until else progress.stage


def at_work_line(step: AtWork) -> str:
    """A step that was asked for and has not ended."""
    several = f", {step.count} at a time, the oldest" if step.count > 1 else ""
    return f"`{step.step}`{several} since {at(step.since)}; it needs {NEEDS.get(step.step, 'the database')}"


def part_lines(progress: Progress) -> Iterator[tuple[str, str, str]]:
    """(part of the work, done or now or to come, how much of it is done) for each."""
    chunks = f"of {progress.chunks:,} chunks"
    held = f"; {progress.artifacts_held:,} artifacts held" if progress.artifacts_held else ""
    rows = f"{progress.rows_deleted:,} deleted, {progress.chunks_rows_deleted:,} {chunks}{held}"
    keys = f"{progress.keys_done:,} of {progress.keys:,} keys{_percent(progress.keys_done, progress.keys)}"
    left = f", **{progress.left_over:,} left over**" if progress.left_over else ""
    found = f"{progress.found_by_listing:,} found that no row named, {progress.chunks_swept:,} {chunks} listed empty"
    gone_in = f"{progress.trace_chunks_confirmed:,} of {progress.trace_chunks:,} chunks"
    items = f"{progress.trace_items_matched:,} found, gone in {gone_in}"
    deleting = _when(progress, Stage.DELETING_OBJECTS, Stage.DELETING_OBJECTS)
    yield "Rows", _when(progress, Stage.COLLECTING, Stage.DELETING_ROWS), rows
    yield "Objects", deleting, f"{keys}{left}"
    if progress.trace_chunks:
        yield "Trace items", deleting, items
    yield "Listings", deleting, found
    if progress.images:
        hidden = f"{progress.images_hidden:,} hidden" if progress.images_hidden is not None else "none hidden yet"
        yield "Images", deleting, f"{hidden}, {progress.images_kept:,} kept, which other snapshots show"
    yield "Receipt", _when(progress, Stage.CLOSING, Stage.CLOSING), "counts, and when each was checked"


def _when(progress: Progress, first: Stage, last: Stage) -> str:
    place = _ORDER.index(progress.stage if progress.stage in _ORDER else Stage.COMPLETED)
    if place > _ORDER.index(last):
        return "done"
    return "now" if place >= _ORDER.index(first) else "to come"


def _percent(done: int, of: int) -> str:
    return f" ({done * 100 // of} %)" if of else ""


def details(progress: Progress) -> str:
    """The current details of a running deletion, as Markdown."""
    lines = [f"**Now: {stage_line(progress)}.** {_way_back(progress)}", ""]
    lines += [f"- **Held**: {progress.held}"] if progress.held else []
    lines += [f"- **{part}** ({when}): {done}" for part, when, done in part_lines(progress)]
    if progress.at_work:
        lines += ["", "**At work**", "", *(f"- {at_work_line(step)}" for step in progress.at_work)]
    if progress.at_work and not (progress.held or progress.waits_until):
        lines += ["", *_STUCK]
    return "\n".join(lines)


def _way_back(progress: Progress) -> str:
    if progress.cancel_refused:
        return "A cancel came after rows were deleted: the rest is finished all the same."
    if progress.stage is Stage.OPENING:
        return "If no earlier run has deleted anything, *Cancel* undoes everything."
    if progress.stage in NOTHING_DELETED and not progress.rows_deleted:
        return "Nothing is deleted yet: *Cancel* undoes everything."
    return "Rows are gone, so there is no way back: *Cancel* undoes nothing, the rest is deleted all the same."


def closed(receipt: DeletionReceipt) -> str:
    """The current details of a deletion at its end, as long as a worker answers."""
    if receipt.complete:
        return "**Completed: nothing is left over.** The result is the receipt."
    reasons = (f"- **{code}** ({count:,}): {why_left_over(code)}" for code, count in sorted(receipt.left_over.items()))
    total = f"**Failed: {sum(receipt.left_over.values()):,} left over, all else is done.**"
    return "\n".join([total, "", *reasons, "", f"When the cause is mended: `{rerun_command(receipt.workflow_id)}`"])


def ended(message: str) -> str:
    """The current details of a deletion that ended before its time, as long as a worker answers."""
    return f"**Failed before it came to its end:** {message}"


CANCELLED = "**Cancelled: nothing was deleted.** Asked for anew, it begins anew."


def images_details(project_id: int) -> str:
    """The details of the workflow that watches over a project's hidden images, as Markdown. It has no current ones."""
    return "\n".join(
        [
            "- **How many, since when, until when**: *Pending Activities* says it in *Last Failure*, which is no trouble.",
            f"- **The same, and more**: `python starter.py images status --project {project_id}`",
            "- **It ends by itself** when no image of the project is hidden any more: purged, or restored for an upload.",
            "- **Terminated by mistake?** `python starter.py resume` starts it again; the database knows all that is hidden.",
        ]
    )
