"""A believable backend to delete from: rows, objects and trace items, as uploads and comparisons leave them.

Keys and trace ids are spelled out here a second time, and each row and object is put down beside the artifacts that
it goes with: a wrong rule in the service can then not agree with itself. `World.rows_of` and `World.objects_of` are
that record.
"""

from __future__ import annotations

import hashlib
import io
import json
import uuid
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageChops, ImageDraw
from sqlalchemy import Engine, select, text
from sqlalchemy.orm import Session

from activities.backend import tables
from activities.backend.tables import BackendTable
from activities.backend.trace_items import PREPROD, TraceItem

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

SCOPE_TEMPLATE = "{usecase}/org.{organization_id}/project.{project_id}/objects/"
SNAPSHOTS = "preprod"
"""The usecase that snapshots live in; newer ones live in `snapshots`."""
ICONS = "preprod_size"
FILE_ICON = "file"
STATUSES = ("added", "removed", "changed", "unchanged", "errored", "renamed", "skipped")

_PUTS = 8  # an object takes SeaweedFS some 5 ms, most of them waiting
_SIZE = _WIDTH, _HEIGHT = 64, 48
_TRACES = uuid.UUID("31eca038-ed76-4e6d-b13b-ed30a6555213")


def create_schema(engine: Engine) -> None:
    """Create the backend's tables. A real backend has its own migrations for them."""
    BackendTable.metadata.create_all(engine)


@dataclass(frozen=True, slots=True)
class Project:
    id: int
    organization_id: int
    slug: str


