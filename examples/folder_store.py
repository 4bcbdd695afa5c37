"""An object store of one's own: a folder whose files are the objects, as on a development machine or a mounted share.

    export FOLDER_STORE=/srv/objects
    export ARTIFACT_DELETION_ADAPTERS=examples.folder_store:adapters

A file's name is its key, escaped: keys with slashes, dots or any other sign are one file each, and none leaves the folder.
"""

import os
import urllib.parse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from activities.stores.objects import MAX_KEYS, Found, ObjectAbsent, ObjectTooLarge, Outcome, Upload
from adapters import Adapters
from artifact_deletion.errors import StoreUnavailable

_NAME_BYTES = 200
"""Of a path's part; file systems take 255."""


@dataclass(frozen=True)
class FolderStore:
    """See ObjectStore."""

    folder: Path
    listable: bool = True
    lists_uploads: bool = False
    """A file is written whole or not at all: there are no uploads to be finished."""

    def put(self, key: str, content: bytes) -> None:
        """What a backend does; no part of the protocol."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def read(self, key: str, limit: int) -> bytes:
        """See ObjectStore."""
        try:
            with self._path(key).open("rb") as file:
                content = file.read(limit + 1)
        except FileNotFoundError:
            raise ObjectAbsent from None
        except OSError as error:
            raise _unavailable(error) from None
        if len(content) > limit:
            raise ObjectTooLarge
        return content

    def delete(self, keys: Sequence[str]) -> Outcome:
        """See ObjectStore."""
        outcome = Outcome()
        for key in keys:
            try:
                self._path(key).unlink()
            except FileNotFoundError:
                outcome.absent.append(key)
            except PermissionError:
                outcome.refused[key] = "AccessDenied"
            except OSError as error:
                raise _unavailable(error) from None
            else:
                outcome.deleted.append(key)
        return outcome

    def list_under(self, prefix: str) -> Iterator[Sequence[Found]]:
        """See ObjectStore."""
        found = [one for one in self._all() if one.key.startswith(prefix)]
        yield from (found[start : start + MAX_KEYS] for start in range(0, len(found), MAX_KEYS))

    def _all(self) -> Iterator[Found]:
        for parent, _, names in os.walk(self.folder, onerror=_raise):
            for path in (Path(parent, name) for name in names):
                key = urllib.parse.unquote("".join(part[1:] for part in path.relative_to(self.folder).parts))
                try:
                    written = path.stat()
                except FileNotFoundError:
                    continue  # deleted meanwhile
                except OSError as error:
                    raise _unavailable(error) from None
                # A file that was written anew is another thing than the one that was deleted.
                yield Found(key, mark=f"{written.st_ino}.{written.st_mtime_ns}", size=written.st_size)

    def delete_found(self, found: Sequence[Found]) -> Outcome:
        """See ObjectStore."""
        return self.delete([one.key for one in found])

    def uploads_under(self, prefix: str) -> Iterator[Sequence[Upload]]:  # noqa: ARG002  the protocol's
        """There are none."""
        yield from ()

    def abort_uploads(self, uploads: Sequence[Upload]) -> Outcome:  # noqa: ARG002  the protocol's
        """There are none."""
        return Outcome()

    def _path(self, key: str) -> Path:
        # A long name is cut into folders; each part begins with a letter that says whether it is the last.
        name = urllib.parse.quote(key, safe="").replace(".", "%2E")
        parts = [name[start : start + _NAME_BYTES] for start in range(0, len(name), _NAME_BYTES)]
        return self.folder.joinpath(*(f"d{part}" for part in parts[:-1]), f"f{parts[-1]}")


def _raise(error: OSError) -> None:
    raise _unavailable(error)


def _unavailable(error: OSError) -> StoreUnavailable:
    return StoreUnavailable(f"the folder of objects cannot be used ({type(error).__name__})")


adapters = Adapters(object_store=lambda _settings: FolderStore(Path(os.environ["FOLDER_STORE"])))
