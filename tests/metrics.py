"""What an endpoint for Prometheus serves, read without one."""

import asyncio
import contextlib
import socket
import urllib.request
from collections.abc import Iterator

from tests.stack import lines


@contextlib.contextmanager
def free_address() -> Iterator[str]:
    """An address that stays ours: one who wants it next must say so, as the worker's endpoint does."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        yield f"127.0.0.1:{holder.getsockname()[1]}"


async def scraped(address: str) -> dict[str, float]:
    """Every series of a worker's endpoint, or none while there is no endpoint yet."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        answer = await asyncio.to_thread(opener.open, f"http://{address}/metrics", None, 5)
    except OSError:
        return {}
    with answer:
        shown = answer.read().decode()
    series = (line.rpartition(" ") for line in lines(shown) if not line.startswith("#"))
    return {name: float(value) for name, _, value in series}
