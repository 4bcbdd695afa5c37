"""Worlds made to confuse a deletion: ids that begin with each other, and whatever rows, columns, keys and manifests can hold.

A world is drawn as rows and objects, as they stand in the database and in the store. Whose they are is spelled out here once
more, from the facts of who names what, so that a wrong rule of the service does not agree with itself.
"""

import json
import unicodedata
import uuid
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from sqlalchemy import Engine, insert

from activities.backend.tables import BackendTable
from activities.backend.trace_items import PREPROD
from activities.database import Database
from activities.ledger.schema import LedgerTable
from activities.stores.objects import ObjectStore
from demo.world import ObjectVersion, World
from tests.memory_store import MemoryStore

Row = dict[str, Any]
Place = tuple[int, int]
"""Organization and project."""

# One fewer than usual: each costs a listing, and "other" stands for those that are not searched.
USECASES = ("preprod", "preprod_size")
ORGANIZATIONS = (1, 11, 111)
PROJECTS = (1, 11, 4, 42)
ARTIFACTS = (1, 4, 11, 42, 111, 421, 1111)
# Each table's ids are those of another's: a rule that takes one for the other takes another's row.
SNAPSHOT_METRICS = dict(zip(ARTIFACTS, ARTIFACTS[1:] + ARTIFACTS[:1], strict=True))
SIZE_METRICS = dict(zip(ARTIFACTS, ARTIFACTS[2:] + ARTIFACTS[:2], strict=True))
FILES = (1, 4, 11, 42)
UNKNOWN_FILE = 4242
CHUNK_SIZES = (1, 2, 100)  # artifacts
ROWS_OF_ARTIFACTS = (
    "sentry_preprodartifact",
    "sentry_installablepreprodartifact",
    "sentry_preprodartifactmobileappinfo",
    "sentry_preprodcomparisonapproval",
    "sentry_preprodartifactsizemetrics",
    "sentry_preprodartifactsizecomparison",
    "sentry_preprodsnapshotmetrics",
    "sentry_preprodsnapshotcomparison",
)
NAMING_FILES = {
    "sentry_preprodartifact": ("file_id", "installable_app_file_id"),
    "sentry_preprodartifactsizemetrics": ("analysis_file_id",),
    "sentry_preprodartifactsizecomparison": ("file_id",),
    "sentry_preprodartifactmobileappinfo": ("app_icon_id",),
}
_TRACES = uuid.UUID("31eca038-ed76-4e6d-b13b-ed30a6555213")
_ICON_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
_NFC, _NFD = (unicodedata.normalize(form, "écran Å.png") for form in ("NFC", "NFD"))

# Below an artifact's own prefix everything is its own, however odd.
TAILS = ("manifest.json", "snapshot_head_images.json", "x", " +%20&?#'\"<>", _NFC, _NFD, "日本語/🙂", "a/.hidden/..twice")
# What an S3 server need not be able to hold as keys of their own.
TAILS_OF_NO_FILE_SYSTEM = ("", "//x", "../up", "./here", "a/../../b", "\x01\x7f\t", "back\\slash", "é" * 400)
COMPARISON_TAILS = ("comparison.json", "diff/a.png", f"diff/{_NFC}", f"diff/{_NFD}", "plan.json", "runs/1/attempts/0/lost.png")
ICONS = ("icn_a", "icn_ab", "icn_A", "icn_", "icn_a/b", "icn_é", "icn_a\n", "../42/manifest.json", "007", "٣", "9" * 25, "")
JUNK: tuple[Any, ...] = (
    None,
    True,
    7,
    1e308,
    -(2**70),
    "",
    "/",
    "..",
    [],
    ["manifest_key"],
    {},
    {"key": ["x"]},
    "\ud800",
    "\x00",
)
NO_MANIFESTS = (
    b"",
    b"[]",
    b"null",
    b'{"images": null}',
    b'{"images": [{"diff_mask_key": "x"}]}',
    b'{"images": {"a": {"diff_mask_key": "x',
    b'{"images":' * 20_000,
    b'{"images": {"\xff\xfe": {}}}',
    b'{"images": {"a": ' + b"7" * 5000 + b"}}",
    '{"images": {}}'.encode("utf-16"),
)


