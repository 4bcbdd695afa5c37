"""A client of fastapi_snapshot.py, as CI runs it: it asks for each image, puts those that are absent, and posts the snapshot.

A commit that is refused names images that were hidden or deleted since the client asked. It puts these without asking, since
another client's answer may be as old as its own, and posts again.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import httpx

BEING_HIDDEN = "0"
"""The image is being hidden at this moment: what is put now may be hidden too."""
_TRIES = 120


class Images(Protocol):
    """The project's images, by the SHA-256 of their content."""

    def exists(self, name: str) -> bool:
        """HEAD."""

    def put(self, name: str, content: bytes) -> None:
        """PUT."""


async def upload(
    backend: httpx.AsyncClient,
    path: str,
    images: Mapping[str, bytes],
    store: Images,
    wait: Callable[[], Awaitable[None]] = lambda: asyncio.sleep(1),
) -> int:
    """Upload a snapshot. Returns its artifact's id."""
    names = {name: hashlib.sha256(content).hexdigest() for name, content in images.items()}
    contents = {names[name]: content for name, content in images.items()}
    for name, content in contents.items():
        if not await asyncio.to_thread(store.exists, name):
            await asyncio.to_thread(store.put, name, content)
    put_again: dict[str, str] = {}
    for _ in range(_TRIES):
        answer = await backend.post(path, json={"images": names, "put_again": put_again})
        if answer.status_code != httpx.codes.CONFLICT:
            answer.raise_for_status()
            done: dict[str, Any] = answer.json()
            return int(done["artifact_id"])
        put_again = answer.json()["put_again"]
        for name, round_ in put_again.items():
            if round_ != BEING_HIDDEN:
                await asyncio.to_thread(store.put, name, contents[name])
        if BEING_HIDDEN in put_again.values():
            await wait()
    raise TimeoutError("images of this snapshot are still being hidden: is a worker running?")
