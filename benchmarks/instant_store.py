"""An object store that answers at once and holds nothing but manifests: with it, what is measured is our own cost.

It speaks enough of S3 for boto3, so boto3's cost is part of it: `python benchmarks/instant_store.py PORT FOLDER [LOG [S]]`.
The manifest of the comparison with base 7 is the file FOLDER/7.json. Each request that deletes is a line of LOG: when it came,
then its keys, with tabs between; it is answered after S seconds, as by a store that is slow.
"""

import asyncio
import os
import re
import sys
import time
from pathlib import Path
from typing import TextIO

_COMPARISON = re.compile(r"/(\d+)/comparison\.json$")
_KEY = re.compile(rb"<Key>(.*?)</Key>")
_EMPTY = {
    "uploads": b"<ListMultipartUploadsResult><IsTruncated>false</IsTruncated></ListMultipartUploadsResult>",
    "list-type": b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>",
    "versioning": b"<VersioningConfiguration/>",
    "delete": b"<DeleteResult/>",
}
_ABSENT = b"<Error><Code>NoSuchKey</Code></Error>"


def answer(folder: Path, line: str) -> tuple[str, bytes]:
    """Status and body for a request line."""
    method, _, rest = line.partition(" ")
    path, _, query = rest.partition(" ")[0].partition("?")
    for name, body in _EMPTY.items():
        if name in query:
            return "200 OK", body
    if method == "GET" and (found := _COMPARISON.search(path)):
        return "200 OK", (folder / f"{found[1]}.json").read_bytes()
    if method == "GET" and path.endswith("/manifest.json"):
        return "200 OK", b'{"images": {}}'
    return ("404 Not Found", _ABSENT) if method == "GET" else ("204 No Content", b"")


async def serve(port: int, folder: Path, log: TextIO, pause_s: float) -> None:
    """Until it is ended."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            line, _, headers = head.decode().partition("\r\n")
            if "100-continue" in headers.lower():
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            length = re.search(r"content-length: (\d+)", headers, re.IGNORECASE)
            sent = await reader.readexactly(int(length[1])) if length else b""
            if line.startswith("POST ") and "?delete" in line:
                if log.name != os.devnull:
                    log.write("\t".join([f"{time.time():.6f}", *(key.decode() for key in _KEY.findall(sent))]) + "\n")
                await asyncio.sleep(pause_s)
            status, body = answer(folder, line)
            about = f'Content-Length: {len(body)}\r\nETag: "x"\r\nContent-Type: application/xml'
            writer.write(f"HTTP/1.1 {status}\r\n{about}\r\n\r\n".encode() + body)
            await writer.drain()

    async def quietly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await connected(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async with await asyncio.start_server(quietly, "127.0.0.1", port, limit=2**20) as server:
        await server.serve_forever()


if __name__ == "__main__":
    given = [*sys.argv[1:], *(os.devnull, "0")[len(sys.argv) - 3 :]]
    with Path(given[2]).open("a", buffering=1, encoding="utf-8") as deleted:
        asyncio.run(serve(int(given[0]), Path(given[1]), deleted, float(given[3])))