@dataclass(frozen=True)
class Drawn:
    """A world before anything happens, and the requests that are made of it."""

    rows: dict[str, list[Row]]
    objects: dict[str, bytes]
    requests: tuple["Asked", ...]
    chunk_artifacts: int
    seal_all_first: bool
    """Every chunk is sealed before the rows of any go, as chunks that run side by side may be."""


@dataclass(frozen=True)
class Asked:
    """A request before it is validated."""

    organization_id: int
    artifact_ids: tuple[int, ...]
    project_id: int | None


def subset(options: Sequence[Any]) -> st.SearchStrategy[list[Any]]:
    """Some of them. One number is far cheaper to draw than a list."""
    every = range(len(options))
    return st.integers(0, 2 ** len(options) - 1).map(lambda bits: [options[place] for place in every if bits >> place & 1])


def scope(usecase: str, place: Place) -> str:
    return f"{usecase}/org.{place[0]}/project.{place[1]}/objects/"


def prefix_of(place: Place, artifact: int) -> str:
    return f"{place[0]}/{place[1]}/{artifact}/"


def moved(prefix: str) -> str:
    """Where an artifact's keys lay if it was in another project once."""
    organization, project, rest = prefix.split("/", 2)
    return f"{organization}/{project}7/{rest}"


def neighbours(place: Place, artifact: int) -> tuple[str, ...]:
    """Physical keys that a sloppy rule takes for the artifact's: another's, no one's, or shared."""
    here, own = scope("preprod", place), prefix_of(place, artifact)
    organization, project = place
    return (
        here + own.rstrip("/"),
        f"{here}{own.rstrip('/')}x/manifest.json",
        f"{here}{prefix_of(place, artifact * 10 + 1)}manifest.json",
        f"{here}{organization}/{project}/0{artifact}/manifest.json",
        f"{here}{organization}/{project}/feed{artifact:060}",
        f"{here}{prefix_of((organization, project * 10 + 1), artifact)}manifest.json",
        f"{here}snapshot_archives/{artifact}.zip.part",
        f"{here}snapshot_archives/{artifact}1.zip",
        f"{here}{organization}/{project}/icn_abc",
        scope("other", place) + own + "manifest.json",
        scope("PREPROD", place) + own + "manifest.json",
        scope("preprod", (organization * 10 + 1, project)) + own + "manifest.json",
        own + "manifest.json",
        f"filestore/{own}blob",
    )


@st.composite
def worlds(draw: st.DrawFn, *, tails: Sequence[str] = TAILS + TAILS_OF_NO_FILE_SYSTEM) -> Drawn:
    """Any world, and any requests to it."""
    organizations = draw(st.lists(st.sampled_from(ORGANIZATIONS), min_size=1, max_size=3, unique=True))
    projects = {
        project: draw(st.sampled_from(organizations))
        for project in draw(st.lists(st.sampled_from(PROJECTS), min_size=1, max_size=4, unique=True))
    }
    artifacts = {
        artifact: draw(st.sampled_from(sorted(projects)))
        for artifact in draw(st.lists(st.sampled_from(ARTIFACTS), min_size=1, max_size=4, unique=True))
    }
    places = {artifact: (projects[project], project) for artifact, project in artifacts.items()}
    rows: dict[str, list[Row]] = {
        "sentry_organization": [{"id": one, "slug": f"org-{one}"} for one in organizations],
        "sentry_project": [{"id": one, "slug": f"p-{one}", "organization_id": of} for one, of in projects.items()],
    }
    pairs = draw(st.lists(st.tuples(*[st.sampled_from(sorted(artifacts))] * 2), min_size=1, max_size=3, unique=True))
    keys = _Keys.of(places, pairs)
    files = _files(draw, rows, organizations)
    objects = _artifacts(draw, rows, places, files, keys, tails)
    _comparisons(draw, rows, places, pairs, files, keys, objects)
    return Drawn(
        {table: found for table, found in rows.items() if found},
        objects,
        tuple(draw(_asked(organizations, places)) for _ in range(draw(st.sampled_from((1, 1, 1, 2))))),
        draw(st.sampled_from((*CHUNK_SIZES, 100))),
        draw(st.booleans()),
    )


