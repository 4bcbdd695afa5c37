"""Pages: sealed keys, up to a thousand of one scope each. They shrink to the keys that the store did not delete."""

import hashlib
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Integer, bindparam, delete, func, insert, select, tuple_, update
from sqlalchemy.orm import Session

from activities.ledger.schema import DeletionChunk, DeletionPage, PageSource, of_chunk
from workflows.steps import Chunk

NOT_ATTEMPTED = "NotAttempted"
"""The code of sealed keys that no request was made for before the deletion's time was over."""
_PAGES_A_QUERY = 10
_LAST_PAGE = 2**62
"""No page has so high a number."""


@dataclass(frozen=True)
class KeyPage:
    """A page as it was read."""

    seq: int
    scope: str
    source: PageSource
    keys: tuple[str, ...]
    digest: str


def seal_pages(session: Session, found: DeletionChunk, sealed: Iterable[tuple[str, PageSource, Iterable[str]]]) -> None:
    """Add pages of (scope, source, keys) to a locked chunk, and carry its digest on over them."""
    new = []
    for scope, source, keys in sealed:
        content = _joined(keys)
        digest = hashlib.sha256(content).hexdigest()
        count = content.count(b"\n") + 1
        page = {"scope": scope, "source": source, "keys": zlib.compress(content, 6), "count": count, "digest": digest}
        new.append({"deletion_id": found.deletion_id, "chunk": found.chunk, "seq": found.pages, **page})
        found.pages += 1
        found.sealed += count
        found.digest = hashlib.sha256(f"{found.digest}\n{scope}\n{digest}".encode()).hexdigest()
    if new:
        session.execute(insert(DeletionPage), new)


_DROP_ALL = delete(DeletionPage).where(*of_chunk(DeletionPage)).execution_options(synchronize_session=False)


def drop_pages(session: Session, found: DeletionChunk) -> None:
    """Forget every page of a locked chunk: its keys are collected anew."""
    session.execute(_DROP_ALL, _of(found))


_PAGES = (
    select(DeletionPage.seq, DeletionPage.scope, DeletionPage.source, DeletionPage.keys, DeletionPage.digest)
    .where(
        *of_chunk(DeletionPage),
        DeletionPage.seq >= bindparam("first"),
        DeletionPage.seq < bindparam("end"),
        DeletionPage.source.in_(bindparam("sources", expanding=True)),
    )
    .order_by(DeletionPage.seq)
    .limit(bindparam("size", type_=Integer()))
)


def read_pages(
    session: Session, chunk: Chunk, *, first: int = 0, end: int = _LAST_PAGE, sources: Sequence[PageSource] = tuple(PageSource)
) -> Iterator[KeyPage]:
    """The chunk's pages that still hold keys, one at a time, in order; with `sources` those of these sources alone."""
    values = {"of": chunk.deletion_id, "of_chunk": chunk.chunk, "end": end, "sources": list(sources), "size": _PAGES_A_QUERY}
    while True:  # a cursor of the server's costs the few pages that most chunks have three queries
        part = session.execute(_PAGES, {**values, "first": first}).all()
        for seq, scope, source, packed, digest in part:
            yield KeyPage(seq, scope, PageSource(source), tuple(zlib.decompress(packed).decode().split("\n")), digest)
        if len(part) < _PAGES_A_QUERY:
            return
        first = part[-1].seq + 1


@dataclass(frozen=True)
class Settlement:
    """What became of the keys of a page."""

    page: KeyPage
    remaining: Mapping[str, str]
    """Key to code: those that are still there."""
    deleted: int = 0
    absent: int = 0
    kept: int = 0

    @property
    def settled(self) -> int:
        """How many keys the page is rid of."""
        return self.deleted + self.absent + self.kept


_SHRINK = (
    update(DeletionPage)
    .where(*of_chunk(DeletionPage), DeletionPage.seq == bindparam("number"), DeletionPage.digest == bindparam("was"))
    .values(
        keys=bindparam("keys_now"),
        count=bindparam("count_now"),
        digest=bindparam("digest_now"),
        codes=bindparam("codes_now"),
    )
    .returning(DeletionPage.seq)
    .execution_options(synchronize_session=False)
)
_DROP = (
    delete(DeletionPage)
    .where(*of_chunk(DeletionPage), tuple_(DeletionPage.seq, DeletionPage.digest).in_(bindparam("settled", expanding=True)))
    .returning(DeletionPage.seq)
    .execution_options(synchronize_session=False)
)


def settle_pages(session: Session, found: DeletionChunk, settlements: Iterable[Settlement]) -> set[int]:
    """Shrink pages of a locked chunk to the keys that remain, and count the rest. Returns the numbers of those that shrank.

    A page that no longer holds the keys that were read stays as it is: another attempt has settled it. Raises ValueError for a
    settlement that does not say of each key what became of it.
    """
    by_seq = {one.page.seq: one for one in settlements}
    for seq, one in by_seq.items():
        if len(one.page.keys) != len(one.remaining) + one.settled:
            raise ValueError(f"page {seq}: {len(one.page.keys)} keys cannot settle into {len(one.remaining)} and {one.settled}")
    settled = set[int]()
    if empty := [(seq, one.page.digest) for seq, one in by_seq.items() if not one.remaining]:
        settled.update(session.execute(_DROP, {**_of(found), "settled": empty}).scalars())
    for seq, one in by_seq.items():
        if one.remaining:
            content = _joined(one.remaining)
            values = {
                "number": seq,
                "was": one.page.digest,
                "keys_now": zlib.compress(content, 6),
                "count_now": len(one.remaining),
                "digest_now": hashlib.sha256(content).hexdigest(),
                "codes_now": dict(Counter(one.remaining.values())),
            }
            settled.update(session.execute(_SHRINK, {**_of(found), **values}).scalars())
    found.deleted += sum(by_seq[seq].deleted for seq in settled)
    found.absent += sum(by_seq[seq].absent for seq in settled)
    found.kept += sum(by_seq[seq].kept for seq in settled)
    session.flush()
    return settled


_FIRST_PAGE = select(func.min(DeletionPage.seq)).where(*of_chunk(DeletionPage))


def first_page(session: Session, found: DeletionChunk) -> int | None:
    """The first page that still holds keys."""
    first: int | None = session.execute(_FIRST_PAGE, _of(found)).scalar()
    return first


_KEYS_OWED = select(func.coalesce(func.sum(DeletionPage.count), 0)).where(
    *of_chunk(DeletionPage), DeletionPage.seq >= bindparam("first"), DeletionPage.seq < bindparam("end")
)


def keys_owed(session: Session, chunk: Chunk, *, first: int = 0, end: int = _LAST_PAGE) -> int:
    """How many keys are still in these pages."""
    values = {"of": chunk.deletion_id, "of_chunk": chunk.chunk, "first": first, "end": end}
    return int(session.execute(_KEYS_OWED, values).scalar_one())


def _joined(keys: Iterable[str]) -> bytes:
    return "\n".join(sorted(keys)).encode()


def _of(found: DeletionChunk) -> dict[str, Any]:
    return {"of": found.deletion_id, "of_chunk": found.chunk}
