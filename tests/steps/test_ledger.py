"""The ledger's own promises, on both databases: fences, seals, and counts that add up."""

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from activities.backend.contract import OwnPrefix, PrefixKind
from activities.collect_keys import Sealing
from activities.database import Database
from activities.ledger import chunks, deletions, pages, prefixes
from activities.ledger.chunks import make_chunks, unfinished_chunks
from activities.ledger.pages import KeyPage, Settlement
from activities.ledger.prefixes import Look
from activities.ledger.schema import (
    ChunkState,
    DeletionArtifact,
    DeletionChunk,
    DeletionPage,
    LedgerTable,
    PageSource,
    PrefixState,
)
from activities.plan import PlannedKeys
from artifact_deletion.errors import NotOpen, StaleAttempt, StaleSeal
from artifact_deletion.outbox import DeletionState
from artifact_deletion.request import DeletionRequest
from tests.stack import deletion_of
from workflows.steps import MAX_CHUNKS, Chunk

REQUEST = DeletionRequest(organization_id=1, artifact_ids=(4, 42))
CHUNK = Chunk(**deletion_of(REQUEST).model_dump(), chunk=0)
AFTER_A_CANCEL = CHUNK.model_copy(update={"fence": 1})
SCOPE = "preprod/org.1/project.2/objects/"


def opened(database: Database) -> None:
    """A running deletion in one chunk, number 0, of the life that the ledger says."""
    with database.write() as session:
        deletions.make(session, REQUEST, DeletionState.RUNNING, None)
        found = deletions.find_locked(session, REQUEST.deletion_id)
        assert found is not None
        make_chunks(session, REQUEST.deletion_id, found.fence, [(one, 2) for one in REQUEST.artifact_ids], 100)


def begun(session: Session, chunk: Chunk = CHUNK) -> DeletionChunk:
    """Begin a new attempt at sealing."""
    return chunks.begin_epoch(session, chunk)


def cancelled(database: Database) -> None:
    with database.write() as session:
        assert deletions.cancel(session, REQUEST.deletion_id, 0)


def own(prefix: str, scope: str = SCOPE) -> OwnPrefix:
    return OwnPrefix(scope, prefix, PrefixKind.ARTIFACT, 4)


def released(database: Database, *sealed: list[str]) -> None:
    """Seal pages and mark their rows as deleted."""
    opened(database)
    with database.write() as session:
        found = begun(session)
        for keys in sealed:
            pages.seal_pages(session, found, [(SCOPE, PageSource.MANIFEST, keys)])
        found.state = ChunkState.ROWS_DELETED


def pages_of(database: Database) -> list[KeyPage]:
    with database.read() as session:
        return list(pages.read_pages(session, CHUNK))


def settle(database: Database, page: KeyPage, remaining: dict[str, str], **counts: int) -> bool:
    with database.write() as session:
        found = chunks.lock_released(session, CHUNK)
        return bool(pages.settle_pages(session, found, [Settlement(page, remaining, **counts)]))


def counts_of(database: Database) -> dict[str, int]:
    with database.read() as session:
        found = chunks.read_chunk(session, CHUNK)
        owed = pages.keys_owed(session, CHUNK)
        return {"sealed": found.sealed, "deleted": found.deleted, "absent": found.absent, "kept": found.kept, "owed": owed}


def everything(database: Database) -> dict[str, list[dict[str, Any]]]:
    """Every row of the ledger, to see that nothing has changed."""
    with database.read() as session:
        return {
            table.name: [dict(row) for row in session.execute(select(table).order_by(*table.primary_key)).mappings()]
            for table in LedgerTable.metadata.sorted_tables
        }


# Fencing --------------------------------------------------------------------------------------------------------------


def test_an_attempt_that_was_overtaken_can_seal_nothing_more(database: Database) -> None:
    """Temporal times an attempt out and starts another; the first may still be running, and finish late."""
    opened(database)
    with database.write() as session:
        old = begun(session).epoch
    with database.write() as session:
        new = begun(session).epoch
    late = Sealing(database, CHUNK, old)
    keys = [f"1/2/4/3/diff/{n:05}.png" for n in range(20_000)]
    with pytest.raises(StaleSeal):
        late.add(PlannedKeys("diff_mask", [SCOPE], PageSource.MANIFEST, keys))
    assert pages_of(database) == []
    with database.write() as session:
        assert chunks.lock_sealing(session, CHUNK, new).epoch == new