@st.composite
def _asked(draw: st.DrawFn, organizations: Sequence[int], places: Mapping[int, Place]) -> Asked:
    """Mostly allowed ones; at times others' artifacts, unknown ones, and any project."""
    organization = draw(st.sampled_from(organizations))
    own = [artifact for artifact, place in places.items() if place[0] == organization]
    unknown = [artifact for artifact in ARTIFACTS if artifact not in places]
    foreign = [artifact for artifact in places if artifact not in own]
    kind = draw(st.integers(0, 9))
    ids = draw(subset(own)) + (draw(subset(unknown)) if kind >= 4 else []) + (draw(subset(foreign)) if kind >= 8 else [])
    project = draw(st.sampled_from(PROJECTS)) if kind in {5, 6, 9} else None
    return Asked(organization, tuple(ids) or tuple((own or unknown or foreign)[:1]), project)


@dataclass(frozen=True)
class _Keys:
    """What columns and manifests name: their own keys, others', no one's, and values that are no key at all."""

    places: Mapping[int, Place]
    everybodys: tuple[Any, ...]

    @classmethod
    def of(cls, places: Mapping[int, Place], pairs: Sequence[tuple[int, int]]) -> "_Keys":
        odd = [
            variant
            for artifact, place in places.items()
            for prefix in [prefix_of(place, artifact)]
            for variant in (
                *(prefix + tail for tail in TAILS),
                prefix,
                prefix.rstrip("/"),
                f"/{prefix}manifest.json",
                f"{prefix}/manifest.json",
                f"{prefix}../{artifact * 10 + 1}/manifest.json",
                f"{prefix}\x00\x1b[2J.png",
                f"{prefix}{'x' * 2000}",
                f"{prefix}\ud800.png",
                f"{prefix}a\\..\\b",
                f"{place[0]}/{place[1]}/{'f' * 64}",
                f"{prefix_of((place[0], place[1] * 10 + 1), artifact)}manifest.json",
                scope("preprod", place) + f"{prefix}manifest.json",
            )
        ]
        compared = [f"{prefix_of(places[head], head)}{base}/{tail}" for head, base in pairs for tail in COMPARISON_TAILS]
        return cls(places, (*odd, *compared, *JUNK))

    def right_or_any(self, right: Sequence[Any]) -> st.SearchStrategy[Any]:
        """The right one more often than not."""
        own = st.sampled_from(right)
        return st.one_of(own, own, st.sampled_from(self.everybodys))

    def named(self, prefix: str, **names: str) -> st.SearchStrategy[Any]:
        """A column that names keys, under these names and with these ends, or anything."""
        keys = st.tuples(*(self.right_or_any([*[prefix + tail] * 5, moved(prefix) + tail]) for tail in names.values()))
        named = keys.map(lambda found: dict(zip(names, found, strict=True)))
        return st.one_of(named, named, named, st.sampled_from(JUNK[:-2]))

    def manifest(self, prefix: str) -> st.SearchStrategy[bytes]:
        """A manifest whose images name masks, or anything."""
        masks = [prefix + tail for tail in COMPARISON_TAILS if "diff/" in tail]
        named = st.lists(self.right_or_any(masks), max_size=4).map(_manifest)
        return st.one_of(named, named, named, st.sampled_from(NO_MANIFESTS))


def _manifest(named: Sequence[Any]) -> bytes:
    images: dict[str, Any] = {f"{place}/é.png": {"status": "changed", "diff_mask_key": key} for place, key in enumerate(named)}
    return json.dumps({"images": images | {"null": None, "list": [], "text": "diff_mask_key"}}).encode()


def _files(draw: st.DrawFn, rows: dict[str, list[Row]], organizations: Sequence[int]) -> list[int | None]:
    """Files that share blobs, and blobs that organizations share. Returns what a column may hold."""
    files = draw(st.sampled_from((FILES[:1], FILES[:1], FILES)))
    blobs = (1, 2, 3)
    rows["sentry_fileblob"] = [{"id": blob, "checksum": f"{blob:040}"} for blob in blobs]
    owners = st.sampled_from((*((one,) for one in organizations), *((one,) for one in organizations), (), tuple(organizations)))
    rows["sentry_fileblobowner"] = [{"blob_id": blob, "organization_id": owner} for blob in blobs for owner in draw(owners)]
    rows["sentry_file"] = [
        {"id": file, "name": "f", "type": "t", "blob_id": draw(st.sampled_from((None, None, None, *blobs)))} for file in files
    ]
    rows["sentry_fileblobindex"] = [
        {"file_id": file, "blob_id": blob, "offset": 0}
        for file in files
        for blob in draw(st.sampled_from(((1,), (1,), (1,), (2,), (1, 2), ())))
    ]
    return [None, *files, UNKNOWN_FILE]


