"""What a person reads of a bulk deletion in Temporal's Web UI and on the command line. See text.py."""

from collections.abc import Iterator
from datetime import datetime

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from artifact_deletion.bulk import COMPLETE, BulkCounts, BulkProgress, BulkReceipt, BulkRequest
    from workflows.text import at, counted

CANCELLED = "cancelled: no further deletion begins, and those that run come to their end"
PAUSED = "paused: it goes on after `python starter.py unpause ID`"


def no_one_asked(artifacts: int) -> str:
    """Why so large a bulk deletion is refused."""
    return f"requested_by: {artifacts:,} artifacts need a second person's word: say who asks; nothing was deleted"


def needs_confirmation(artifacts: int, request: BulkRequest) -> str:
    """What it waits for before it deletes anything."""
    return (
        f"{artifacts:,} artifacts need a second person's word, and nothing is deleted yet: "
        f"`python starter.py confirm {request.workflow_id} --by WHO`, by another person than {request.requested_by}"
    )


def limited(moment: datetime) -> str:
    """Why the next deletion has not begun."""
    return f"so many artifacts an hour are the limit: the next deletion begins at {at(moment)}"


def not_complete(receipt: BulkReceipt) -> str:
    """A failed bulk deletion's message: counts, which deletions, and what to do."""
    remain = f"{receipt.remaining:,} artifacts still have rows: ask for it again" if receipt.remaining else ""
    if not receipt.incomplete:
        return remain
    more = " …" if receipt.incomplete > len(receipt.failed) else ""
    reasons = counted({how: count for how, count in receipt.deletions.items() if how != COMPLETE})
    return (
        f"{receipt.incomplete:,} of {sum(receipt.deletions.values()):,} deletions are not complete ({reasons}): "
        f"{', '.join(receipt.failed)}{more}. When the cause is mended: `python starter.py rerun --all-failed "
        f"--organization {receipt.organization_id}`{f'. {remain}' if remain else ''}"
    )


def count_lines(counts: BulkCounts) -> Iterator[tuple[str, str]]:
    """(name, what is known of it) for a person."""
    ended = counted(counts.deletions) or "none has ended yet"
    yield "Artifacts", f"{counts.deleted:,} deleted, {counts.asked:,} asked for, of {counts.artifacts:,} at the beginning"
    if counts.not_expired:
        yield "Stay", f"{counts.not_expired:,} were needed again when their rows were to go"
    yield "Deletions", ended
    if counts.waiting:
        yield "Wait", f"{counts.waiting:,} deletions wait for their time: `list` shows until when, `cancel` undoes each"
    if counts.failed:
        yield "Not complete", ", ".join(counts.failed) + (" …" if counts.incomplete > len(counts.failed) else "")
    if counts.confirmed_by:
        yield "Confirmed by", counts.confirmed_by
    if isinstance(counts, BulkProgress):
        yield from (("Waits", counts.waits),) if counts.waits else ()
        yield from (("Running", one) for one in counts.running)
    if counts.images_hidden or counts.images_kept:
        yield "Images", f"{counts.images_hidden:,} hidden, {counts.images_kept:,} references kept"
    if counts.blobs_left:
        yield "Blobs that stay", f"{counts.blobs_left:,}"


def details(request: BulkRequest, progress: BulkProgress) -> str:
    """The current details of a running bulk deletion, as Markdown. Temporal shows the summary of its first run alone."""
    return "\n".join([request.summary, "", *(f"- **{name}**: {said}" for name, said in count_lines(progress))])
