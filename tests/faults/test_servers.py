"""The embedded servers keep what the fault tests rely on: a kill loses nothing, and nothing outlives its maker."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import psycopg
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from mypy_boto3_s3 import S3Client
from temporalio.client import Client

from demo.servers import Identity, ObjectStoreServer, PostgresServer, ServerError, TemporalServer
from tests.stack import ROOT

pytestmark = pytest.mark.thorough  # every other test is on these servers


def s3(server: ObjectStoreServer, identity: Identity | None = None) -> S3Client:
    return boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        aws_access_key_id=identity.access_key if identity else server.access_key,
        aws_secret_access_key=identity.secret_key if identity else server.secret_key,
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
    )


def connect(url: str) -> psycopg.Connection[tuple[Any, ...]]:
    return psycopg.connect(url.replace("+psycopg", "", 1), autocommit=True)


def wait_until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStoreServer]:
    limited = Identity("limited", ("Write:shared/mine/*",), access_key="LIMITED", secret_key="limited-secret")
    with ObjectStoreServer(tmp_path_factory.mktemp("objects"), identities=[limited]) as server:
        yield server


def test_an_object_store_killed_after_a_put_still_has_the_object(objects: ObjectStoreServer) -> None:
    client, endpoint = s3(objects), objects.endpoint
    client.create_bucket(Bucket="kept")
    client.put_object(Bucket="kept", Key="a/1", Body=b"one")
    objects.kill()
    objects.start()
    assert objects.endpoint == endpoint
    assert client.get_object(Bucket="kept", Key="a/1")["Body"].read() == b"one"
    assert client.delete_objects(Bucket="kept", Delete={"Objects": [{"Key": "a/1"}]})["Deleted"] == [{"Key": "a/1"}]
    assert client.list_objects_v2(Bucket="kept")["KeyCount"] == 0


def test_a_limited_identity_is_refused_key_by_key(objects: ObjectStoreServer) -> None:
    """The tests of leftovers need a store that refuses some keys of a batch and takes the others."""
    admin = s3(objects)
    admin.create_bucket(Bucket="shared")
    for key in ("mine/1", "theirs/1"):
        admin.put_object(Bucket="shared", Key=key, Body=b"x")
    limited = s3(objects, Identity("limited", (), access_key="LIMITED", secret_key="limited-secret"))
    answer = limited.delete_objects(Bucket="shared", Delete={"Objects": [{"Key": "mine/1"}, {"Key": "theirs/1"}]})
    assert [deleted["Key"] for deleted in answer["Deleted"]] == ["mine/1"]
    assert [(error["Key"], error["Code"]) for error in answer["Errors"]] == [("theirs/1", "AccessDenied")]


def test_a_version_under_legal_hold_is_refused_until_the_hold_ends(objects: ObjectStoreServer) -> None:
    client = s3(objects)
    client.create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)
    version = client.put_object(Bucket="locked", Key="a", Body=b"x", ObjectLockLegalHoldStatus="ON")["VersionId"]
    batch: Any = {"Objects": [{"Key": "a", "VersionId": version}]}
    assert [error["Code"] for error in client.delete_objects(Bucket="locked", Delete=batch)["Errors"]] == ["AccessDenied"]
    client.put_object_legal_hold(Bucket="locked", Key="a", VersionId=version, LegalHold={"Status": "OFF"})
    assert "Errors" not in client.delete_objects(Bucket="locked", Delete=batch)


def test_the_object_store_lets_no_stranger_in(objects: ObjectStoreServer) -> None:
    with pytest.raises(ClientError, match="InvalidAccessKeyId"):
        s3(objects, Identity("stranger", ())).list_buckets()


@pytest.mark.parametrize("wheel", [False, True], ids=["preferred", "wheel"])
def test_a_database_killed_after_a_commit_still_has_the_row(tmp_path: Path, *, wheel: bool) -> None:
    with PostgresServer(tmp_path, wheel=wheel) as server:
        url = server.create_database("first")
        with connect(url) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
            server.kill()
            with pytest.raises(psycopg.OperationalError):
                connection.execute("INSERT INTO kept VALUES (43)")
        server.start()
        with connect(server.create_database("copy", template="first")) as connection:
            assert connection.execute("SELECT answer FROM kept").fetchall() == [(42,)]
        server.stop()
        server.start()
        with connect(url) as connection:
            assert connection.execute("SELECT answer FROM kept").fetchall() == [(42,)]


def test_a_database_asks_for_its_password(tmp_path: Path) -> None:
    """On a machine with other users, one who may log in as superuser may run commands as the server's user."""
    with (
        PostgresServer(tmp_path) as server,
        pytest.raises(psycopg.OperationalError, match="password authentication failed"),
    ):
        connect(server.url.replace(server.url.split(":")[2].split("@")[0], "guess"))


async def test_a_killed_temporal_still_has_the_workflow_and_a_forgetful_one_does_not(tmp_path: Path) -> None:
    with TemporalServer(tmp_path, ui=False, search_attributes={"OrganizationId": "Keyword"}) as server:
        address = server.address
        client = await Client.connect(address)
        await client.start_workflow("NoWorkerNeeded", id="kept", task_queue="none")
        server.kill()
        server.start()
        client = await Client.connect(address)
        assert (await client.get_workflow_handle("kept").describe()).workflow_type == "NoWorkerNeeded"
        server.forget()
        client = await Client.connect(address)
        assert (await client.count_workflows("OrganizationId = '1'")).count == 0
        await client.start_workflow("NoWorkerNeeded", id="kept", task_queue="none")


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=r"temporal ended while starting[^$]*NoSuchType"):
        TemporalServer(tmp_path, ui=False, search_attributes={"OrganizationId": "NoSuchType"}).__enter__()


def test_a_server_does_not_outlive_a_maker_that_was_killed(tmp_path: Path) -> None:
    """The server is started from a thread that ends: that must not end the server, and must not save it either."""
    program = (
        "import sys, threading, time; from pathlib import Path; from demo.servers import TemporalServer\n"
        "server = TemporalServer(Path(sys.argv[1]), in_memory=True, ui=False)\n"
        "starter = threading.Thread(target=server.start); starter.start(); starter.join()\n"
        "print(server.pid, flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True) as maker:
        assert maker.stdout is not None
        pid = int(maker.stdout.readline())
        assert is_running(pid)
        maker.send_signal(signal.SIGKILL)
    assert wait_until(lambda: not is_running(pid))


def is_running(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], check=False, capture_output=True, text=True).stdout
    return bool(state.strip()) and not state.startswith("Z")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a port cannot be held")
def test_the_port_of_a_stopped_server_is_given_to_no_one_else(tmp_path: Path) -> None:
    """Without that a client's own outgoing connection takes it once in a while, and the restart fails."""
    with PostgresServer(tmp_path) as server:
        server.kill()
        port = int(server.url.rpartition(":")[2].partition("/")[0])
        with socket.socket() as taker, pytest.raises(OSError, match="in use"):
            taker.bind(("127.0.0.1", port))
        server.start()
