"""What becomes of each listed key in a report: pure rules on its owner and on what the database said of that owner."""

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from activities.backend.owners import KeyKind, Owner


class Class(StrEnum):
    """Each listed key is in exactly one of these, and each trace."""

    LIVING = "living"
    """A row of the project stands for it."""
    OWED = "owed"
    """An open or failed deletion of the ledger still has to delete it."""
    ORPHAN = "orphan"
    """Its artifact has no row, in this project or another, and it is old enough."""
    LEFTOVER = "comparison_leftover"
    """Of a comparison without a row, under a head that has one; old enough."""
    RECENT = "recent"
    """It would be an orphan or a leftover, and is too young, or of unknown age: its row may not be committed yet."""
    MOVED = "moved"
    """Its artifact has a row in another project, and its columns may still name this place."""
    UNNAMED = "shared_unnamed"
    """An icon that no row names. Another upload may name it again, so it is no orphan."""
    IMAGE_NAMED = "image_named"
    """A snapshot of the project names it."""
    IMAGE_OWED = "image_owed"
    """It is readable and unnamed, and a deletion has it on its list."""
    IMAGE_HIDDEN = "image_hidden"
    """A delete marker lies over it, or it is a copy in quarantine: the ledger says until when."""
    IMAGE_FORGOTTEN = "image_hidden_unowed"
    """The same, and no deletion of the ledger knows of it: none will purge or restore it."""
    IMAGE_UNNAMED = "image_unnamed"
    """No snapshot of the project names it."""
    IMAGE_UNKNOWN = "image_unknown"
    """No snapshot that was read names it, and some of the project's were not read."""
    TRACE_LIVING = "trace_living"
    """Trace items of an artifact that has a row in the project."""
    TRACE_OWED = "trace_owed"
    """Of one of which an open or failed deletion still has to delete rows, objects or trace items."""
    TRACE_ORPHAN = "trace_orphan"
    """Of one that has no row, in this project or another; old enough."""
    TRACE_RECENT = "trace_recent"
    """Too young for that, or of unknown age."""
    TRACE_MOVED = "trace_moved"
    """Of one that has a row in another project."""
    TRACE_UNKNOWN = "trace_unknown"
    """No artifact whose id was tried has them. None goes by a report."""
    FOREIGN = "foreign"
    """Of no known shape: never touched."""


@dataclass(frozen=True)
class Facts:
    """What the database says of the owners of some keys, at one moment."""

    living: Collection[int] = ()
    """Artifacts that have a row in the project."""
    moved: Collection[int] = ()
    """Artifacts that have one in another."""
    compared: Collection[tuple[int, int]] = ()
    """Head and base of comparisons that have a row, or in whose folder a row names a key."""
    owed: Collection[int] = ()
    """Artifacts of which a deletion still owes objects in this project."""
    named: Collection[str] = ()
    """Shared keys, relative to their scope, that a row names."""
    owed_keys: Collection[str] = ()
    """Shared keys, physical, that a deletion still owes."""


def judge_key(scope: str, key: str, owner: Owner, facts: Facts, *, is_old: bool) -> Class:
    """The class of a key that is no image's. `key` is relative to its scope."""
    if owner.kind is KeyKind.SHARED:
        return Class.LIVING if key in facts.named else Class.OWED if scope + key in facts.owed_keys else Class.UNNAMED
    if owner.kind is KeyKind.FOREIGN:
        return Class.FOREIGN
    is_owed = owner.artifact in facts.owed or owner.base in facts.owed
    if owner.artifact in facts.living:
        if owner.kind is KeyKind.OWN or (owner.artifact, owner.base) in facts.compared:
            return Class.LIVING
        return Class.OWED if is_owed else Class.LEFTOVER if is_old else Class.RECENT
    if owner.artifact in facts.moved:
        return Class.MOVED
    return Class.OWED if is_owed else Class.ORPHAN if is_old else Class.RECENT


def judge_trace(artifact: int, facts: Facts, *, is_old: bool) -> Class:
    """The class of an artifact's trace items."""
    if artifact in facts.living:
        return Class.TRACE_LIVING
    if artifact in facts.moved:
        return Class.TRACE_MOVED
    return Class.TRACE_OWED if artifact in facts.owed else Class.TRACE_ORPHAN if is_old else Class.TRACE_RECENT


@dataclass(frozen=True)
class ImageFacts:
    """What the database says of some images, at one moment."""

    named: Collection[str] = ()
    on_list: Collection[str] = ()
    """Those that a deletion hides, has hidden or has yet to decide about."""
    all_read: bool = False
    """The index has every snapshot of the project."""


def judge_image(image: str, facts: ImageFacts, *, is_hidden: bool) -> Class:
    """The class of an image, by its hash."""
    if is_hidden:
        return Class.IMAGE_HIDDEN if image in facts.on_list else Class.IMAGE_FORGOTTEN
    if image in facts.named:
        return Class.IMAGE_NAMED
    if image in facts.on_list:
        return Class.IMAGE_OWED
    return Class.IMAGE_UNNAMED if facts.all_read else Class.IMAGE_UNKNOWN
