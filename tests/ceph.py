"""Ceph's RADOS gateway before a monitor and an OSD that keeps all in memory, from Debian's packages, on 127.0.0.1 only."""

import contextlib
import os
import shutil
import subprocess
import uuid
from collections.abc import Sequence
from pathlib import Path

from demo.servers import S3Server, Server, ServerError, _http_status, listens

_CONFIG = """\
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{monitor_port}]
mon initial members = a
auth cluster required = none
auth service required = none
auth client required = none
# Without authentication the gateway never connects in the default mode.
ms mon client mode = crc secure
ms bind msgr1 = false
run dir = {folder}
admin socket =
log file =
log to stderr = true
mon cluster log to file = false
debug rocksdb = 0/0
# The defaults make each pool of a new cluster wait for seconds.
paxos propose interval = 0.05
paxos min wait = 0.01

[mon]
mon data = {folder}/monitor
mon data avail crit = 0
mon allow pool size one = true
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0

[mon.a]
public addrv = v2:127.0.0.1:{monitor_port}

[osd]
osd data = {folder}/osd
osd objectstore = memstore
# The gateway's first change waits so long for one that was killed.
osd client watch timeout = 10
public addr = 127.0.0.1
cluster addr = 127.0.0.1

[client]
rgw data = {folder}/gateway
rgw frontends = beast endpoint=127.0.0.1:{port}
rgw dns name = {domain}
rgw dynamic resharding = false
"""


class _Monitor(Server):
    name = "monitor"

    def __init__(self, folder: Path, port: int) -> None:
        super().__init__(folder, ports=0)
        self._port = port

    def _prepare(self) -> None:
        (self.folder / "monitor").mkdir()
        _run(self.folder, "ceph-mon", "-i", "a", "--mkfs")

    def _command(self) -> Sequence[str | Path]:
        return _line(self.folder, "ceph-mon", "-i", "a", "-f")

    def _answers(self) -> bool:
        return listens(self._port)


class _Osd(Server):
    name = "osd"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, ports=0)

    def _prepare(self) -> None:
        (self.folder / "osd").mkdir()
        name = str(uuid.uuid4())
        _run(self.folder, "ceph", "osd", "new", name)
        _run(self.folder, "ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", name)

    def _command(self) -> Sequence[str | Path]:
        return _line(self.folder, "ceph-osd", "-i", "0", "-f")

    def _answers(self) -> bool:
        """Without a look: it takes ports of its own choice, and the first user is made when it is up."""
        return True


class CephGateway(S3Server):
    """To kill and start it again leaves the cluster behind it alone, which would lose everything."""

    name = "gateway"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, ports=2)
        self._cluster = contextlib.ExitStack()
        self._is_made = False

    def close(self) -> None:
        super().close()
        self._cluster.close()

    def _prepare(self) -> None:
        if self._is_made:
            return
        port, monitor_port = self._ports
        made = {"fsid": uuid.uuid4(), "folder": self.folder, "port": port, "monitor_port": monitor_port, "domain": self.DOMAIN}
        (self.folder / "ceph.conf").write_text(_CONFIG.format(**made))
        (self.folder / "gateway").mkdir()
        self._cluster.enter_context(_Monitor(self.folder, monitor_port))
        self._cluster.enter_context(_Osd(self.folder))
        user = ("--uid", "admin", "--display-name", "admin", "--access-key", self.access_key, "--secret-key", self.secret_key)
        _run(self.folder, "radosgw-admin", "user", "create", *user)
        self._is_made = True

    def _command(self) -> Sequence[str | Path]:
        return _line(self.folder, "radosgw", "-f")

    def _answers(self) -> bool:
        return _http_status(f"{self.endpoint}/") == 200


def _line(folder: Path, program: str, *arguments: str) -> Sequence[str | Path]:
    binary = shutil.which(program)
    if binary is None:
        raise ServerError(f"{program} is not installed (Debian: apt install radosgw ceph-mon ceph-osd ceph-common)")
    return [binary, "-c", folder / "ceph.conf", *arguments]


def _run(folder: Path, program: str, *arguments: str) -> None:
    """A command that ends; a cluster that does not come up is not waited for to the end of the test."""
    line = _line(folder, program, *arguments)
    environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(folder), "LANG": "C.UTF-8"}
    try:
        subprocess.run(line, env=environment, capture_output=True, text=True, timeout=60, check=True)
    except subprocess.TimeoutExpired:
        raise ServerError(f"{program} did not end in time") from None
    except subprocess.CalledProcessError as error:
        raise ServerError(f"{program} failed: {error.stderr[-2000:]}") from None