@pytest.mark.thorough
def test_a_page_that_an_attempt_read_before_it_was_sealed_anew_is_never_settled(database: Database) -> None:
    """Only the keys that were released with the rows may count as deleted, whatever has the same number."""
    opened(database)
    with database.write() as session:
        pages.seal_pages(session, begun(session), [(SCOPE, PageSource.MANIFEST, ["a", "b"])])
    (early,) = pages_of(database)
    with database.write() as session:
        found = begun(session)
        pages.drop_pages(session, found)
        found.pages = found.sealed = 0
        pages.seal_pages(session, found, [(SCOPE, PageSource.MANIFEST, ["a", "c"])])
        found.state = ChunkState.ROWS_DELETED
    assert not settle(database, early, {}, deleted=2)
    assert counts_of(database) == {"sealed": 2, "deleted": 0, "absent": 0, "kept": 0, "owed": 2}


def test_nothing_is_settled_before_the_rows_are_gone_nor_sealed_after(database: Database) -> None:
    """The rows' commit is the line between sealing and deleting: no key may go while a row still names it."""
    opened(database)
    with database.write() as session:
        epoch = begun(session).epoch
    with pytest.raises(StaleAttempt), database.write() as session:
        chunks.lock_released(session, CHUNK)
    with database.write() as session:
        chunks.lock_sealing(session, CHUNK, epoch).state = ChunkState.ROWS_DELETED
    with pytest.raises(StaleSeal), database.write() as session:
        chunks.lock_sealing(session, CHUNK, epoch)
    with database.write() as session:
        assert begun(session).epoch == epoch, "a released chunk keeps its seal"


def test_an_attempt_from_before_a_cancel_is_fenced_off_from_the_run_that_follows(database: Database) -> None:
    """A cancel drops the chunks and a new run makes new ones: who slept through both must not pass for the new attempt."""
    opened(database)
    with database.write() as session:
        old = begun(session).epoch
    cancelled(database)
    opened(database)
    with database.write() as session:
        assert begun(session, AFTER_A_CANCEL).epoch == old, "the epoch does not tell them apart, the fence does"
    with pytest.raises(NotOpen), database.write() as session:
        chunks.lock_sealing(session, CHUNK, old)
    with pytest.raises(NotOpen), database.write() as session:
        begun(session)


def test_a_late_step_of_a_cancelled_run_finds_no_chunk(database: Database) -> None:
    """Every later step begins with the chunk, which the cancel has dropped, or which is that of the next run."""
    opened(database)
    cancelled(database)
    for asked_anew in (False, True):
        if asked_anew:
            opened(database)
        for look in (chunks.lock_chunk, chunks.read_chunk, chunks.lock_released, begun):
            with pytest.raises(NotOpen), database.write() as session:
                look(session, CHUNK)
    with database.read() as session:
        assert chunks.read_chunk(session, AFTER_A_CANCEL).fence == 1


def test_the_digest_of_a_seal_knows_every_key_and_its_scope(database: Database) -> None:
    """delete_rows releases exactly the set that it is told of by this digest."""
    digests: set[str] = set()
    opened(database)
    for scope, sealed in (
        (SCOPE, [["a", "b"]]),
        (SCOPE, [["a"], ["b"]]),
        (SCOPE, [["b"], ["a"]]),
        (SCOPE, [["a", "c"]]),
        ("snapshots/org.1/project.2/objects/", [["a", "b"]]),
    ):
        with database.write() as session:
            found = begun(session)
            pages.drop_pages(session, found)
            found.digest = ""
            for keys in sealed:
                pages.seal_pages(session, found, [(scope, PageSource.MANIFEST, keys)])
            digests.add(found.digest)
    assert len(digests) == 5


# Prefixes -------------------------------------------------------------------------------------------------------------


def owed(session: Session) -> list[prefixes.Prefix]:
    return prefixes.prefixes_to_sweep(session, CHUNK)


