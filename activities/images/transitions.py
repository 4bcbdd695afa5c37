"""The way of an image that no committed snapshot names: pure rules. The steps obey them, and the tests explore them.

    no row ──> hiding ──> hidden ──> purging ──> no row, or purged ──> no row, or hiding again
                 │           │          │                     │
                 └───────────┴──────────┴─────────────────────┴──> restored ──> no row, or hiding again

A client that asked before the image was hidden, and was told that it exists, commits its snapshot within the grace. Once that
snapshot is known, the image is restored. What no snapshot names after the grace is purged. Each time that hiding begins is a
*round* with a number of its own: a request or an answer of an earlier one changes nothing any more.

Where each commit asks first (artifact_deletion/images.py), nothing waits for the grace: such a client is refused. So that it is
refused after the purge too, what was purged keeps its row for the grace.
"""

from dataclasses import dataclass, replace
from enum import StrEnum


class ImageState(StrEnum):
    """Of an image that has a row in the ledger."""

    HIDING = "hiding"
    """It is written down before the first request."""
    HIDDEN = "hidden"
    """The store answered for every place. The grace begins."""
    PURGING = "purging"
    """The grace is over, and no snapshot named it then. A deletion that names it now waits for the end, and begins anew."""
    PURGED = "purged"
    """Its bytes are gone, and no snapshot is committed that names it, unless its client has put it again."""
    RESTORED = "restored"
    """A snapshot names it. It is looked at until no request of ours can hide it any more."""


ON_THE_WAY = (ImageState.HIDING, ImageState.HIDDEN, ImageState.PURGING, ImageState.PURGED)
"""States in which an image is unreadable, or about to be."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image's row, as far as rules need it."""

    state: ImageState
    round: int


def unnamed(image: Image | None, new_round: int) -> Image:
    """A deletion owes it, and no snapshot names it: hiding begins, unless it is on its way already."""
    if image is None or image.state in {ImageState.PURGED, ImageState.RESTORED}:
        return Image(ImageState.HIDING, new_round)
    return image


def named(image: Image) -> Image:
    """A snapshot that names it was written down."""
    return replace(image, state=ImageState.RESTORED)


def answered(image: Image, round_: int) -> Image:
    """The store has hidden it in every place, in this round."""
    return replace(image, state=ImageState.HIDDEN) if image == Image(ImageState.HIDING, round_) else image


def due(image: Image) -> Image:
    """The grace is over, and no snapshot names it."""
    return replace(image, state=ImageState.PURGING) if image.state is ImageState.HIDDEN else image


def readable_again(image: Image, round_: int, new_round: int) -> Image:
    """A look at what this round hid found it readable, and no snapshot names it: it is hidden once more, for a whole grace.

    The purge looks, and so does a deletion that comes upon an image which another one has hidden: its own artifact may have put
    the image anew since then.
    """
    is_hidden = image.round == round_ and image.state in {ImageState.HIDDEN, ImageState.PURGING}
    return Image(ImageState.HIDING, new_round) if is_hidden else image


def purged(image: Image, round_: int, *, remembered: bool = False) -> Image | None:
    """Its bytes are gone, in this round. `remembered`: each commit asks, and is refused what is gone."""
    if image != Image(ImageState.PURGING, round_):
        return image
    return replace(image, state=ImageState.PURGED) if remembered else None


def forgotten(image: Image, round_: int) -> Image | None:
    """It was purged so long ago that no client that asked before commits any more."""
    return None if image == Image(ImageState.PURGED, round_) else image


def not_purged(image: Image, round_: int) -> Image:
    """The store refuses to delete its bytes: it stays hidden, for another grace."""
    return replace(image, state=ImageState.HIDDEN) if image == Image(ImageState.PURGING, round_) else image


def found_hidden(image: Image | None, new_round: int, *, is_named: bool) -> Image:
    """The store hides it in a way that no row knows, as after a restore of the database: from now on it has a whole grace."""
    if is_named:
        return Image(ImageState.RESTORED, new_round) if image is None else named(image)
    if image is None:
        return Image(ImageState.HIDDEN, new_round)
    return replace(image, state=ImageState.HIDDEN) if image.state is ImageState.PURGING else image


def watched(image: Image, round_: int) -> Image | None:
    """It was readable when no request of ours could hide it any more, and nothing of ours is left beside it."""
    return None if image == Image(ImageState.RESTORED, round_) else image
