"""Prefixes: what is the artifacts' own, to be emptied by listing, and listed empty after a quiet period."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Boolean, Integer, String, bindparam, case, cast, delete, func, literal, select, update
from sqlalchemy.orm import Session

from activities.backend.contract import OwnPrefix, PrefixKind
from activities.ledger.insert import insert_many
from activities.ledger.schema import DeletionChunk, DeletionPrefix, PrefixState, clock, of_chunk
from activities.one_of import one_of, slices
from artifact_deletion.outbox import Json
from workflows.steps import Chunk

NAMED_BY_ROWS = (PrefixKind.COMPARISON, PrefixKind.SHARED)
"""Only rows name these, which others may delete: once sealed, they stay owed however often keys are collected."""
EXACT = (PrefixKind.KEY, PrefixKind.SHARED)
_NAME = DeletionPrefix.scope + DeletionPrefix.prefix


def seal_prefixes(session: Session, found: DeletionChunk, prefixes: Iterable[OwnPrefix]) -> None:
    """Add prefixes to a locked chunk. One that two of its artifacts share is one."""
    rows = sorted({(one.scope, one.prefix, one.kind, one.artifact_id) for one in prefixes})
    same = {**_key(found), "state": PrefixState.OWED, "codes": {}, "looks": 0, "noisy_rounds": 0}
    insert_many(session, DeletionPrefix, same, ("scope", "prefix", "kind", "artifact_id"), rows)


_FORGET = delete(DeletionPrefix).where(*of_chunk(DeletionPrefix)).execution_options(synchronize_session=False)
_FORGET_UNLESS_ROWS_NAME_THEM = _FORGET.where(DeletionPrefix.kind.not_in(NAMED_BY_ROWS))
_NAMED_BY_ROWS = select(DeletionPrefix.scope, DeletionPrefix.prefix, DeletionPrefix.kind, DeletionPrefix.artifact_id).where(
    *of_chunk(DeletionPrefix), DeletionPrefix.kind.in_(NAMED_BY_ROWS)
)


def begin_anew(session: Session, found: DeletionChunk) -> None:
    """Forget what an earlier attempt sealed of a locked chunk, but for what only rows named: others may have deleted those."""
    session.execute(_FORGET_UNLESS_ROWS_NAME_THEM, _of(found))


def named_by_rows(session: Session, found: DeletionChunk) -> set[OwnPrefix]:
    """Of a chunk's prefixes those that only rows named, in this attempt or an earlier one."""
    rows = session.execute(_NAMED_BY_ROWS, _of(found))
    return {OwnPrefix(scope, prefix, PrefixKind(kind), artifact) for scope, prefix, kind, artifact in rows}


def forget(session: Session, found: DeletionChunk, prefixes: Iterable[OwnPrefix]) -> None:
    """These are not to be deleted here after all."""
    for names in slices(one.name for one in prefixes):
        session.execute(_FORGET.where(one_of(_NAME, "names")), {**_of(found), "names": names})


def forget_artifacts(session: Session, found: DeletionChunk, artifact_ids: Iterable[int]) -> None:
    """What lies under these artifacts' own prefixes is not to be deleted here after all. Comparisons lie under their heads'."""
    own = _FORGET.where(one_of(DeletionPrefix.artifact_id, "ids"), DeletionPrefix.kind != PrefixKind.COMPARISON)
    for ids in slices(artifact_ids):
        session.execute(own, {**_of(found), "ids": ids})


@dataclass(frozen=True)
class Prefix(OwnPrefix):
    """A prefix as it was read."""

    state: PrefixState
    codes: Mapping[str, int]
    looks: int
    quiet_since: datetime | None
    noisy_rounds: int
    now: datetime
    """The database's clock when it was read."""
    looked_by: str | None

    def was_left_over_by(self, run_id: str) -> bool:
        """True if this run has done what it could. What an earlier one left over is looked at again."""
        return self.state is PrefixState.LEFT_OVER and self.looked_by == run_id

    @property
    def is_exact(self) -> bool:
        """True for one key, whose neighbours are others'."""
        return self.kind in EXACT