@dataclass(frozen=True, slots=True)
class Place:
    """An artifact, and where its objects lie."""

    organization_id: int
    project_id: int
    id: int

    @property
    def prefix(self) -> str:
        """Of all its objects but the archive."""
        return f"{self.organization_id}/{self.project_id}/{self.id}/"

    def comparison_prefix(self, base_id: int) -> str:
        """Of its comparison with a base."""
        return f"{self.prefix}{base_id}/"

    @property
    def archive_key(self) -> str:
        """Of its images."""
        return f"snapshot_archives/{self.id}.zip"

    @property
    def trace_id(self) -> str:
        """Of its trace items."""
        return uuid.uuid5(_TRACES, str(self.id)).hex


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot artifact. `images` are those of its own manifest; a selective one inherits the others when shown."""

    artifact: Place
    metrics_id: int
    usecase: str
    images: Mapping[str, bytes]
    selective: bool
    manifest_key: str

    @property
    def id(self) -> int:
        return self.artifact.id


@dataclass(frozen=True, slots=True)
class Comparison:
    """A comparison. Keys are relative to its scope; `id` is None where the row was never committed."""

    id: int | None
    head: Place
    base: Place
    usecase: str
    key: str
    mask_keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Build:
    artifact: Place
    size_metrics_ids: tuple[int, ...]
    file_ids: tuple[int, ...]
    app_icon_id: str | None

    @property
    def id(self) -> int:
        return self.artifact.id


@dataclass(frozen=True, slots=True)
class ObjectVersion:
    id: str
    is_marker: bool


@dataclass(slots=True)
class _Draft:
    """What one builder adds: the session of its rows, and the objects to put once they are committed."""

    session: Session
    objects: dict[str, bytes] = field(default_factory=dict)

    def add(self, row: BackendTable) -> int:
        """Insert the row and return its id."""
        self.session.add(row)
        self.session.flush()
        return int(row.id)  # type: ignore[attr-defined]  # every table of the backend has one


class World:
    """Builds the backend's data. Every method commits its rows, puts its objects, and returns when both are there."""

    def __init__(self, engine: Engine, s3_client: S3Client, bucket: str, scope_template: str = SCOPE_TEMPLATE) -> None:
        self.engine = engine
        self.s3_client = s3_client
        self.bucket = bucket
        self.scope_template = scope_template
        self._pool = ThreadPoolExecutor(_PUTS, thread_name_prefix="world")
        self._shared_images: set[str] = set()
        self._file_rows: dict[int, tuple[tuple[str, int], ...]] = {}
        self._row_owners: dict[tuple[str, int], set[int]] = {}
        self._object_owners: dict[str, set[int]] = {}
        self._icon_owners: dict[str, set[int]] = {}
        self._built: set[str] = set()

    def organization(self, slug: str) -> int:
        with self._draft() as draft:
            return draft.add(tables.Organization(slug=slug))

    def project(self, organization_id: int, slug: str) -> Project:
        with self._draft() as draft:
            row = tables.Project(slug=slug, organization_id=organization_id)
            return Project(draft.add(row), organization_id, slug)

    def commit(
        self,
        organization_id: int,
        sha: str,
        made_of: str | None = None,
        *,
        repository: str = "acme/shop",
        fork_of: str | None = None,
    ) -> int:
        """A commit, and the one that it was made from; it is no artifact's own. Returns the id that a snapshot refers to."""
        with self._draft() as draft:
            row = tables.CommitComparison(
                organization_id=organization_id,
                head_sha=sha,
                base_sha=made_of,
                head_repo_name=repository,
                base_repo_name=fork_of,
            )
            return draft.add(row)

    def snapshot(
        self,
        project: Project,
        images: Mapping[str, bytes],
        *,
        usecase: str = SNAPSHOTS,
        old_format: bool = False,
        base: Snapshot | None = None,
        commit: int | None = None,
        id: int | None = None,  # noqa: A002  # what the column is called
        puts_images: bool = True,
        before_commit: Callable[[Session, Place], None] = lambda _session, _artifact: None,
    ) -> Snapshot:
        """Upload a snapshot; with `base`, a selective one that has only the images that were taken anew.

        Without `puts_images` its client has seen to them. `before_commit` is called in the transaction that commits it.
        """
        folder = f"{project.organization_id}/{project.id}"
        hashes = {name: _hash(png) for name, png in images.items()}
        manifest: dict[str, Any] = {"images": _manifest_images(hashes, old_format=old_format)}
        if not old_format:
            manifest |= {"diff_threshold": 0.01, "selective": base is not None}
        if base is not None:
            manifest["all_image_file_names"] = sorted({*base.images, *images})
        with self._draft() as draft:
            artifact = self._artifact(draft, project, id, app_id="com.example.shop", commit_comparison_id=commit)
            prefix = f"{folder}/{artifact.id}"
            contents = {f"{prefix}/manifest.json": _json(manifest)}
            extras = {"manifest_key": f"{prefix}/manifest.json"}
            if not old_format:
                extras["head_images_key"] = f"{prefix}/snapshot_head_images.json"
                contents[extras["head_images_key"]] = _json({"schema_version": 1, **_head_images(hashes)})
            contents[f"snapshot_archives/{artifact.id}.zip"] = _archive(images)
            self._objects(draft, artifact, usecase, contents, {artifact.id})
            for name, png in images.items():
                key = self.physical(usecase, project.organization_id, project.id, f"{folder}/{hashes[name]}")
                if puts_images and key not in self._shared_images:
                    self._shared_images.add(key)
                    draft.objects[key] = png
            metrics_id = self._row(
                draft,
                tables.SnapshotMetrics(
                    preprod_artifact_id=artifact.id,
                    image_count=len(images),
                    is_selective=base is not None,
                    extras=extras,
                ),
                {artifact.id},
            )
            self._trace_items(draft, artifact, len(images))
            before_commit(draft.session, artifact)
        return Snapshot(artifact, metrics_id, usecase, dict(images), base is not None, extras["manifest_key"])

    def comparison(
        self,
        head: Snapshot,
        base: Snapshot,
        *,
        masks: int | Mapping[str, bytes] | None = None,
        manifest: bytes | None = None,
        chunks: int = 2,
        versioned: bool = False,
        committed: bool = True,
        usecase: str | None = None,
    ) -> Comparison:
        """Compare two snapshots of a project.

        `masks` are drawn from the images that changed, unless they are given, by image name or as a number of small
        ones. `manifest` is stored instead of the report, to be unreadable or hostile. A `versioned` comparison keeps
        report and masks below `runs/`, where the others have only a run that lost. Without `committed` it has no row.
        """
        artifact, usecase = head.artifact, usecase or head.usecase
        # Without a row nothing tells, when the base goes, that this is there: it lies under the head's prefix and goes with it.
        owners = {head.id, base.id} if committed else {head.id}
        prefix = f"{artifact.organization_id}/{artifact.project_id}/{head.id}/{base.id}"
        run = f"{prefix}/runs/{uuid.uuid4().hex}"
        home = run if versioned else prefix

        images = _compare(head, base)
        masks = _masks(images, head, base, masks)
        mask_keys = {name: f"{home}/diff/{name.removesuffix('.png')}.png" for name in masks}
        for name, key in mask_keys.items():
            images[name] = {**images.get(name, {}), "status": "changed", "diff_mask_key": key}
        seen = {image["status"] for image in images.values()}
        images |= {f"{status}.png": {"status": status} for status in STATUSES if status not in seen}
        counts = Counter(image["status"] for image in images.values())

        ids = {"head_artifact_id": head.id, "base_artifact_id": base.id}
        report = _json({**ids, "summary": {"total": len(images), **counts}, "images": images})
        pairs = sorted(mask_keys)
        contents = {
            f"{home}/comparison.json": report if manifest is None else manifest,
            f"{prefix}/snapshot_comparison_response.json": _json({"schema_version": 1, **ids, "images": images}),
            f"{prefix}/plan.json": _json({**ids, "chunks": chunks}),
            **{f"{prefix}/chunks/{n}.json": _json({"chunk_index": n, "images": pairs[n::chunks]}) for n in range(chunks)},
            f"{run}/plan.json": _json({**ids, "schema_version": 2, "chunks": chunks}),
            f"{run}/assignments/0.json": _json({"chunk_index": 0, "candidates": pairs}),
            f"{run}/attempts/0/lost.png": diff_mask(screen("home"), screen("home", 1)),
            **{key: masks[name] for name, key in mask_keys.items()},
        }
        with self._draft() as draft:
            self._objects(draft, artifact, usecase, contents, owners)
            row = tables.SnapshotComparison(
                head_snapshot_metrics_id=head.metrics_id,
                base_snapshot_metrics_id=base.metrics_id,
                extras={"comparison_key": f"{home}/comparison.json"},
                **{f"images_{status}": counts[status] for status in STATUSES[:4]},
                images_renamed=counts["renamed"],
            )
            row_id = self._row(draft, row, owners) if committed else None
        return Comparison(row_id, artifact, base.artifact, usecase, f"{home}/comparison.json", tuple(mask_keys.values()))

    def mobile_build(
        self,
        project: Project,
        *,
        icon: str | None = FILE_ICON,
        app_name: str = "Shop",
        version: str = "1.0",
        id: int | None = None,  # noqa: A002  # what the column is called
    ) -> Build:
        """Upload a mobile build with its files and the size analyses of app and watch app.

        The icon is a file, or, given an `icn_…` id, an object; any other text just stands in the column. Builds of
        one app have the same icon, so that its blob is shared by several files.
        """
        organization_id = project.organization_id
        unique = f"{app_name} {version} {uuid.uuid4()}"
        with self._draft() as draft:
            app, installable, main, watch = (
                self._file(draft, organization_id, f"{kind}.bin", f"preprod.{kind}", f"{kind} of {unique}".encode() * 20)
                for kind in ("artifact", "installable", "size_main", "size_watch")
            )
            file_ids = [app, installable, main, watch]
            if icon == FILE_ICON:
                file_ids.append(self._file(draft, organization_id, "icon.png", "preprod.icon", screen(app_name)))
                icon = str(file_ids[-1])
            artifact = self._artifact(
                draft, project, id, app_id="com.example.app", file_id=app, installable_app_file_id=installable
            )
            info = tables.MobileAppInfo(
                preprod_artifact_id=artifact.id, app_name=app_name, build_version=version, app_icon_id=icon
            )
            self._row(draft, info, {artifact.id})
            metrics_ids = tuple(
                self._row(
                    draft,
                    tables.SizeMetrics(preprod_artifact_id=artifact.id, metrics_artifact_type=kind, analysis_file_id=file_id),
                    {artifact.id},
                )
                for kind, file_id in enumerate((main, watch))
            )
            if icon is not None and icon.startswith("icn_"):
                key = self.physical(ICONS, organization_id, project.id, f"{organization_id}/{project.id}/{icon}")
                draft.objects[key] = screen(app_name)
                self._icon_owners.setdefault(key, set()).add(artifact.id)
            self._own_files(file_ids, {artifact.id})
            self._trace_items(draft, artifact, len(metrics_ids))
        return Build(artifact, metrics_ids, tuple(file_ids), icon)

    def size_comparison(self, head: Build, base: Build) -> int:
        """Compare the main apps of two builds, with the result in a file."""
        owners = {head.id, base.id}
        with self._draft() as draft:
            result = f"size of {head.id} against {base.id}".encode() * 10
            file_id = self._file(draft, head.artifact.organization_id, "sizes.json", "preprod.size_comparison", result)
            self._own_files([file_id], owners)
            row = tables.SizeComparison(
                organization_id=head.artifact.organization_id,
                file_id=file_id,
                head_size_analysis_id=head.size_metrics_ids[0],
                base_size_analysis_id=base.size_metrics_ids[0],
            )
            return self._row(draft, row, owners)

    def approval(self, of: Snapshot | Build) -> int:
        with self._draft() as draft:
            row = tables.ComparisonApproval(preprod_artifact_id=of.id, approval_status=1, extras={"auto": False})
            return self._row(draft, row, {of.id})

    def installable(self, of: Snapshot | Build) -> int:
        with self._draft() as draft:
            row = tables.InstallableArtifact(preprod_artifact_id=of.id, url_path=uuid.uuid4().hex, download_count=3)
            return self._row(draft, row, {of.id})

    def physical(self, usecase: str, organization_id: int, project_id: int, key: str) -> str:
        """The key in the bucket of a key in a scope."""
        scope = self.scope_template.format(usecase=usecase, organization_id=organization_id, project_id=project_id)
        return scope + key

    def rows(self) -> dict[str, dict[int, dict[str, Any]]]:
        """Every row of every table of the backend, trace items too."""
        with self.engine.connect().execution_options(begin="BEGIN") as connection:  # on SQLite, waits for no writer
            return {
                table.name: {row["id"]: dict(row) for row in connection.execute(select(table)).mappings()}
                for table in BackendTable.metadata.sorted_tables
            }

    def objects(self) -> dict[str, tuple[str, int]]:
        """Etag and size of every object in the bucket."""
        pages = self.s3_client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        return {found["Key"]: (found["ETag"], found["Size"]) for page in pages for found in page.get("Contents", ())}

    def object_versions(self) -> dict[str, list[ObjectVersion]]:
        """Every version and delete marker in the bucket: an object is gone when its key is not in here."""
        found: dict[str, list[ObjectVersion]] = {}
        for page in self.s3_client.get_paginator("list_object_versions").paginate(Bucket=self.bucket):
            for version in page.get("Versions", ()):
                found.setdefault(version["Key"], []).append(ObjectVersion(version["VersionId"], is_marker=False))
            for marker in page.get("DeleteMarkers", ()):
                found.setdefault(marker["Key"], []).append(ObjectVersion(marker["VersionId"], is_marker=True))
        return found

    def uploads(self) -> Counter[str]:
        """How many multipart uploads of each key were begun and not completed."""
        pages = self.s3_client.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket)
        return Counter(found["Key"] for page in pages for found in page.get("Uploads", ()))

    def rows_of(self, artifact_ids: Iterable[int]) -> set[tuple[str, int]]:
        """The rows, as table and id, that a deletion of the artifacts must take, and no others."""
        ids = set(artifact_ids)
        return {row for row, owners in self._row_owners.items() if owners & ids}

    def objects_of(self, artifact_ids: Iterable[int]) -> set[str]:
        """The physical keys that a deletion of the artifacts must take, and no others: neither images nor blobs."""
        ids = set(artifact_ids)
        icons = {key for key, owners in self._icon_owners.items() if owners <= ids}
        return icons | {key for key, owners in self._object_owners.items() if owners & ids}

    def built(self) -> tuple[set[tuple[str, int]], set[str]]:
        """The rows of artifacts, as table and id, and the physical keys that were ever put here, images and blobs too."""
        return set(self._row_owners), set(self._built)

    @contextmanager
    def _draft(self) -> Iterator[_Draft]:
        """Rows first, for their ids are in the keys. A real uploader learns the id from its first request."""
        with Session(self.engine) as session, session.begin():
            yield (draft := _Draft(session))
        for _ in self._pool.map(self._put, draft.objects, draft.objects.values()):
            pass

    def _put(self, key: str, content: bytes) -> None:
        self._built.add(key)
        self.s3_client.put_object(Bucket=self.bucket, Key=key, Body=content)

    def _row(self, draft: _Draft, row: BackendTable, owners: set[int]) -> int:
        row_id = draft.add(row)
        self._row_owners[row.__tablename__, row_id] = owners
        return row_id

    def _objects(self, draft: _Draft, artifact: Place, usecase: str, contents: Mapping[str, bytes], owners: set[int]) -> None:
        for key, content in contents.items():
            physical = self.physical(usecase, artifact.organization_id, artifact.project_id, key)
            draft.objects[physical] = content
            self._object_owners[physical] = owners

    def _artifact(self, draft: _Draft, project: Project, artifact_id: int | None, **columns: int | str | None) -> Place:
        row = tables.Artifact(id=artifact_id, project_id=project.id, state=3, **columns)
        added = draft.add(row)
        if artifact_id is not None and self.engine.dialect.name == "postgresql":
            # An id that was given does not move the sequence, which would hand it out once more.
            sequence = "sentry_preprodartifact_id_seq"
            draft.session.execute(
                text(f"SELECT setval('{sequence}', GREATEST(:id, last_value)) FROM {sequence}"),  # noqa: S608
                {"id": artifact_id},
            )
        self._row_owners["sentry_preprodartifact", added] = {added}
        return Place(project.organization_id, project.id, added)

    def _trace_items(self, draft: _Draft, artifact: Place, count: int) -> None:
        for _ in range(count):
            item = TraceItem(
                organization_id=artifact.organization_id,
                project_id=artifact.project_id,
                item_type=PREPROD,
                trace_id=uuid.uuid5(_TRACES, str(artifact.id)).hex,
            )
            self._row(draft, item, {artifact.id})

    def _file(self, draft: _Draft, organization_id: int, name: str, kind: str, content: bytes) -> int:
        """Add a file. Its blob is found again by checksum, as the backend's file store does."""
        checksum = hashlib.sha1(content, usedforsecurity=False).hexdigest()
        blob_id = draft.session.scalar(select(tables.FileBlob.id).filter_by(checksum=checksum))
        if blob_id is None:
            path = f"{checksum[:2]}/{uuid.uuid4().hex}"
            blob_id = draft.add(tables.FileBlob(path=path, size=len(content), checksum=checksum))
            draft.objects[f"filestore/{path}"] = content
        file_id = draft.add(tables.File(name=name, type=kind, size=len(content), checksum=checksum))
        index_id = draft.add(tables.FileBlobIndex(file_id=file_id, blob_id=blob_id, offset=0))
        owner = {"organization_id": organization_id, "blob_id": blob_id}
        if draft.session.scalar(select(tables.FileBlobOwner.id).filter_by(**owner)) is None:
            draft.add(tables.FileBlobOwner(**owner))
        self._file_rows[file_id] = (("sentry_file", file_id), ("sentry_fileblobindex", index_id))
        return file_id

    def _own_files(self, file_ids: Iterable[int], owners: set[int]) -> None:
        self._row_owners |= {row: owners for file_id in file_ids for row in self._file_rows[file_id]}


