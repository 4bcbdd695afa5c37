"""Everything through the real PgBouncer in transaction mode: each transaction may land on another server connection.

PgBouncer comes with no Python package; where Debian's is installed, `make test-pgbouncer` runs these.
"""

import contextlib
import os
import shutil
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url, text

from activities.database import Database
from demo.servers import PostgresServer, Server, ServerError
from tests.oracle import Evidence, assert_promises_hold
from tests.stack import Seen, Stack, eventually, pending_failures
from tests.steps.test_prepared import prepared

pytestmark = [pytest.mark.pgbouncer, pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)]
SERVER_CONNECTIONS = 2


class PgBouncer(Server):
    """PgBouncer before a PostgreSQL server, with fewer server connections than a worker has of its own."""

    name = "pgbouncer"

    def __init__(self, folder: Path, url: str) -> None:
        """`url` of any database of the server."""
        super().__init__(folder, ports=1)
        self._behind = make_url(url)

    def url_of(self, url: str) -> str:
        """The same database through this pooler."""
        return make_url(url).set(port=self._ports[0]).render_as_string(hide_password=False)

    def _prepare(self) -> None:
        users = self.folder / "users.txt"
        users.write_text(f'"{self._behind.username}" "{self._behind.password}"\n')
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": self._ports[0],
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256",
            "auth_file": users,
            "pool_mode": "transaction",
            "default_pool_size": SERVER_CONNECTIONS,
            "max_client_conn": 200,
        }
        if os.geteuid() == 0:  # it refuses to work as root
            settings["user"] = "nobody"
            self.folder.chmod(0o755)
            users.chmod(0o644)
        lines = [f"{name} = {value}" for name, value in settings.items()]
        server = f"host={self._behind.host} port={self._behind.port}"
        (self.folder / "pgbouncer.ini").write_text("\n".join(["[databases]", f"* = {server}", "[pgbouncer]", *lines, ""]))

    def _command(self) -> Sequence[str | Path]:
        binary = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
        if binary is None:
            raise ServerError("pgbouncer is not installed (Debian: apt install pgbouncer)")
        return [binary, self.folder / "pgbouncer.ini"]

    def _answers(self) -> bool:
        url = make_url(self.url_of(self._behind.render_as_string(hide_password=False))).set(drivername="postgresql")
        try:
            psycopg.connect(url.render_as_string(hide_password=False), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True


@pytest.fixture(scope="module")
def pgbouncer(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PgBouncer]:
    with PgBouncer(tmp_path_factory.mktemp("pgbouncer"), postgres.url) as server:
        yield server


@pytest.fixture
async def pooled(stack: Stack, pgbouncer: PgBouncer) -> AsyncIterator[Stack]:
    """A stack whose workers and commands reach the database through the pooler; its world stays on a direct connection."""
    stack.database_url = pgbouncer.url_of(stack.database_url)
    yield stack
    with contextlib.suppress(ServerError):  # it is up, unless a test failed while it was down
        pgbouncer.start()


async def test_deletions_run_through_a_pooler_in_transaction_mode(pooled: Stack) -> None:
    """Chunks at once on two server connections, after tables were made through it too."""
    snapshots = pooled.snapshots("a", "b", "c", "d", "e", "f", "g", "h", "kept")
    going = [one.id for one in snapshots[:-1]]
    pooled.world.comparison(snapshots[0], snapshots[-1])
    before = Evidence.of(pooled)
    assert (await pooled.run_command("setup")).returncode == 0
    async with pooled.worker(chunk_artifacts=1, chunks_at_once=8):
        receipt = await pooled.delete(going)
    assert receipt.complete
    assert receipt.artifacts.deleted.count == len(going)
    assert_promises_hold(pooled, before, [pooled.request(going)])


async def test_no_setting_of_ours_stays_on_a_connection_that_others_get_next(pooled: Stack) -> None:
    """Time-outs hold for one transaction: the next on that server connection may be another client's migration."""
    database = Database(pooled.database_url, lock_timeout_s=1, statement_timeout_s=2)
    with database.write() as session:
        assert session.execute(text("SHOW lock_timeout")).scalar_one() == "1s"
    connections = [database.engine.connect() for _ in range(SERVER_CONNECTIONS)]  # all of them, at once
    shown = [
        one.execute(text("SELECT current_setting('lock_timeout') || current_setting('statement_timeout')"))
        for one in connections
    ]
    assert {row.scalar_one() for row in shown} == {"00"}
    for one in connections:
        one.close()
    database.dispose()


async def test_nothing_is_prepared_on_a_connection_that_others_get_next(pooled: Stack) -> None:
    """The one to which the next transaction comes knows no statement of the last one's."""
    assert not prepared(pooled.database_url)


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (
            {"database_lock_timeout_s": 0.3},
            "the database could not be used (OperationalError 55P03); nothing of the transaction was kept",
        ),
        (
            {"database_statement_timeout_s": 0.3},
            "the database could not be used (OperationalError 57014); nothing of the transaction was kept",
        ),
    ],
    ids=["lock", "statement"],
)
async def test_a_row_that_another_client_holds_is_waited_for_in_short_attempts(
    pooled: Stack, limits: dict[str, float], said: str
) -> None:
    """The time-out ends the transaction, an operator reads why, and once the row is let go the rest happens by itself."""
    (head,) = pooled.snapshots("head")
    before = Seen.of(pooled.world)
    async with pooled.worker(**limits):
        with pooled.database.engine.connect() as other:
            other.execute(text("SELECT 1 FROM sentry_preprodartifact WHERE id = :id FOR UPDATE"), {"id": head.id})
            handle = await pooled.start([head.id])

            async def failure() -> str | None:
                return (await pending_failures(handle)).get("delete_rows")

            assert await eventually(failure) == said
            assert Seen.of(pooled.world) == before
            other.rollback()
        await handle.result()
    pooled.assert_only_these_are_gone([head.id], before)


async def test_a_pooler_that_goes_down_is_waited_for(pooled: Stack, pgbouncer: PgBouncer) -> None:
    """Killed while a deletion waits for a row: its connections are gone with it, and the deletion is not."""
    (head,) = pooled.snapshots("head")
    before = Seen.of(pooled.world)
    async with pooled.worker():
        with pooled.database.engine.connect() as other:
            other.execute(text("SELECT 1 FROM sentry_preprodartifact WHERE id = :id FOR UPDATE"), {"id": head.id})
            handle = await pooled.start([head.id])
            waits = text(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )

            async def waiting() -> bool:
                with pooled.database.read() as session:
                    return bool(session.execute(waits).scalar_one())

            await eventually(waiting)
            pgbouncer.kill()

            async def failure() -> str | None:
                return (await pending_failures(handle)).get("delete_rows")

            assert (await eventually(failure)).startswith("the database could not be used (OperationalError")
            pgbouncer.start()
            other.rollback()
        await handle.result()
    pooled.assert_only_these_are_gone([head.id], before)