# Looked up, and not called: a chunk has thousands of prefixes.
_KINDS: Mapping[str, PrefixKind] = {one.value: one for one in PrefixKind}
_STATES: Mapping[str, PrefixState] = {one.value: one for one in PrefixState}
_TO_SWEEP = (
    select(
        DeletionPrefix.scope,
        DeletionPrefix.prefix,
        DeletionPrefix.kind,
        DeletionPrefix.artifact_id,
        DeletionPrefix.state,
        func.nullif(DeletionPrefix.codes, literal({}, Json), type_=Json).label("codes"),  # most have none: nothing to parse
        DeletionPrefix.looks,
        DeletionPrefix.quiet_since,
        DeletionPrefix.noisy_rounds,
        clock(),
        DeletionPrefix.looked_by,
    )
    .where(*of_chunk(DeletionPrefix))
    .order_by(DeletionPrefix.scope, DeletionPrefix.prefix)
)


def prefixes_to_sweep(session: Session, chunk: Chunk) -> list[Prefix]:
    """The prefixes that were not listed empty."""
    rows: Any = session.execute(_TO_SWEEP, {"of": chunk.deletion_id, "of_chunk": chunk.chunk})
    return [
        Prefix(scope, prefix, _KINDS[kind], artifact, _STATES[state], codes or {}, *looked)
        for scope, prefix, kind, artifact, state, codes, *looked in rows
    ]


_OWED = select(DeletionPrefix.scope, DeletionPrefix.prefix, DeletionPrefix.kind, DeletionPrefix.artifact_id).where(
    DeletionPrefix.deletion_id == bindparam("of")
)


def owed_prefixes(session: Session, deletion_id: str) -> list[OwnPrefix]:
    """All of a deletion that were not listed empty."""
    rows = session.execute(_OWED, {"of": deletion_id})
    return [OwnPrefix(scope, prefix, PrefixKind(kind), artifact) for scope, prefix, kind, artifact in rows]


@dataclass(frozen=True)
class Look:
    """What listing a prefix came to."""

    state: PrefixState | None
    """None: it is done, and forgotten."""
    codes: Mapping[str, int] = field(default_factory=dict)
    """Of what is still there."""
    is_noisy: bool = False
    """It was not quiet for a quiet period: it gets another one."""
    is_unfinished: bool = False
    """The store asks to try again: its quiet period does not begin yet."""


_AS_READ = one_of(_NAME + " " + cast(DeletionPrefix.looks, String), "as_read")
_DONE = _FORGET.where(_AS_READ).returning(_NAME)
_SETTLE = (
    update(DeletionPrefix)
    .where(*of_chunk(DeletionPrefix), _AS_READ)
    .values(
        state=bindparam("state_now"),
        codes=bindparam("codes_now"),
        looks=DeletionPrefix.looks + 1,
        looked_by=bindparam("run_now"),
        quiet_since=case((bindparam("looked", type_=Boolean()), clock())),
        noisy_rounds=DeletionPrefix.noisy_rounds + bindparam("noisy", type_=Integer()),
    )
    .returning(_NAME)
    .execution_options(synchronize_session=False)
)


def settle_prefixes(session: Session, found: DeletionChunk, looks: Sequence[tuple[Prefix, Look]], run_id: str) -> set[str]:
    """Write down what a run found under each; the chunk is locked. Its quiet period begins now. Returns the physical names.

    Those that are missing are no longer as they were read, and stay as they are: another attempt has looked, perhaps later.
    """
    alike = defaultdict[tuple[Any, ...], list[str]](list)
    for prefix, look in looks:
        same = look.state, frozenset(look.codes.items()), look.is_noisy, look.is_unfinished
        alike[same].append(f"{prefix.name} {prefix.looks}")
    changed = set[str]()
    for (state, codes, noisy, unfinished), names in alike.items():
        now = {"state_now": state, "codes_now": dict(codes), "noisy": int(noisy), "looked": not unfinished}
        for part in slices(names):
            as_read = {**_of(found), "as_read": part}
            if state is None:
                changed.update(session.execute(_DONE, as_read).scalars())
            else:
                changed.update(session.execute(_SETTLE, {**as_read, **now, "run_now": run_id}).scalars())
    return changed


def count_listed(found: DeletionChunk, counts: Mapping[str, int]) -> None:
    """Add to the chunk's counts, which its receipt sums. The chunk is locked."""
    if any(counts.values()):
        found.listed = dict(Counter(found.listed) + Counter(counts))


def _of(found: DeletionChunk) -> dict[str, Any]:
    return {"of": found.deletion_id, "of_chunk": found.chunk}


def _key(found: DeletionChunk) -> dict[str, Any]:
    return {"deletion_id": found.deletion_id, "chunk": found.chunk}