def test_prefixes_of_any_characters_are_sealed_and_settled_as_they_are(database: Database) -> None:
    """They go to the database many at a time, as one text: nothing in them may be taken for its punctuation."""
    odd = [
        "1/2/4/",
        'a"b/',
        "a\\b/",
        'a\\"b/',
        "a,b/",
        "{a}/",
        "[a]/",
        "NULL",
        "null",
        "",
        " a ",
        "a'b/",
        "ä€😀/",
        "%s/",
        "a:b/",
    ]
    opened(database)
    with database.write() as session:
        prefixes.seal_prefixes(session, begun(session), [own(prefix) for prefix in odd])
    with database.write() as session:
        found = chunks.lock_chunk(session, CHUNK)
        sealed = owed(session)
        assert {one.prefix for one in sealed} == set(odd)
        empty = [(one, Look(None)) for one in sealed]
        assert prefixes.settle_prefixes(session, found, empty, "run") == {SCOPE + prefix for prefix in odd}
        assert owed(session) == []


def test_prefixes_of_several_scopes_are_settled_together_and_no_others(database: Database) -> None:
    """Two scopes with the same two prefixes and one with three, of which some are settled: the others stay owed."""
    scopes = [SCOPE, SCOPE.replace("preprod", "snapshots"), SCOPE.replace("preprod", "preprod_size")]
    opened(database)
    named = [own(prefix, scope) for scope in scopes for prefix in ("a/", "b/", "c/")]
    with database.write() as session:
        prefixes.seal_prefixes(session, begun(session), named)
    settled = {scopes[0] + "a/", scopes[0] + "b/", scopes[1] + "a/", scopes[1] + "b/", scopes[2] + "a/"}
    with database.write() as session:
        found = chunks.lock_chunk(session, CHUNK)
        some = [(one, Look(None)) for one in reversed(owed(session)) if one.name in settled]
        assert prefixes.settle_prefixes(session, found, some, "run") == settled
        assert {one.name for one in owed(session)} == {one.name for one in named} - settled


def test_a_prefix_that_two_attempts_look_at_is_settled_by_the_first(database: Database) -> None:
    """The one that was slower read it before the other wrote down what it found, perhaps long before."""
    opened(database)
    with database.write() as session:
        prefixes.seal_prefixes(session, begun(session), [own("a/")])
    with database.read() as session:
        (read,) = owed(session)
    for look, settled in ((Look(PrefixState.SWEPT, {"SlowDown": 2}), {read.name}), (Look(None), set())):
        with database.write() as session:
            found = chunks.lock_chunk(session, CHUNK)
            assert prefixes.settle_prefixes(session, found, [(read, look)], "run") == settled
    with database.read() as session:
        (now,) = owed(session)
    assert (now.state, now.codes, now.looks) == (PrefixState.SWEPT, {"SlowDown": 2}, 1)


# Counts ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("remaining", [{}, {"b": "AccessDenied"}], ids=["whole", "shrunk"])
def test_a_page_that_two_attempts_settle_counts_once(database: Database, remaining: dict[str, str]) -> None:
    """The attempt that timed out may answer last; what it read is no longer what stands there."""
    released(database, ["a", "b", "c"])
    (page,) = pages_of(database)
    gone = 3 - len(remaining)
    assert settle(database, page, remaining, deleted=gone)
    once = everything(database)
    assert not settle(database, page, {}, deleted=3)
    assert not settle(database, page, remaining, deleted=gone)
    assert everything(database) == once
    assert counts_of(database) == {"sealed": 3, "deleted": gone, "absent": 0, "kept": 0, "owed": len(remaining)}


def test_a_page_that_two_attempts_settle_at_the_same_time_counts_once(database: Database) -> None:
    """The same over two connections that begin together, many times."""
    released(database, *([f"{n}/a", f"{n}/b"] for n in range(12)))
    together = threading.Barrier(2)

    def attempt(read: list[KeyPage]) -> list[bool]:
        won = []
        for page in read:
            together.wait(10)
            won.append(settle(database, page, {page.keys[0]: "SlowDown"}, deleted=1))
        return won

    read = pages_of(database)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(attempt, [read, read])
    assert [a + b for a, b in zip(first, second, strict=True)] == [1] * 12
    assert counts_of(database) == {"sealed": 24, "deleted": 12, "absent": 0, "kept": 0, "owed": 12}


