"""The examples do what they say, on real servers, with no more packages than they say."""

import asyncio
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI, HTTPException
from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError

import temporal_client
from activities.delete_rows import DeleteRows
from activities.ledger.schema import Ask
from artifact_deletion.client import Deletions
from artifact_deletion.converter import connect as connect_by_settings
from artifact_deletion.outbox import DeletionState
from artifact_deletion.request import SEARCH_ATTRIBUTES
from demo.servers import TemporalServer
from demo.world import screen
from examples import encryption
from examples.fastapi_delete import AuditEntry, BackendRow, create_app, may_delete
from settings import PREFIX
from tests.environments import make_environment
from tests.stack import ROOT, Held, Seen, Stack, connect, eventually

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def held_rows(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    held = Held(monkeypatch, DeleteRows, "delete_rows")
    yield held
    held.let_go()


@pytest.fixture
def app(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> FastAPI:
    """A backend whose callers may delete in the test's organization."""
    for name, value in stack.temporal_environment().items():
        monkeypatch.setenv(name, value)
    BackendRow.metadata.create_all(stack.database.engine)
    made = create_app(stack.database.engine, timedelta(seconds=30))

    def only_here(organization_id: int) -> str:
        if organization_id != stack.organization_id:
            raise HTTPException(403)
        return "user:7"

    made.dependency_overrides[may_delete] = only_here
    return made


@pytest.fixture
async def backend(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://backend") as client:
        yield client


def path_of(stack: Stack, artifact_id: int) -> str:
    return f"/organizations/{stack.organization_id}/artifacts/{artifact_id}"


def state_of(stack: Stack, artifact_id: int) -> DeletionState:
    return stack.recorded(stack.request([artifact_id], images="delete").workflow_id).state


async def test_a_handler_answers_204_once_the_rows_are_gone(stack: Stack, backend: httpx.AsyncClient) -> None:
    """Twice is once; the audit entry was committed with the decision."""
    (head,) = stack.snapshots("head")
    before = Seen.of(stack.world)
    async with stack.worker():
        assert (await backend.delete(path_of(stack, head.id))).status_code == 204
        assert head.id not in stack.world.rows()["sentry_preprodartifact"]
        assert (await backend.delete(path_of(stack, head.id))).status_code == 204
        workflow = stack.request([head.id], images="delete").workflow_id
        await stack.client.get_workflow_handle(workflow).result()
    stack.assert_only_these_are_gone([head.id], before, hidden=[head])
    assert stack.receipt(workflow).requested_by == "user:7"
    with stack.database.read() as session:
        assert session.execute(select(func.count()).select_from(AuditEntry)).scalar_one() == 2


@on_sqlite
async def test_a_handler_with_no_more_time_answers_202(stack: Stack, app: FastAPI, held_rows: Held) -> None:
    (head,) = stack.snapshots("head")
    hurried = create_app(stack.database.engine, timedelta(seconds=0.5))
    hurried.dependency_overrides = app.dependency_overrides
    async with (
        stack.worker(),
        httpx.AsyncClient(transport=httpx.ASGITransport(hurried), base_url="http://backend") as backend,
    ):
        answer = await backend.delete(path_of(stack, head.id))
        assert (answer.status_code, answer.json()) == (
            202,
            {"workflow_id": stack.request([head.id], images="delete").workflow_id},
        )
        held_rows.let_go()
        await stack.client.get_workflow_handle(answer.json()["workflow_id"]).result()


@pytest.mark.thorough
@on_sqlite
async def test_with_temporal_down_a_handler_answers_202_and_the_relay_does_the_rest(
    stack: Stack, app: FastAPI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`resume --every` outlives the outage, starts the accepted deletion, and ends when it is asked to."""
    (head,) = stack.snapshots("head")
    before = Seen.of(stack.world)
    server = TemporalServer(tmp_path / "temporal", in_memory=True, ui=False, search_attributes=SEARCH_ATTRIBUTES)
    stack.temporal_address = server.address
    monkeypatch.setenv("TEMPORAL_ADDRESS", server.address)
    monkeypatch.setenv("TEMPORAL_NAMESPACE", "default")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://backend") as backend:
        assert (await backend.delete(path_of(stack, head.id))).status_code == 202
    assert state_of(stack, head.id) == DeletionState.ACCEPTED

    health_file = tmp_path / "alive"
    relay = stack.worker_process(
        "starter.py", "resume", "--every", "0.2s", TEMPORAL_NAMESPACE="default", **{f"{PREFIX}HEALTH_FILE": str(health_file)}
    )
    log = stack.folder / "worker-0.log"
    await eventually(lambda: asyncio.to_thread(lambda: "Temporal cannot be reached" in log.read_text()))
    assert health_file.exists()
    with server:
        stack.use_temporal(await connect(server.address))
        async with stack.worker():

            async def closed() -> bool:
                return state_of(stack, head.id) == DeletionState.CLOSED

            await eventually(closed)
        relay.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(relay.wait, 20) == 0
    assert not health_file.exists()
    stack.assert_only_these_are_gone([head.id], before, hidden=[head])
    said = log.read_text().splitlines()
    assert said.count(stack.request([head.id], images="delete").workflow_id) == 1
    assert not [line for line in said if "Traceback" in line]
    assert len(said) < 6, "an outage is said once, not every round"


@on_sqlite
async def test_a_decision_that_is_rolled_back_deletes_nothing(stack: Stack, backend: httpx.AsyncClient) -> None:
    """The backend's own statement fails after the deletion was accepted in the same transaction."""
    (head,) = stack.snapshots("head")
    BackendRow.metadata.drop_all(stack.database.engine)
    with pytest.raises(OperationalError):
        await backend.delete(path_of(stack, head.id))
    with stack.database.read() as session:
        assert session.execute(select(func.count()).select_from(Ask)).scalar_one() == 0


@pytest.mark.thorough
def test_the_handler_needs_what_a_backend_installs_and_nothing_of_the_service(tmp_path: Path) -> None:
    """The contract, its three packages and FastAPI; the database is the one that its variable names."""
    interpreter = make_environment(tmp_path / "environment", ["fastapi", "pydantic", "sqlalchemy", "temporalio"], complete=True)
    shutil.copytree(ROOT / "artifact_deletion", tmp_path / "backend" / "artifact_deletion")
    shutil.copy(ROOT / "examples" / "fastapi_delete.py", tmp_path / "backend")
    program = "from fastapi_delete import create_app; print([route.path for route in create_app().routes][-1])"
    done = subprocess.run(
        [str(interpreter), "-c", program],
        cwd=tmp_path / "backend",
        env={"DATABASE_URL": "sqlite://"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "/organizations/{organization_id}/artifacts/{artifact_id}\n"


@on_sqlite
async def test_a_backend_speaks_with_workers_through_the_codec_that_it_makes(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the example's first lines say it: the adapters are the workers', the codec alone is the backend's."""
    monkeypatch.setenv("DELETION_KEYS", "one:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
    monkeypatch.setenv("ARTIFACT_DELETION_ADAPTERS", "examples.encryption:adapters")
    for name, value in stack.temporal_environment().items():
        monkeypatch.setenv(name, value)
    (head,) = stack.snapshots("head")
    request = stack.request([head.id])
    stack.accept(request)
    plain, stack.client = stack.client, await temporal_client.connect()
    deletions = Deletions(lambda: connect_by_settings(codec=encryption.from_environment()))
    async with stack.worker():
        done = await deletions.rows_deleted(request, within=timedelta(seconds=30))
        await stack.client.get_workflow_handle(request.workflow_id).result()
    assert done is not None
    assert done.artifacts == 1
    history = await plain.get_workflow_handle(request.workflow_id).fetch_history()
    started = history.events[0].workflow_execution_started_event_attributes
    assert started.input.payloads[0].metadata["encoding"] == encryption.ENCODING


@on_sqlite
async def test_what_may_not_be_deleted_is_refused(stack: Stack, backend: httpx.AsyncClient, app: FastAPI) -> None:
    """A stranger's artifact is no artifact of the organization; only those may delete who were let in."""
    stack.snapshots("head")
    stranger = stack.world.snapshot(stack.world.project(stack.world.organization("globex"), "app"), {"login": screen("login")})
    before = Seen.of(stack.world)
    async with stack.worker():
        answer = await backend.delete(path_of(stack, stranger.id))
        assert (answer.status_code, answer.json()) == (404, {"detail": "the organization has no such artifact"})
        assert (await backend.delete(f"/organizations/1/artifacts/{stranger.id}")).status_code == 403
        assert (await backend.delete(path_of(stack, 0))).status_code == 422
        app.dependency_overrides.clear()
        assert (await backend.delete(path_of(stack, stranger.id))).status_code == 403
    assert Seen.of(stack.world) == before
