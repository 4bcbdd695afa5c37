"""The image as the Dockerfile builds it, and what runs of it, without Docker: Debian's buildah builds, a chroot confines.

No registry of images is asked: Debian's own Python of the same version stands for the image that the Dockerfile begins from
(`make test-image` makes that base with debootstrap).
"""

import json
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.stack import ROOT

BASE = ROOT / ".image-base"
# A read-only root but for a small /tmp, and no way to more rights: as the manifests have it.
_CONFINED = """
set -e
root=$1 user=$2 folder=$3; shift 3
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
mount --rbind /dev "$root/dev"
mount --rbind /proc "$root/proc"
mount -t tmpfs -o size=16m,mode=1777 tmpfs "$root/tmp"
exec setpriv --no-new-privs chroot --userspec="$user" "$root" env --chdir="$folder" "$@"
"""


class BuildFailed(Exception):
    """A program that builds the image failed, or is not installed. The message ends with what it said."""


@dataclass(frozen=True)
class Image:
    """A built image: its file system, and what it says of itself."""

    root: Path
    config: Mapping[str, Any]

    def start(self, *line: str, environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
        """Start a command as a container of this image would, or without one the image's own."""
        command = ["unshare", "--mount", "sh", "-c", _CONFINED, "sh", *self._place, *(line or self.config["Cmd"])]
        with log.open("wb") as output:
            return subprocess.Popen(command, env=self._environment(environment), stdout=output, stderr=output)

    def run(self, *line: str, environment: Mapping[str, str] | None = None) -> tuple[int, str]:
        """Run a command in a container of its own. Returns its exit code and what it said."""
        return self._ended(["unshare", "--mount", "sh", "-c", _CONFINED, "sh", *self._place, *line], environment or {})

    def run_in(self, container: subprocess.Popen[bytes], *line: str, environment: Mapping[str, str]) -> tuple[int, str]:
        """Run another command in a container that was started, as `kubectl exec` does."""
        root, user, folder = self._place
        entered = ["nsenter", "--mount", f"--target={container.pid}", "chroot", f"--userspec={user}", root]
        return self._ended([*entered, "env", f"--chdir={folder}", *line], environment)

    @property
    def _place(self) -> tuple[str, str, str]:
        return str(self.root), self.config["User"], self.config["WorkingDir"]

    def _environment(self, given: Mapping[str, str]) -> dict[str, str]:
        own = dict(line.split("=", 1) for line in self.config["Env"])
        return {**own, **given, "PATH": own["PATH"]}

    def _ended(self, command: Sequence[str], environment: Mapping[str, str]) -> tuple[int, str]:
        done = subprocess.run(
            command, env=self._environment(environment), capture_output=True, text=True, timeout=60, check=False
        )
        return done.returncode, done.stdout + done.stderr


@dataclass(frozen=True)
class Builder:
    """buildah with layers of its own in a folder, beside any that the machine has."""

    folder: Path

    def begin(self) -> None:
        """Put the base where the Dockerfile looks for it."""
        if not BASE.is_dir():
            raise BuildFailed(f"{BASE.name} is not there: make test-image makes it")
        (name,) = set(re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE))
        empty = self._run("from", "scratch")
        self._run("copy", "--quiet", empty, str(BASE), "/")
        self._run("commit", "--quiet", "--rm", empty, f"docker.io/library/{name}")

    def build(self, *arguments: str) -> Image:
        """Build the Dockerfile, with more arguments for buildah."""
        # The certificates are this machine's, where its way to the package index has some of its own.
        of_base = ("--pull-never", "--volume", "/etc/ssl/certs:/etc/ssl/certs:ro")
        self._run("bud", "--isolation", "chroot", "--format", "docker", *of_base, *arguments, "--tag", "built", str(ROOT))
        container = self._run("from", "--pull-never", "built")
        config = json.loads(self._run("inspect", container))["Docker"]["config"]
        return Image(Path(self._run("mount", container)), config)

    def _run(self, *arguments: str) -> str:
        binary = shutil.which("buildah")
        if binary is None:
            raise BuildFailed("buildah is not installed (Debian: apt install buildah debootstrap)")
        own = ("--root", str(self.folder / "layers"), "--runroot", str(self.folder / "run"), "--storage-driver", "vfs")
        done = subprocess.run([binary, *own, *arguments], capture_output=True, text=True, timeout=300, check=False)
        if done.returncode != 0:
            raise BuildFailed(f"buildah {arguments[0]} failed: {(done.stdout + done.stderr)[-4000:]}")
        return done.stdout.strip()
