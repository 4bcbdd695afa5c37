"""A proxy in front of PostgreSQL that loses the acknowledgement of a COMMIT: no one knows then whether it happened.

What client and server say is passed on as it is. The proxy listens to what a transaction changes; if its COMMIT is to be lost,
the connection is dropped at the server's answer, or before the server hears of it.
"""

import contextlib
import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

from sqlalchemy import URL, make_url

from tests.fault_proxy import reset_when_closed

_CHANGES = re.compile(rb"(INSERT INTO|UPDATE|DELETE FROM) ([\w.]+)")
_PROCESS, _ANOTHER = re.compile(rb"K\0\0\0\x0c.{4}", re.DOTALL), b"K\0\0\0\x0c\0\0\0\1"
"""PostgreSQL's BackendKeyData."""
_BEGIN, _COMMIT = b"BEGIN ISOLATION LEVEL ", b"COMMIT\0"


@dataclass
class PostgresProxy:
    """Use its `url` in place of the server's."""

    server_url: str
    happens: bool
    """Whether a COMMIT whose acknowledgement is lost reaches the server."""
    only: Callable[[frozenset[str]], bool]
    """Of a transaction, by what it changed, such as `DELETE FROM sentry_preprodartifact`: whether to lose its COMMIT's."""
    poses: bool = False
    """Whether it names another process than the one that serves the connection, as a pooler does."""
    lost: list[frozenset[str]] = field(default_factory=list)
    """The transactions whose acknowledgement was lost."""
    _closing: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _threads: list[threading.Thread] = field(default_factory=list)
    _sockets: list[socket.socket] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        # A thread that waits in accept() hears of a connection, and not of a close.
        self._closing = True
        socket.create_connection(self._listener.getsockname()).close()
        for thread in self._threads[:1]:
            thread.join()
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    @property
    def url(self) -> str:
        url: URL = make_url(self.server_url).set(port=self._listener.getsockname()[1])
        return url.render_as_string(hide_password=False)

    def _start(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name="postgres-proxy")
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        server = make_url(self.server_url)
        while True:
            client, _ = self._listener.accept()
            if self._closing:
                client.close()
                return
            upstream = socket.create_connection((server.host, server.port))
            self._sockets += [client, upstream]
            connection = _Connection(self, client, upstream)
            self._start(connection.requests)
            self._start(connection.answers)

    def loses(self, changed: frozenset[str]) -> bool:
        with self._lock:
            if not self.only(changed):
                return False
            self.lost.append(changed)
            return True


class _Connection:
    def __init__(self, proxy: PostgresProxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy, self._client, self._server = proxy, client, server
        self._losing = threading.Event()

    def requests(self) -> None:
        changed: set[str] = set()
        with contextlib.suppress(OSError):
            while sent := self._client.recv(1 << 16):
                changed |= {b" ".join(found).decode() for found in _CHANGES.findall(sent)}
                if _BEGIN in sent:
                    changed.clear()
                if _COMMIT in sent and self._proxy.loses(frozenset(changed)):
                    self._losing.set()
                    if not self._proxy.happens:
                        break
                self._server.sendall(sent)
        # The client is gone, or is to hear nothing any more: the server rolls back what it has not been told to commit.
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_WR)

    def answers(self) -> None:
        with contextlib.suppress(OSError):
            while sent := self._server.recv(1 << 16):
                if self._losing.is_set():
                    break
                self._client.sendall(_PROCESS.sub(_ANOTHER, sent) if self._proxy.poses else sent)
        reset_when_closed(self._client)
        for one in (self._client, self._server):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RD)
            one.close()
