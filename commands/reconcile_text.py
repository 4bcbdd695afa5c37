"""What `reconcile` says: its report as JSON, and in words."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from commands.display import in_utc, some

if TYPE_CHECKING:
    from activities.reconcile.report import Report


def as_json(report: "Report", *, with_keys: bool) -> dict[str, Any]:
    """The whole report."""
    look = report.look
    return {
        "report": report.id,
        "expires_at": in_utc(report.expires_at),
        "project_id": look.project.id,
        "organization_id": look.project.organization_id,
        "looked_at": in_utc(look.now),
        "older_than_s": look.older_than.total_seconds(),
        **report.totals,
        "dangling": {
            kind: {"count": count, "artifacts": report.dangling_artifacts(kind)} for kind, count in report.dangling.items()
        },
        "dangling_keys": [
            {"kind": kind, "artifact": one, "key": key} for kind, one, key in (look.rows.keys if with_keys else [])
        ],
        "strays": dict(look.rows.strays),
        "implausible": report.is_implausible,
    }


def lines(report: "Report") -> Iterator[tuple[str, object]]:
    """Names and what is said of each."""
    from activities.ledger.reports import why_never_usable  # noqa: PLC0415  slow to import, and not needed to refuse a word
    from activities.reconcile.report import moment  # noqa: PLC0415
    from activities.reconcile.stored import AGES  # noqa: PLC0415

    look = report.look
    yield "Project", f"{look.project.id} of organization {look.project.organization_id}"
    why_not = why_never_usable(look.older_than, implausible=report.is_implausible)
    until = f"may be acted on until {in_utc(report.expires_at)}"
    yield "Report", f"{report.id}, {until if why_not is None else f'nothing may be deleted by it: {why_not}'}"
    yield "Orphans are", f"at least {look.older_than} old"
    for name, one in report.classes.items():
        if one.sum.objects:
            of = f" of {one.artifacts:,} artifacts" if one.artifacts else ""
            counted = "trace items" if name.startswith("trace_") else "objects"
            size = f", {one.sum.size:,} bytes" if counted == "objects" else ""
            yield name.replace("_", " ").capitalize(), f"{one.sum.objects:,} {counted}{of}{size}"
            yield "  written", f"{moment(one.sum.oldest) or 'unknown'} to {moment(one.sum.newest) or 'unknown'}"
            yield "  ages", ", ".join(f"{count:,} {age}" for age, count in zip(AGES, one.sum.ages, strict=True) if count)
    if look.why_no_traces:
        yield "Trace items", f"not looked for: {look.why_no_traces}"
    yield "Rows", f"of {look.rows.artifacts:,} artifacts"
    for kind, count in report.dangling.items():
        named = f"rows of {count:,} artifacts name objects that cannot be read: {some(report.dangling_artifacts(kind))}"
        yield f"Dangling {kind.replace('_', ' ')}", named
    if look.rows.strays:
        yield "Strays", ", ".join(f"{count:,} {why}" for why, count in sorted(look.rows.strays.items()))
