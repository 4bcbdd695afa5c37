"""The examples of handlers as a stranger serves them: copied, with a check of who may delete, and no packages but theirs."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import make_url

from demo.servers import Server, listens
from tests.environments import make_environment
from tests.stack import ROOT, Stack

CONTRACT = ("psycopg", "psycopg-binary", "pydantic", "sqlalchemy", "temporalio")

# What a stranger writes beside the copied example: who may delete, and how long a caller waits.
FASTAPI = """
from datetime import timedelta

from fastapi import HTTPException
from fastapi_delete import BackendRow, create_app, may_delete

def application():
    made = create_app(deadline=timedelta(seconds=given["deadline"]))
    made.dependency_overrides[may_delete] = only_here
    return made

def only_here(organization_id: int) -> str:
    if organization_id != given["organization"]:
        raise HTTPException(403)
    return "user:7"
"""
FLASK = """
from datetime import timedelta

import flask
import flask_delete

def only_here(organization_id):
    if organization_id != given["organization"]:
        flask.abort(403)
    return "user:7"

flask_delete.may_delete = only_here
flask_delete.DEADLINE = timedelta(seconds=given["deadline"])
application = flask_delete.create_app()
"""
DJANGO = """
from datetime import timedelta

from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.core.wsgi import get_wsgi_application

database = {name: given[name] for name in ("ENGINE", "NAME", "HOST", "PORT", "USER", "PASSWORD")}
database["ATOMIC_REQUESTS"] = True
settings.configure(ALLOWED_HOSTS=["127.0.0.1"], DATABASES={"default": database}, ROOT_URLCONF="django_delete", USE_TZ=True)
application = get_wsgi_application()

import django_delete

def only_here(http, organization_id):
    if organization_id != given["organization"]:
        raise PermissionDenied
    return "user:7"

django_delete.may_delete = only_here
django_delete.DEADLINE = timedelta(seconds=given["deadline"])
"""


@dataclass(frozen=True)
class Site:
    """An example, the packages that it names, the program beside it, and the command that serves it."""

    example: str
    packages: Sequence[str]
    program: str
    serve: Sequence[str]


UVICORN = ("uvicorn", "--factory", "--workers=2", "--port={port}", "site_:application")
GUNICORN = ("gunicorn", "--bind=127.0.0.1:{port}", "site_:application")
SITES = {
    "fastapi": Site("fastapi_delete", ("fastapi", "uvicorn"), FASTAPI, UVICORN),
    # Made before the fork, and after it.
    "flask": Site("flask_delete", ("flask", "gunicorn"), FLASK, (*GUNICORN, "--workers=4", "--threads=50", "--preload")),
    "django": Site("django_delete", ("django", "gunicorn"), DJANGO, (*GUNICORN, "--workers=2", "--threads=25")),
}


class WebServer(Server):
    """A site of several processes, over a test's own database and Temporal server."""

    name = "site"

    def __init__(self, folder: Path, site: Site, stack: Stack, deadline: float) -> None:
        super().__init__(folder, ports=1)
        self._site, self._stack, self._deadline = site, stack, deadline
        self._python = make_environment(folder / "environment", [*CONTRACT, *site.packages], complete=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._ports[0]}"

    def _prepare(self) -> None:
        shutil.copytree(ROOT / "artifact_deletion", self.folder / "artifact_deletion", dirs_exist_ok=True)
        shutil.copy(ROOT / "examples" / f"{self._site.example}.py", self.folder)
        (self.folder / "site_.py").write_text(f"given = {self._given()!r}\n{self._site.program}")

    def _given(self) -> dict[str, object]:
        url = make_url(self._stack.database_url)
        return {
            "organization": self._stack.organization_id,
            "deadline": self._deadline,
            "ENGINE": f"django.db.backends.{'sqlite3' if url.drivername == 'sqlite' else 'postgresql'}",
            "NAME": url.database,
            "HOST": url.host or "",
            "PORT": str(url.port or ""),
            "USER": url.username or "",
            "PASSWORD": url.password or "",
        }

    def _command(self) -> Sequence[str | Path]:
        url = make_url(self._stack.database_url).render_as_string(hide_password=False)
        variables = [f"DATABASE_URL={url}", *(f"{name}={value}" for name, value in self._stack.temporal_environment().items())]
        return ["env", *variables, self._python, "-m", *(part.format(port=self._ports[0]) for part in self._site.serve)]

    def _answers(self) -> bool:
        return listens(self._ports[0])
