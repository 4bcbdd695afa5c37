"""When a key that a row or a manifest names counts as an artifact's own: one rule for every backend, pure, without I/O."""

import re

MAX_KEY_BYTES = 1024
"""S3's limit for an object key, in UTF-8 bytes."""
_ODD_SEGMENT = re.compile(r"(?:^|/)\.{0,2}(?:/|\Z)")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\\\ud800-\udfff]")


def well_formed(key: str) -> bool:
    """True if every store will take the key as the same path: no empty, `.` or `..` segment, backslash or control character."""
    return (
        0 < len(key) <= MAX_KEY_BYTES
        and _UNPRINTABLE.search(key) is None
        and (key.isascii() or len(key.encode()) <= MAX_KEY_BYTES)
        and _ODD_SEGMENT.search(key) is None
    )


def lies_under(key: object, prefix: str) -> bool:
    """True if `key` is a well-formed key below the prefix. It comes from a manifest or column: it may be anything.

    What is no folder, as an empty text, has nothing below it.
    """
    return prefix.endswith("/") and isinstance(key, str) and well_formed(key) and key.startswith(prefix)