def _artifacts(
    draw: st.DrawFn,
    rows: dict[str, list[Row]],
    places: Mapping[int, Place],
    files: list[int | None],
    keys: _Keys,
    tails: Sequence[str],
) -> dict[str, bytes]:
    """The artifacts' rows; ids of rows that hang from an artifact are the artifact's. Returns their objects."""
    objects: dict[str, bytes] = {}
    file = st.sampled_from(files)
    for artifact, place in places.items():
        kinds = draw(subset(("snapshot", "build", "sizes", "approval", "installable", "snapshot", "snapshot", "evicted")))
        one: Row = {"preprod_artifact_id": artifact}
        add = rows.setdefault
        add("sentry_preprodartifact", []).append(
            {"id": artifact, "project_id": place[1], "file_id": draw(file), "installable_app_file_id": draw(file)}
        )
        if "snapshot" in kinds:
            named = {"manifest_key": "manifest.json", "head_images_key": "snapshot_head_images.json"}
            extras = draw(keys.named(prefix_of(place, artifact), **named))
            add("sentry_preprodsnapshotmetrics", []).append({"id": SNAPSHOT_METRICS[artifact], **one, "extras": extras})
        if "build" in kinds:
            icon = draw(st.sampled_from((None, *map(str, FILES), *ICONS[:2] * 4, *ICONS)))
            add("sentry_preprodartifactmobileappinfo", []).append(
                {"app_icon_id": icon, **one, "extras": draw(st.sampled_from(JUNK[:-2]))}
            )
        if "sizes" in kinds:
            add("sentry_preprodartifactsizemetrics", []).append(
                {"id": SIZE_METRICS[artifact], **one, "analysis_file_id": draw(file)}
            )
        if "approval" in kinds:
            add("sentry_preprodcomparisonapproval", []).append({**one, "extras": draw(st.sampled_from(JUNK[:-2]))})
        if "installable" in kinds:
            add("sentry_installablepreprodartifact", []).append({**one, "url_path": str(artifact)})
        usecases = draw(subset(USECASES))
        for usecase in usecases or ("preprod",):
            here = scope(usecase, place)
            objects |= {here + prefix_of(place, artifact) + tail: b"x" for tail in draw(subset(tails[1:]))}
            objects[f"{here}snapshot_archives/{artifact}.zip"] = b"zip"
            objects[f"{here}{place[0]}/{place[1]}/icn_a"] = b"icon"
            objects[f"{here}{place[0]}/{place[1]}/icn_ab"] = b"icon"
            if "evicted" not in kinds:
                objects[f"{here}{prefix_of(place, artifact)}manifest.json"] = draw(keys.manifest(prefix_of(place, artifact)))
        objects |= dict.fromkeys(draw(subset(neighbours(place, artifact))), b"another's")
        trace = uuid.uuid5(_TRACES, str(artifact)).hex
        for organization, project, kind in ((*place, PREPROD), (*place, PREPROD + 1), (place[0], place[1] + 1, PREPROD)):
            add("trace_items", []).append(
                {"organization_id": organization, "project_id": project, "item_type": kind, "trace_id": trace}
            )
    return objects


def _comparisons(
    draw: st.DrawFn,
    rows: dict[str, list[Row]],
    places: Mapping[int, Place],
    pairs: Sequence[tuple[int, int]],
    files: list[int | None],
    keys: _Keys,
    objects: dict[str, bytes],
) -> None:
    """Comparisons within and across projects and organizations, of one with itself too; some without a row."""
    snapshots = {row["preprod_artifact_id"] for row in rows.get("sentry_preprodsnapshotmetrics", ())}
    sizes = {row["preprod_artifact_id"] for row in rows.get("sentry_preprodartifactsizemetrics", ())}
    for head, base in pairs:
        place = places[head]
        here = scope(draw(st.sampled_from(USECASES)), place) + f"{prefix_of(place, head)}{base}/"
        objects |= {here + tail: b"x" for tail in draw(subset(COMPARISON_TAILS))}
        prefix = f"{prefix_of(place, head)}{base}/"
        objects[f"{here}comparison.json"] = draw(keys.manifest(prefix))
        if {head, base} <= snapshots:
            extras = draw(keys.named(prefix, comparison_key="comparison.json"))
            ends = {"head_snapshot_metrics_id": SNAPSHOT_METRICS[head], "base_snapshot_metrics_id": SNAPSHOT_METRICS[base]}
            rows.setdefault("sentry_preprodsnapshotcomparison", []).append({**ends, "extras": extras})
        if {head, base} <= sizes:
            ends = {"head_size_analysis_id": SIZE_METRICS[head], "base_size_analysis_id": SIZE_METRICS[base]}
            more = {"organization_id": draw(st.sampled_from(ORGANIZATIONS)), "file_id": draw(st.sampled_from(files))}
            rows.setdefault("sentry_preprodartifactsizecomparison", []).append({**ends, **more})


