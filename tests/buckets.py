"""A bucket that one test after the other uses."""

import json
import urllib.request
from urllib.parse import quote

from activities.stores.s3 import S3Objects
from demo.servers import ObjectStoreServer, S3Server


def empty(server: S3Server, bucket: str) -> None:
    """Take away all that is in a bucket without versions."""
    if isinstance(server, ObjectStoreServer):
        _empty_folder(server.filer, f"/buckets/{bucket}")
        return
    store = S3Objects(server.client(), bucket, versioned=False)
    for found in store.list_under(""):
        assert not store.delete_found(found).remaining
    for uploads in store.uploads_under(""):
        assert not store.abort_uploads(uploads).remaining


def _empty_folder(filer: str, folder: str) -> None:
    """By SeaweedFS's own interface: deletes over S3 leave empty folders, and each listing goes through all of them.

    The filer's HTTP API is described in SeaweedFS's wiki, under "Filer Server API".
    """
    while found := _entries(filer, folder):
        for path in found:
            gone = urllib.request.Request(f"{filer}{quote(path)}?recursive=true", method="DELETE")
            urllib.request.urlopen(gone, timeout=60).close()


def _entries(filer: str, folder: str) -> list[str]:
    asked = urllib.request.Request(f"{filer}{quote(folder)}/?limit=1000", headers={"Accept": "application/json"})
    with urllib.request.urlopen(asked, timeout=60) as answer:
        return [one["FullPath"] for one in json.load(answer)["Entries"] or ()]
