"""What a person reads of a deletion in Temporal's Web UI: how far it is, why something is left over, and what to do.

Lists, since the UI draws tables without borders, and plain words. A workflow cannot see that a step is tried again: what it can
know is which steps are at work and since when, and where their failures stand.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime

from workflows.messages import DeletionReceipt, Progress, Stage, UnderWay

LEFT_OVER = {
    "AccessDenied": "the store refuses to delete them: look at the worker's permissions, object locks and legal holds",
    "InvalidRequest": "the store refuses to delete them: look at object locks and retention",
    "MasksUnknown": "a manifest that cannot be read, in a store that cannot list: a person has to look for its masks",
    "Moved": "they belong to another organization by now: ask for them there",
    "NamedElsewhere": "their objects lie where the artifact was before it was moved: a person has to look",
    "NoSuchUpload": "unfinished uploads that the store lists but cannot abort: let its lifecycle rules end them",
    "NotAttempted": "no request got an answer before the step ended: is the store up, or did rows come back?",
    "OwedByOthers": "another deletion took rows of theirs and still owes objects: a re-run runs that one too",
    "PrefixNotListed": "no listing got an answer before the step ended: may the worker list, or did rows come back?",
    "Reappeared": "they have rows again, from a backup perhaps: a re-run deletes those too",
    "RowsNotDeleted": "a step before the rows' deletion did not succeed in its time: the history has its failure",
    "StillWritten": "something goes on writing under the artifacts' prefixes: stop it first",
    "TraceItemsUnconfirmed": "the trace store still counts their items: is its consumer at work?",
}
"""What each reason means, and what to do, by its code. Codes that are not in here are the store's own."""
NEEDS = {
    "open_deletion": "the database",
    "collect_keys": "the object store and the database",
    "delete_rows": "the database",
    "delete_objects": "the object store and the database",
    "delete_trace_items": "the trace store and the database",
    "sweep_prefixes": "the object store and the database",
    "close_deletion": "the database, and the store where receipts are exported, if they are",
}
"""What each step waits for; all others need the database alone."""
NOTHING_DELETED = (Stage.OPENING, Stage.COLLECTING)
PAST_RETURN = (Stage.DELETING_ROWS, Stage.DELETING_OBJECTS, Stage.SWEEPING, Stage.CLOSING)
_ORDER = tuple(Stage)


def why_left_over(code: str) -> str:
    """What a reason means, and what to do about it."""
    return LEFT_OVER.get(code, "the store's own code: its documentation says what it means")


def counted(counts: Mapping[str, int]) -> str:
    """As in: AccessDenied 2, NotAttempted 1,000."""
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))


def rerun_command(workflow_id: str) -> str:
    """What to type once the cause is mended."""
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


def under_way_line(step: UnderWay) -> str:
    """A step that is at work, or what is waited for."""
    if step.until is not None:
        return f"waits until {at(step.until)}: {step.what}"
    several = f", {step.count} at a time, the oldest" if step.count > 1 else ""
    return f"`{step.what}`{several} since {at(step.since)}; it needs {NEEDS.get(step.what, 'the database')}"


def stage_lines(progress: Progress) -> Iterator[tuple[str, str, str]]:
    """(part of the work, done or now or to come, what of it is done) for each."""
    chunks = f"of {progress.chunks:,} chunks"
    rows = f"{progress.rows_deleted:,} deleted, {progress.chunks_rows_deleted:,} {chunks}"
    keys = f"{progress.keys_done:,} of {progress.keys:,} keys{_percent(progress.keys_done, progress.keys)}"
    items = (
        f"{progress.trace_items_matched:,} found, gone in {progress.trace_chunks_settled:,} of {progress.trace_chunks:,} chunks"
    )
    listing = f"{progress.found_by_listing:,} found that nobody named, {progress.chunks_quiet:,} {chunks} confirmed empty"
    yield "Rows", _when(progress, Stage.COLLECTING, Stage.DELETING_ROWS), rows
    yield "Objects", _when(progress, Stage.DELETING_OBJECTS), f"{keys}{_left(progress.left_over)}"
    if progress.trace_chunks:
        yield "Trace items", _when(progress, Stage.DELETING_OBJECTS), items
    yield "Last listing", _when(progress, Stage.SWEEPING), f"{listing}{_left(progress.found_left_over)}"
    yield "Receipt", _when(progress, Stage.CLOSING), "what was done, and when it was checked"


def _left(left_over: int) -> str:
    return f", **{left_over:,} left over**" if left_over else ""


def _when(progress: Progress, first: Stage, last: Stage | None = None) -> str:
    place = _ORDER.index(progress.stage)
    if place > _ORDER.index(last or first):
        return "done"
    return "now" if place >= _ORDER.index(first) else "to come"


def _percent(done: int, of: int) -> str:
    return f" ({done * 100 // of} %)" if of else ""


def details(progress: Progress) -> str:
    """The current details of a running deletion, as Markdown."""
    lines = [f"**Now: {progress.stage}.** {_return(progress)}"]
    lines += [f"- **{name}**: {why}" for name, why in sorted(progress.held_up.items())]
    lines += [f"- **{part}** ({when}): {done}" for part, when, done in stage_lines(progress)]
    if progress.waiting_for:
        lines.append(f"- **Waits** for what other deletions owe: {', '.join(f'`{other}`' for other in progress.waiting_for)}")
    if progress.under_way:
        lines += ["", "**At work**", *(f"- {under_way_line(step)}" for step in progress.under_way)]
    if not progress.held_up and any(step.until is None for step in progress.under_way):
        lines += ["", *_STUCK]
    return "\n".join(lines)


_STUCK = (
    "**Stuck?** A step takes seconds, a large one some minutes. If one has been at work for longer:",
    "1. *Pending Activities* says why: its *Last Failure*. If it was never attempted, no worker is up: start one.",
    "2. Mend the cause; `python starter.py doctor` finds most of them.",
    "3. Press nothing: it is tried again by itself, at least every minute, and goes on where it is.",
)


def closed(receipt: DeletionReceipt) -> str:
    """The current details of a deletion at its end, as long as a worker answers."""
    if receipt.complete:
        return "**Completed: nothing is left over.** The result is the receipt."
    counts = sorted(receipt.left_over.items())
    reasons = (f"- **{code}** ({count:,}): {why_left_over(code)}" for code, count in counts)
    total = f"**Failed: {sum(receipt.left_over.values()):,} left over, all else is done.**"
    return "\n".join([total, *reasons, "", f"When the cause is mended: `{rerun_command(receipt.workflow_id)}`"])


def ended(message: str) -> str:
    """The current details of a deletion that ended before its time, as long as a worker answers."""
    return f"**Failed before it came to its end:** {message}"


def _return(progress: Progress) -> str:
    if progress.stage is Stage.CANCELLED:
        return "Nothing was deleted."
    if progress.cancel_refused:
        return "A cancel came after rows were deleted: the rest is finished all the same."
    if progress.stage is Stage.OPENING:
        return "If no earlier run has deleted anything, *Cancel* undoes everything."
    if progress.stage in NOTHING_DELETED and not progress.rows_deleted:
        return "Nothing is deleted yet: *Cancel* undoes everything."
    return "Rows are gone, so there is no way back: *Cancel* undoes nothing, the rest is deleted all the same."
