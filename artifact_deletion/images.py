"""Commits of snapshots that look first whether their images are hidden, so that no image has to wait for late commits.

Optional. A backend that calls `reserve_images` in each transaction that commits a snapshot is told which of its images a client
has to put again. No snapshot is then committed that shows a hidden image, however long its upload took (docs/backend.md).

The columns of the service's tables that stand here are the contract's, as those in outbox.py.
"""

import re
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    DateTime,
    LargeBinary,
    MetaData,
    String,
    Table,
    func,
    literal,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from artifact_deletion.errors import Misconfigured
from artifact_deletion.outbox import LEDGER_SCHEMA, Json, execute

GONE_STATES = ("hiding", "hidden", "purging", "purged")
"""States in which no snapshot may be committed that names the image, unless its client has put it again."""
BEING_HIDDEN = 0
"""The round of an image that is being hidden right now: what is put meanwhile may be hidden too, so it counts in no round."""
_HASH = re.compile(r"[0-9a-f]{64}", re.ASCII)
_IMAGES_A_QUERY = 1000
_contract = MetaData(schema=LEDGER_SCHEMA)

_snapshot = Table(
    "artifact_deletion_snapshot",
    _contract,
    Column("project_id", BigInteger, primary_key=True, autoincrement=False),
    Column("artifact_id", BigInteger, primary_key=True, autoincrement=False),
    Column("state", String(16)),
    Column("images", LargeBinary),
    Column("read_at", DateTime(timezone=True)),
)
_image = Table(
    "artifact_deletion_image",
    _contract,
    Column("project_id", BigInteger, primary_key=True, autoincrement=False),
    Column("hash", String(64), primary_key=True),
    Column("state", String(16)),
    Column("round", BigInteger),
    Column("since", DateTime(timezone=True)),
    Column("codes", Json),
)


def reserve_images(
    session: Session | Connection,
    *,
    project_id: int,
    artifact_id: int,
    images: Collection[str],
    put_again: Mapping[str, int] = MappingProxyType({}),
) -> dict[str, int]:
    """Write down which images a snapshot shows, in the transaction that commits it, as the last thing before COMMIT.

    Returns nothing if it may be committed. Else roll back: these images are hidden or gone, each by its round. The client puts
    each of them without asking, and asks again with what was returned as `put_again`. One in round `BEING_HIDDEN` is returned
    once more then: there is nothing to put before the next answer.

    Until the transaction ends it waits for decisions about the project's images, and they wait for it. Raises ValueError for
    a name that is no SHA-256 in 64 lower-case hexadecimal digits, Misconfigured under another isolation than READ COMMITTED.
    """
    names = sorted(set(images))
    if any(_HASH.fullmatch(name) is None for name in names):
        raise ValueError("images are named by the SHA-256 of their content, in 64 lower-case hexadecimal digits")
    _lock(session, project_id)
    _record(session, project_id, artifact_id, names)
    found = {name: round_ for part in _parts(names) for name, round_ in _gone(session, project_id, part)}
    if missing := {name: round_ for name, round_ in found.items() if round_ == BEING_HIDDEN or put_again.get(name) != round_}:
        return missing
    for part in _parts(sorted(found)):
        of_part = _image.c.project_id == project_id, _image.c.hash.in_(part)
        execute(session, update(_image).where(*of_part).values(state="restored", since=_now(session), codes={}))
    return {}


def lock_name(project_id: int) -> str:
    """Of the advisory lock under which all is decided about a project's images."""
    return f"artifact_deletion.images:{project_id}"


def head(image: str) -> int:
    """The part of a hash that the index of snapshots keeps: its first 8 bytes."""
    return int(image[:16], 16)


def packed(images: Iterable[str]) -> bytes:
    """The heads of these images, sorted, as the index has them."""
    heads = sorted({head(image) for image in images})
    return struct.pack(f">{len(heads)}Q", *heads)


def unpacked(heads: bytes) -> tuple[int, ...]:
    """The heads that were packed."""
    return struct.unpack(f">{len(heads) // 8}Q", heads)


def _lock(session: Session | Connection, project_id: int) -> None:
    """Shared with other commits. SQLite has one writer at a time: there the index is written before anything is read."""
    if _dialect(session) != "postgresql":
        return
    key = func.hashtextextended(lock_name(project_id), 0)
    isolation = func.current_setting("transaction_isolation")
    found = execute(session, select(isolation, func.pg_advisory_xact_lock_shared(key))).one()
    if found[0] != "read committed":
        # An older snapshot does not show what was decided while the lock was waited for.
        raise Misconfigured("reserve_images needs a transaction at READ COMMITTED")


def _record(session: Session | Connection, project_id: int, artifact_id: int, names: Collection[str]) -> None:
    dialect: Any = postgresql if _dialect(session) == "postgresql" else sqlite
    values = {"state": "read", "images": packed(names), "read_at": _now(session)}
    adding = dialect.insert(_snapshot).values(project_id=project_id, artifact_id=artifact_id, **values)
    execute(session, adding.on_conflict_do_update(index_elements=["project_id", "artifact_id"], set_=values))


def _gone(session: Session | Connection, project_id: int, names: Collection[str]) -> Iterator[tuple[str, int]]:
    """Those that are hidden or gone, with their rounds. They are locked in order: two commits may name the same."""
    wanted = (
        select(_image.c.hash, _image.c.state, _image.c.round, _image.c.codes)
        .where(_image.c.project_id == project_id, _image.c.hash.in_(names), _image.c.state.in_(GONE_STATES))
        .order_by(_image.c.hash)
        .with_for_update()
    )
    for name, state, round_, codes in execute(session, wanted):
        # What the store has refused to hide may stay so for long: it counts as hidden, and is looked at once it is restored.
        yield name, BEING_HIDDEN if state == "hiding" and not codes else round_


def _parts(names: list[str]) -> Iterator[list[str]]:
    return (names[start : start + _IMAGES_A_QUERY] for start in range(0, len(names), _IMAGES_A_QUERY))


def _now(session: Session | Connection) -> ColumnElement[Any]:
    """Of the statement: the transaction may have begun long before."""
    if _dialect(session) == "postgresql":
        return func.clock_timestamp()
    return func.strftime(literal("%Y-%m-%d %H:%M:%f"), literal("now"))


def _dialect(session: Session | Connection) -> str:
    bind = session if isinstance(session, Connection) else session.get_bind()
    return bind.dialect.name