def screen(name: str, seed: int = 0) -> bytes:
    """A screenshot as PNG: the name decides on the look, the seed on what stands there today."""
    tint = tuple(90 + byte % 120 for byte in hashlib.sha256(name.encode()).digest()[:3])
    words = hashlib.sha256(f"{name} {seed}".encode()).digest()
    image = Image.new("RGB", _SIZE, "#f7f7fa")
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, _WIDTH, 7), fill=tint)
    draw.rectangle((3, 3, 8 + words[0] % 20, 4), fill="white")
    if "login" in name.lower():
        for top in (13, 22):
            draw.rectangle((10, top, 53, top + 6), fill="white", outline="#b8b8c8")
            draw.rectangle((13, top + 3, 16 + words[top] % 30, top + 3), fill="#555566")
        draw.rectangle((10, 33, 53, 40), fill=tint)
    elif "checkout" in name.lower():
        for row, top in enumerate(range(12, 34, 6)):
            draw.rectangle((4, top, 12 + words[row] % 28, top + 1), fill="#555566")
            draw.rectangle((60 - words[row + 8] % 12, top, 60, top + 1), fill=tint)
        draw.rectangle((36, 38, 60, 44), fill="#2e9e5b")
    elif "settings" in name.lower():
        for row, top in enumerate(range(12, 44, 7)):
            draw.rectangle((4, top + 1, 14 + words[row] % 24, top + 2), fill="#555566")
            draw.rectangle((50, top, 60, top + 4), fill=tint if words[row + 8] % 2 else "#c8c8d4")
    else:
        for card in range(6):
            left, top = 4 + card % 3 * 20, 11 + card // 3 * 18
            draw.rectangle((left, top, left + 16, top + 14), fill="white", outline="#d8d8e4")
            draw.rectangle((left + 3, top + 3, left + 13, top + 8), fill=tuple(words[card * 3 : card * 3 + 3]))
            draw.rectangle((left + 3, top + 11, left + 5 + words[card + 20] % 8, top + 11), fill="#555566")
    return _png(image)


