"""What must hold.

I1  No image that a committed, live snapshot needs is lost: its bytes exist at its key, or in quarantine.
I2  None is hidden or purged if a snapshot that needs it was committed before. It is readable where no row of ours watches it.
    No row hides what a recorded reference needs. From every state the system alone can reach one in which it is readable.
I3  From every state the system alone can reach one in which what no snapshot needs is gone: data, markers and quarantine.
I4  The same hash in another project is never touched.
I5  A deletion that says that an image is hidden does not leave readable what a snapshot that is deleted had put.

The system alone: no new upload, no deletion, no crash.
"""

from tests.images_model.state import (
    AT_WORK,
    DEAD,
    DELETED,
    GONE,
    HIDDEN,
    HIDING,
    NONE,
    PURGED,
    PURGING,
    RESTORED,
    ROWS,
    Case,
    Key,
    State,
    exists,
    keys_of,
    needed,
    referenced,
    restored,
    visible,
)


def wrong(case: Case, s: State) -> str | None:
    """Of a state."""
    if not s.other:
        return "I4: the same hash in another project was hidden"
    for image, row in enumerate(s.rows):
        if needed(case, s, image):
            if not exists(case, s, image):
                return f"I1: image {image} is lost, and a live snapshot needs it"
            if row.state in {NONE, PURGED} and not visible(case, s, image):
                return f"I2: image {image} is hidden, a live snapshot needs it, and no row watches it"
        if row.state not in {NONE, RESTORED} and referenced(case, s, image):
            return f"I2: image {image} is referenced, and its row says {ROWS[row.state]}"
    return None


def wrong_step(case: Case, s: State, after: State) -> str | None:
    """Of a step."""
    for image, (before, row) in enumerate(zip(s.rows, after.rows, strict=True)):
        begun = row.state in {HIDING, PURGING} and (before.state, before.round) != (row.state, row.round)
        if begun and needed(case, s, image):
            return f"I2: image {image} turns {ROWS[row.state]}, though a snapshot that was committed before needs it"
        said = s.owed[image] > after.owed[image] and before.state == HIDDEN
        if said and visible(case, s, image) and not _others_put(case, s, image) and not needed(case, s, image):
            return f"I5: a deletion says that image {image} is hidden, and it is readable"
    return None


def _is_uploaded(case: Case, s: State, image: int) -> bool:
    return any(of.image == image and at in AT_WORK for of, (at, *_) in zip(case.ups, s.ups, strict=True))


def _others_put(case: Case, s: State, image: int) -> bool:
    """An upload is at work or died, others deleted its snapshot, or a front copied the image: bytes may come after any look."""
    died = any(of.image == image and at == DEAD for of, (at, *_) in zip(case.ups, s.ups, strict=True))
    gone = any(snap.life == GONE and mask >> image & 1 for snap, mask in zip(s.snaps, case.masks, strict=True))
    return died or gone or _is_uploaded(case, s, image) or any(at for at, _ in s.bumps)


def good(case: Case, s: State) -> bool:
    """What the system must be able to reach by itself."""
    return not any(s.owed) and all(row.state == NONE and _is_as_it_should(case, s, image) for image, row in enumerate(s.rows))


def _is_as_it_should(case: Case, s: State, image: int) -> bool:
    if needed(case, s, image):
        return restored(case, s, image)
    if s.exempt >> image & 1 or _is_uploaded(case, s, image):
        return True
    deleted = any(snap.life == DELETED and mask >> image & 1 for snap, mask in zip(s.snaps, case.masks, strict=True))
    return not deleted or all(key == Key() for key in keys_of(case, s, image))
