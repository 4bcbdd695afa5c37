"""An object store in memory, for tests that judge rules in thousands of worlds.

A world of some sixty objects takes SeaweedFS a third of a second to hold, and a folder some twenty milliseconds to list again
and again; what these tests are about, which keys a deletion asks for, is the same. It passes the suite that every adapter must
pass, and the same tests run in fewer worlds on the real server.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from activities.stores.objects import MAX_KEYS, Found, ObjectAbsent, ObjectTooLarge, Outcome, Upload


@dataclass(frozen=True)
class MemoryStore:
    """See ObjectStore."""

    content: dict[str, bytes] = field(default_factory=dict)
    listable: bool = True
    lists_uploads: bool = True

    def read(self, key: str, limit: int) -> bytes:
        if key not in self.content:
            raise ObjectAbsent
        if len(self.content[key]) > limit:
            raise ObjectTooLarge
        return self.content[key]

    def delete(self, keys: Sequence[str]) -> Outcome:
        outcome = Outcome()
        for key in keys:
            (outcome.absent if self.content.pop(key, None) is None else outcome.deleted).append(key)
        return outcome

    def list_under(self, prefix: str) -> Iterator[Sequence[Found]]:
        found = [Found(key, size=len(content)) for key, content in list(self.content.items()) if key.startswith(prefix)]
        yield from (found[start : start + MAX_KEYS] for start in range(0, len(found), MAX_KEYS))

    def delete_found(self, found: Sequence[Found]) -> Outcome:
        return self.delete([one.key for one in found])

    def uploads_under(self, prefix: str) -> Iterator[Sequence[Upload]]:  # noqa: ARG002  the protocol's
        """There are none."""
        yield from ()

    def abort_uploads(self, uploads: Sequence[Upload]) -> Outcome:  # noqa: ARG002  the protocol's
        """There are none."""
        return Outcome()