def diff_mask(before: bytes, after: bytes) -> bytes:
    """The mask of the pixels that differ, as PNG."""
    with Image.open(io.BytesIO(before)) as old, Image.open(io.BytesIO(after)) as new:
        difference = ImageChops.difference(old.convert("RGB"), new.convert("RGB")).convert("L")
    return _png(difference.point([0] + [255] * 255))


def _png(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def _hash(png: bytes) -> str:
    return hashlib.sha256(png).hexdigest()


def _json(content: object) -> bytes:
    return json.dumps(content, ensure_ascii=False).encode()


def _archive(images: Mapping[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, png in images.items():
            archive.writestr(zipfile.ZipInfo(name), png)
    return content.getvalue()


def _title(name: str) -> str:
    return name.removesuffix(".png").replace("/", " ").capitalize()


def _manifest_images(hashes: Mapping[str, str], *, old_format: bool) -> dict[str, Any]:
    size = {"width": _WIDTH, "height": _HEIGHT}
    if old_format:
        return {found: {"display_name": _title(name), "file_name": name, **size} for name, found in hashes.items()}
    return {name: {"content_hash": found, "display_name": _title(name), **size} for name, found in hashes.items()}


def _head_images(hashes: Mapping[str, str]) -> dict[str, Any]:
    images = _manifest_images(hashes, old_format=False)
    return {"images": [{"image_file_name": name, "key": hashes[name], **images[name]} for name in sorted(images)]}


def _masks(
    images: Mapping[str, dict[str, Any]], head: Snapshot, base: Snapshot, masks: int | Mapping[str, bytes] | None
) -> Mapping[str, bytes]:
    if masks is None:
        changed = (name for name, image in images.items() if image["status"] == "changed")
        return {name: diff_mask(base.images[name], head.images[name]) for name in changed}
    if isinstance(masks, int):
        small = diff_mask(screen("login"), screen("login", 1))
        return {f"screen-{number:05}.png": small for number in range(masks)}
    return masks


def _compare(head: Snapshot, base: Snapshot) -> dict[str, dict[str, Any]]:
    """What became of each image. Base images that a selective head lacks were skipped, not removed."""
    ours, theirs = ({name: _hash(png) for name, png in one.images.items()} for one in (head, base))
    moved = {found: name for name, found in theirs.items() if name not in ours}
    images: dict[str, dict[str, Any]] = {}
    for name, found in ours.items():
        if name in theirs:
            status = "unchanged" if theirs[name] == found else "changed"
            images[name] = {"status": status, "head_hash": found, "base_hash": theirs[name]}
        elif found in moved:
            images[name] = {"status": "renamed", "head_hash": found, "previous_image_file_name": moved.pop(found)}
        else:
            images[name] = {"status": "added", "head_hash": found}
    for found, name in moved.items():
        images[name] = {"status": "skipped" if head.selective else "removed", "base_hash": found}
    return images


@dataclass(frozen=True, slots=True)
class Sample:
    """The demo's world: one project of `organization_id` loses three artifacts, all others stay as they are."""

    organization_id: int
    other_organization_id: int
    project: Project
    projects: tuple[Project, ...]
    snapshots: tuple[Snapshot, ...]
    builds: tuple[Build, ...]
    comparisons: tuple[Comparison, ...]
    to_delete: tuple[int, ...]
    to_keep: tuple[int, ...]


def sample_world(world: World) -> Sample:
    """Two organizations whose artifacts are tied to each other in every way that a deletion has to untie or respect."""
    acme, globex = world.organization("acme"), world.organization("globex")
    shop, site = world.project(acme, "shop-app"), world.project(acme, "website")
    intranet = world.project(globex, "intranet")

    names = ("login.png", "checkout/cart.png", "checkout/payment.png", "settings.png", "Écran d'accueil.png")
    screens = {name: screen(name) for name in names}
    second = {**screens, "login.png": screen("login.png", 1), "search.png": screen("search.png")}
    third = {**second, "checkout/cart.png": screen("checkout/cart.png", 1), "preferences.png": screens["settings.png"]}
    del third["settings.png"], third["search.png"]

    first_of_shop = world.snapshot(shop, screens)
    second_of_shop = world.snapshot(shop, second)
    third_of_shop = world.snapshot(shop, third, commit=world.commit(acme, "3c8f"))
    fourth_commit = world.commit(acme, "4d90", made_of="3c8f")
    fourth_of_shop = world.snapshot(shop, {"login.png": screen("login.png", 2)}, base=third_of_shop, commit=fourth_commit)
    old_of_site = world.snapshot(site, screens, old_format=True)
    new_of_site = world.snapshot(site, second)
    old_of_intranet = world.snapshot(intranet, screens)
    new_of_intranet = world.snapshot(intranet, second, usecase="snapshots")
    comparisons = (
        world.comparison(second_of_shop, first_of_shop),
        world.comparison(third_of_shop, second_of_shop, versioned=True),
        world.comparison(third_of_shop, first_of_shop),
        world.comparison(fourth_of_shop, third_of_shop),
        world.comparison(fourth_of_shop, first_of_shop),
        world.comparison(new_of_site, old_of_site),
        world.comparison(new_of_intranet, old_of_intranet),
    )
    build = world.mobile_build(shop, icon="icn_9f2c41d07be3", version="1.0")
    next_build = world.mobile_build(shop, version="1.1")
    other_build = world.mobile_build(intranet, icon="icn_9f2c41d07be3", version="1.0")
    world.size_comparison(next_build, build)
    for approved in (second_of_shop, fourth_of_shop, new_of_intranet):
        world.approval(approved)
    for offered in (build, next_build):
        world.installable(offered)

    snapshots = (
        first_of_shop, second_of_shop, third_of_shop, fourth_of_shop,
        old_of_site, new_of_site, old_of_intranet, new_of_intranet,
    )  # fmt: skip
    builds = (build, next_build, other_build)
    to_delete = (second_of_shop.id, third_of_shop.id, build.id)
    to_keep = tuple(one.id for one in (*snapshots, *builds) if one.id not in to_delete)
    return Sample(acme, globex, shop, (shop, site, intranet), snapshots, builds, comparisons, to_delete, to_keep)