class HostileWorld(World):
    """A drawn world in database and bucket, and whose everything is."""

    first_rows: dict[str, dict[int, Row]]
    first_objects: Collection[str]
    first_places: dict[int, Place]
    accepted: list[Asked]
    """The requests that were not refused, in order, as far as they have come."""

    def put_down(self, drawn: Drawn) -> None:
        """Write all of it; the database's tables and the bucket are empty."""
        self._built.clear()
        with self.engine.begin() as connection:
            for table in BackendTable.metadata.sorted_tables:
                if rows := drawn.rows.get(table.name):
                    connection.execute(insert(table), rows)
        for key, content in drawn.objects.items():
            self._put(key, content)

    def remember(self, rows: dict[str, dict[int, Row]], objects: Collection[str]) -> None:
        """Take what there is now for how it was at first."""
        self.accepted = []
        self.first_rows, self.first_objects = rows, objects
        projects = self.first_rows["sentry_project"]
        self.first_places = {
            artifact: (projects[row["project_id"]]["organization_id"], row["project_id"])
            for artifact, row in self.first_rows["sentry_preprodartifact"].items()
        }

    def must_be_refused(self, asked: Asked) -> bool:
        """It names what exists and is another organization's."""
        project = self.first_rows["sentry_project"].get(asked.project_id or 0)
        alive = self.rows()["sentry_preprodartifact"].keys()
        foreign = {one for one in asked.artifact_ids if one in alive and self.first_places[one][0] != asked.organization_id}
        return bool(foreign) or (project is not None and project["organization_id"] != asked.organization_id)

    def rows_of(self, artifact_ids: Iterable[int]) -> set[tuple[str, int]]:
        """See World."""
        ids, rows = set(artifact_ids), self.first_rows
        owned = {(table, id_) for table in ROWS_OF_ARTIFACTS for id_ in rows[table] if self._artifacts_of(table, id_) & ids}
        traces = {(*place, uuid.uuid5(_TRACES, str(artifact)).hex) for artifact in ids for place in self._places(artifact)}
        owned |= {
            ("trace_items", id_)
            for id_, row in rows["trace_items"].items()
            if row["item_type"] == PREPROD and (row["organization_id"], row["project_id"], row["trace_id"]) in traces
        }
        return owned | self._files_of(ids)

    def _artifacts_of(self, table: str, id_: int) -> set[int]:
        """With any of these artifacts the row goes."""
        row = self.first_rows[table][id_]
        if table == "sentry_preprodartifact":
            return {id_}
        if table == "sentry_preprodsnapshotcomparison":
            metrics, ends = "sentry_preprodsnapshotmetrics", ("head_snapshot_metrics_id", "base_snapshot_metrics_id")
        elif table == "sentry_preprodartifactsizecomparison":
            metrics, ends = "sentry_preprodartifactsizemetrics", ("head_size_analysis_id", "base_size_analysis_id")
        else:
            return {row["preprod_artifact_id"]}
        return {self.first_rows[metrics][row[end]]["preprod_artifact_id"] for end in ends}

    def _files_of(self, ids: Collection[int]) -> set[tuple[str, int]]:
        """Files that no row names any more, unless a blob is others' and not the organization's that took the last such row."""
        rows, going = self.first_rows, set[tuple[str, int]]()
        for file, row in rows["sentry_file"].items():
            naming = [
                self._artifacts_of(table, id_)
                for table, columns in NAMING_FILES.items()
                for id_, namer in rows[table].items()
                if {file, str(file)} & {namer[column] for column in columns}
            ]
            if not naming or not all(namers & set(ids) for namers in naming):
                continue
            taken_by = max(
                min(turn for turn, asked in enumerate(self.accepted) if namers & set(asked.artifact_ids)) for namers in naming
            )
            index = {id_: one["blob_id"] for id_, one in rows["sentry_fileblobindex"].items() if one["file_id"] == file}
            owners = [
                {one["organization_id"] for one in rows["sentry_fileblobowner"].values() if one["blob_id"] == blob}
                for blob in {*index.values(), row["blob_id"]} - {None}
            ]
            if all(not found or self.accepted[taken_by].organization_id in found for found in owners):
                going |= {("sentry_file", file), *(("sentry_fileblobindex", id_) for id_ in index)}
        return going

    def _places(self, artifact: int) -> set[Place]:
        """Where it was, and where accepted requests say that it was, at a time when it had no row."""
        there = {self.first_places[artifact]} if artifact in self.first_places else set()
        had_a_row = bool(there)
        for asked in dict.fromkeys(self.accepted):  # asking twice is asking once
            if artifact in asked.artifact_ids:
                if not had_a_row and asked.project_id is not None:
                    there.add((asked.organization_id, asked.project_id))
                had_a_row = False
        return there

    def objects_of(self, artifact_ids: Iterable[int]) -> set[str]:
        """See World."""
        ids, places, rows = set(artifact_ids), self.first_places, self.first_rows
        artifact_of = {id_: row["preprod_artifact_id"] for id_, row in rows["sentry_preprodsnapshotmetrics"].items()}
        prefixes, exact = [], set()
        for usecase in USECASES:
            for artifact in ids:
                for place in self._places(artifact):
                    prefixes.append(scope(usecase, place) + prefix_of(place, artifact))
                    exact.add(f"{scope(usecase, place)}snapshot_archives/{artifact}.zip")
            for row in rows["sentry_preprodsnapshotcomparison"].values():
                head, base = artifact_of[row["head_snapshot_metrics_id"]], artifact_of[row["base_snapshot_metrics_id"]]
                # What another organization compared with the artifact is that organization's.
                if base in ids and places[head][0] == places[base][0]:
                    prefixes.append(f"{scope(usecase, places[head])}{prefix_of(places[head], head)}{base}/")
            exact |= {scope(usecase, place) + f"{place[0]}/{place[1]}/{icon}" for place, icon in self._icons_of(ids)}
        return {key for key in self.first_objects if key in exact or key.startswith(tuple(prefixes))}

    def _icons_of(self, ids: Collection[int]) -> set[tuple[Place, str]]:
        named: dict[tuple[Place, str], set[int]] = {}
        for row in self.first_rows["sentry_preprodartifactmobileappinfo"].values():
            icon, artifact = row["app_icon_id"] or "", row["preprod_artifact_id"]
            if icon.startswith("icn_") and len(icon) > 4 and set(icon) <= _ICON_CHARACTERS:
                named.setdefault((self.first_places[artifact], icon), set()).add(artifact)
        return {icon for icon, artifacts in named.items() if artifacts <= set(ids)}

    def empty_database(self) -> None:
        """Every table of the backend and of the ledger, for the next example."""
        tables = [*LedgerTable.metadata.sorted_tables, *BackendTable.metadata.sorted_tables]
        with closing(self.engine.raw_connection()) as connection:
            driver: Any = connection.driver_connection
            driver.executescript(
                "BEGIN;"
                + "".join(f"DELETE FROM {table.name};" for table in reversed(tables))
                + "DELETE FROM sqlite_sequence; COMMIT;"
            )


class HostileWorldInMemory(HostileWorld):
    """The same over a store in this process's memory."""

    def __init__(self, engine: Engine, store: MemoryStore) -> None:
        super().__init__(engine, None, "memory")  # type: ignore[arg-type]  # whatever would ask it is below
        self.store = store

    def objects(self) -> dict[str, Any]:
        return dict(self.store.content)

    def object_versions(self) -> dict[str, list[ObjectVersion]]:
        return {}

    def uploads(self) -> Counter[str]:
        return Counter()

    def _put(self, key: str, content: bytes) -> None:
        self.store.content[key] = content


@dataclass(frozen=True)
class Scene:
    """What a drawn world is deleted from."""

    database: Database
    world: HostileWorld
    store: ObjectStore