def test_a_page_must_settle_into_all_of_its_keys(database: Database) -> None:
    """An outcome that loses a key, or finds one too many, is a bug that must not become a count."""
    released(database, ["a", "b", "c"])
    (page,) = pages_of(database)
    before = everything(database)
    outcomes: list[dict[str, int]] = [{}, {"deleted": 1}, {"deleted": 2, "absent": 1}, {"kept": 3}]
    for counts in outcomes:
        with pytest.raises(ValueError, match="cannot settle"):
            settle(database, page, {"a": "AccessDenied"}, **counts)
    assert everything(database) == before


@pytest.mark.parametrize("seed", range(2))
def test_every_sealed_key_is_in_exactly_one_count_after_any_order_of_settles(database: Database, seed: int) -> None:
    """No key is lost or counted twice, whatever the order, with attempts that read long ago among them."""
    order = random.Random(seed)
    released(database, *([f"{page}/{key}" for key in range(order.randint(1, 9))] for page in range(5)))
    read = pages_of(database)
    for _ in range(25):
        page = order.choice(read)
        left = {key: order.choice(["SlowDown", "AccessDenied"]) for key in page.keys if order.random() < 0.5}
        absent = order.randint(0, len(page.keys) - len(left))
        kept = order.randint(0, len(page.keys) - len(left) - absent)
        settle(database, page, left, absent=absent, kept=kept, deleted=len(page.keys) - len(left) - absent - kept)
        counts = counts_of(database)
        assert counts.pop("sealed") == sum(counts.values())
        if order.random() < 0.5:
            read += pages_of(database)  # without forgetting those that were read before
    with database.read() as session:
        found = session.execute(select(DeletionPage.count, DeletionPage.codes)).all()
    assert all(count == sum(codes.values()) for count, codes in found if codes)


# Chunks ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("artifacts", "size", "made"),
    [(10_000, 1, 100), (10_000, 250, 40), (9_999, 7, 100), (101, 1, 51), (100, 1, 100), (251, 250, 2), (1, 250, 1), (0, 1, 0)],
)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_deletion_has_no_more_chunks_than_a_history_has_room_for(
    database: Database, artifacts: int, size: int, made: int
) -> None:
    """The largest request, with the smallest chunks that a setting allows, too. Artifacts of one project lie together."""
    asked = [(one, one % 3) for one in range(1, artifacts + 1)]
    with database.write() as session:
        assert make_chunks(session, "of", 0, asked, size) == range(made)
    with database.read() as session:
        rows = session.execute(select(DeletionArtifact.chunk, DeletionArtifact.project_id, DeletionArtifact.artifact_id)).all()
    assert made <= MAX_CHUNKS
    assert sorted(row.artifact_id for row in rows) == list(range(1, artifacts + 1))
    assert len({row.chunk for row in rows}) == made
    in_order = sorted(rows)
    assert in_order == sorted(rows, key=lambda row: (row.project_id, row.artifact_id))


def owing(session: Session, numbers: range, state: ChunkState) -> Iterator[DeletionChunk]:
    """Chunks in this state, each with a page that is owed."""
    make_chunks(session, REQUEST.deletion_id, 0, [(number + 1, 2) for number in numbers], 1, first=numbers.start)
    for number in numbers:
        found = chunks.lock_chunk(session, CHUNK.model_copy(update={"chunk": number}))
        found.state = state
        pages.seal_pages(session, found, [(SCOPE, PageSource.COLUMN, ["a"])])
        yield found


@pytest.mark.thorough
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_run_takes_on_what_a_history_has_room_for_and_first_what_still_has_rows(database: Database) -> None:
    """Rows that came back went into chunks beyond the first hundred. The run that follows does the rest."""
    with database.write() as session:
        deletions.make(session, REQUEST, DeletionState.RUNNING, None)
        gone = [found.chunk for found in owing(session, range(100), ChunkState.ROWS_DELETED)]
        back = [found.chunk for found in owing(session, range(100, 130), ChunkState.OPEN)]
    with database.write() as session:
        taken = unfinished_chunks(session, REQUEST.deletion_id, traces_configured=False)
        assert [one.chunk for one in taken] == gone[:70] + back
        assert [one.chunk for one in taken if one.released is None] == back
        for one in taken:
            found = chunks.lock_chunk(session, CHUNK.model_copy(update={"chunk": one.chunk}))
            found.state = ChunkState.ROWS_DELETED
            pages.drop_pages(session, found)
    with database.read() as session:
        left = unfinished_chunks(session, REQUEST.deletion_id, traces_configured=False)
    assert [one.chunk for one in left] == gone[70:]
