"""Everything that can be set, read once from the environment.

Temporal's address, namespace, TLS and API key are not among these: they are Temporal's own variables and profile file
(`temporalio.envconfig`), the same for every client of a cluster.
"""

import re
import sys
from datetime import timedelta
from pathlib import Path
from string import Formatter
from typing import Annotated, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

PREFIX = "ARTIFACT_DELETION_"
_SCOPE_FIELDS = {"usecase", "organization_id", "project_id"}


def _database_url(value: SecretStr) -> SecretStr:
    try:
        dialect = make_url(value.get_secret_value()).drivername
    except (ArgumentError, ValueError):  # a port that is none, which can be the end of a password
        raise ValueError("must be a SQLAlchemy URL, such as postgresql+psycopg://host/name") from None
    if dialect not in {"postgresql+psycopg", "sqlite", "sqlite+pysqlite"}:
        raise ValueError("must begin with postgresql+psycopg:// or sqlite://")
    return value


def _scope_template(value: str) -> str:
    try:
        fields = {name for _, name, _, _ in Formatter().parse(value) if name is not None}
    except ValueError:
        fields = set()
    if fields != _SCOPE_FIELDS or not value.endswith("/"):
        raise ValueError("must name {usecase}, {organization_id} and {project_id}, and end with a slash")
    return value


def _file(value: Path) -> Path:
    if value.is_dir():
        raise ValueError("must be a file")
    return value


def _usecases(value: object) -> object:
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


def _like(pattern: str, form: str) -> AfterValidator:
    """Refuses a text of another form, in words that a person can follow."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(f"must be {form}")
        return value

    return AfterValidator(check)


Count = Annotated[int, Field(gt=0, le=10_000)]
Segment = Annotated[
    str, _like(r"[A-Za-z0-9_.-]+", "names of letters, digits, “_”, “.” and “-” with commas between, such as preprod,snapshots")
]
_LONGEST_S = 24 * 86_400
"""The longest timeout that PostgreSQL takes, in whole days."""
Seconds = Annotated[float, Field(gt=0, le=_LONGEST_S)]
_HOST = r"([A-Za-z0-9]+((\.|-+)[A-Za-z0-9]+)*|\[[0-9A-Fa-f:]+\])"
"""As botocore takes it: without underscores."""


class AdaptersSettings(BaseSettings):
    """What every process needs that speaks with Temporal."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, hide_input_in_errors=True, frozen=True)

    adapters: Annotated[str, _like(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", "module:name, such as my_adapters:adapters")] | None = (
        Field(
            None,
            description="module:name of an Adapters, for a store, a backend or a payload codec of your own (docs/seams.md)",
        )
    )
    tracing: bool = Field(default=False, description="send OpenTelemetry traces to where OTEL_EXPORTER_OTLP_ENDPOINT says")
    health_file: Annotated[Path, AfterValidator(_file)] | None = Field(
        None, description="a file that is touched every 5 seconds while the worker, or the relay, works"
    )
    metrics_address: (
        Annotated[str, _like(r"([0-9.]+|\[[0-9A-Fa-f:]+\]):[0-9]+", "an IP address and a port, such as 127.0.0.1:9464")] | None
    ) = Field(
        None,
        description="IP address and port where the worker, or the relay, serves Prometheus, such as 127.0.0.1:9464; without it "
        "there is no endpoint",
    )


class DatabaseSettings(AdaptersSettings):
    """What a backend and the command line need."""

    database_url: Annotated[SecretStr, AfterValidator(_database_url)] = Field(
        description="SQLAlchemy URL of the backend's database: postgresql+psycopg://… or sqlite:///…"
    )
    database_pool_size: Count = Field(10, description="connections kept open; as many again in bursts")
    database_lock_timeout_s: Seconds = Field(
        10, description="seconds a statement waits for a lock before its transaction is run again later"
    )
    database_statement_timeout_s: Seconds = Field(
        120, description="seconds a statement may take, or a worker between two of them: then PostgreSQL lets our locks go"
    )
    database_prepare: bool = Field(
        default=True, description="let the driver prepare statements, on connections that no pooler shares out"
    )
    search_attributes: Literal["ask", "yes", "no"] = Field(
        "ask",
        description="whether the namespace has our search attributes; “ask” asks Temporal when a worker starts, and lets "
        "`setup` make them",
    )
    images_grace_s: Seconds = Field(
        86_400, description="seconds between a client's first look for an image and its snapshot's commit, at the most"
    )
    images_late_s: Seconds = Field(
        1200, description="seconds after which the store refuses a request as too old: S3's 15 minutes, and five for clocks"
    )
    images_reserved: bool = Field(
        default=False,
        description="true where every commit of a snapshot calls reserve_images (docs/images.md): hidden images are purged "
        "without waiting for the grace. Needs a bucket with versions",
    )
    promised_days: Count = Field(
        30, description="whole days within which customers are promised that a deletion is done; the GDPR gives a month"
    )
    receipt_key_file: Annotated[Path, AfterValidator(_file)] | None = Field(
        None, description="PEM file with the Ed25519 private key that signs pages of `starter.py receipt`; read at each use"
    )

    @property
    def promised(self) -> timedelta:
        return timedelta(days=self.promised_days)

    @property
    def images_grace(self) -> timedelta:
        return timedelta(seconds=self.images_grace_s)

    @property
    def images_late(self) -> timedelta:
        return timedelta(seconds=self.images_late_s)


class Settings(DatabaseSettings):
    """What a worker needs."""

    bucket: Annotated[str, Field(min_length=3, max_length=255)] = Field(description="the bucket that holds the objects")
    s3_endpoint: (
        Annotated[str, _like(rf"https?://{_HOST}(:[0-9]+)?(/[^\s@]*)?", "a URL such as https://s3.example.com")] | None
    ) = Field(None, description="URL of an S3-compatible server; without it, AWS's own")
    s3_region: Annotated[
        str, _like(r"[A-Za-z][A-Za-z0-9]*(-+[A-Za-z0-9]+)*", "a region such as us-east-1"), Field(max_length=63)
    ] = Field("us-east-1", description="region that requests are signed for")
    s3_addressing_style: Literal["auto", "path", "virtual"] | None = Field(
        None,
        description="how the bucket is addressed; without it as the AWS profile says, else by path where S3_ENDPOINT is set",
    )
    s3_access_key: str | None = Field(None, description="without it, credentials are found as by every AWS client")
    s3_secret_key: SecretStr | None = Field(None, description="goes with the access key")
    s3_connect_timeout_s: Seconds = Field(5, description="seconds to wait for a connection")
    s3_read_timeout_s: Seconds = Field(60, description="seconds to wait for an answer; one request deletes 1000 keys")
    bucket_versioned: Literal["ask", "yes", "no"] = Field(
        "ask", description="whether the bucket keeps versions; “ask” needs s3:GetBucketVersioning"
    )
    bucket_listable: bool = Field(default=True, description="false for a store without listings: prefixes stay unchecked")
    bucket_multipart: bool = Field(
        default=True, description="false for a store without multipart uploads: none are looked for, and the receipt says so"
    )
    scope_template: Annotated[str, AfterValidator(_scope_template)] = Field(
        "{usecase}/org.{organization_id}/project.{project_id}/objects/",
        description="physical prefix of a project's keys",
    )
    usecases: Annotated[tuple[Segment, ...], NoDecode, BeforeValidator(_usecases), Field(min_length=1)] = Field(
        ("preprod", "preprod_snapshots", "snapshots", "preprod_size"),
        description="comma-separated; every one is searched, in this order",
    )
    trace_store: Literal["sql", "snuba", "none"] = Field(
        "none", description="where trace items are: “sql” is the table trace_items of the same database"
    )
    snuba_url: Annotated[str, _like(r"https?://[^\s@]+", "a URL such as http://snuba-api:1218")] | None = Field(
        None, description="goes with the trace store “snuba”: where its API listens; needs requirements-snuba.txt"
    )
    snuba_timeout_s: Seconds = Field(60, description="seconds to wait for Snuba's answer")
    chunk_artifacts: Annotated[int, Field(ge=1, le=1000)] = Field(
        250, description="artifacts a transaction; more, if a deletion would have over 100 chunks"
    )
    chunks_at_once: Count = Field(4, description="transactions of one deletion at a time")
    pages_a_step: Annotated[int, Field(ge=1, le=100)] = Field(4, description="thousands of keys a step deletes, at the least")
    object_steps_at_once: Count = Field(16, description="steps of one deletion that delete objects at a time")
    store_requests: Count = Field(
        64, description="requests that list or delete, which this worker makes of the store at a time"
    )
    database_steps: Count = Field(
        16, description="steps with the database alone that this worker runs at a time, and workflow tasks"
    )
    store_steps: Count = Field(64, description="steps with the object store that this worker runs at a time")
    manifest_readers: Count = Field(8, description="manifests this worker reads at a time, beside those requests")
    manifests_parsed: Count = Field(2, description="manifests the worker holds parsed at a time")
    manifest_limit_bytes: PositiveInt = Field(32 * 2**20, description="a larger manifest counts as unreadable")
    quiet_period_s: Annotated[float, Field(ge=0, le=_LONGEST_S)] = Field(
        60,
        description="seconds before the listing that confirms a sweep: longer than a comparison's last writes take",
    )
    trace_items_pause_s: Seconds = Field(
        60, description="seconds before trace items are counted again, at first; an event store's consumer deletes in minutes"
    )
    trace_items_within_s: Seconds = Field(
        7200, description="seconds after which trace items that are still counted are reported as unconfirmed"
    )
    keys_per_second: PositiveFloat | None = Field(
        None,
        description="limit for deleted keys of all workers together; S3's guide is 3,500 a second for a prefix",
    )
    images: Literal["auto", "markers", "copies", "keep"] = Field(
        "auto",
        description="how shared images are hidden: “markers” in a bucket that keeps versions, “copies” elsewhere, “auto” asks "
        "the bucket; “keep” leaves them, and a deletion that asks for them has them left over",
    )
    images_catch_up_s: Seconds = Field(
        15, description="seconds between two looks for new snapshots of a project, while any of its images is hidden"
    )
    images_quarantine: Annotated[str, _like(r"([A-Za-z0-9_.-]+/)+", "a prefix with a slash at its end")] = Field(
        "quarantine/", description="prefix for copies of hidden images: no usecase's, and no reader of images may reach it"
    )
    receipt_export: (
        Annotated[
            str,
            _like(r"stdout|s3://[A-Za-z0-9.-]{3,63}/([^\s/\\]+/)+", "“stdout”, or s3://bucket/prefix/ with a slash at its end"),
        ]
        | None
    ) = Field(
        None,
        description="where each receipt is kept outside the database before its deletion counts as closed, for `starter.py "
        "reapply` after a restore: s3://bucket/prefix/ (of the same store, a prefix of its own), or “stdout”",
    )
    max_artifacts_unconfirmed: PositiveInt | None = Field(
        None, description="a deletion of more artifacts waits, before it deletes any, for `starter.py confirm`"
    )
    max_keys_unconfirmed: PositiveInt | None = Field(
        None, description="a deletion of which more object keys are collected waits for `starter.py confirm` before it goes on"
    )
    max_bulk_unconfirmed: PositiveInt | None = Field(
        10_000,
        description="of more artifacts than these, a deletion of a whole project or organization waits, before it deletes any, "
        "for a second person's `starter.py confirm`",
    )
    bulk_deletions_at_once: Count = Field(
        4, description="deletions of a whole project or organization at a time, each of up to CHUNK_ARTIFACTS artifacts"
    )
    bulk_keys_at_once: PositiveInt = Field(
        1_000_000,
        description="while running deletions of an organization owe the store more keys than these, none of its bulk deletions "
        "begins another",
    )
    shutdown_grace_s: Seconds = Field(30, description="seconds that running activities get after SIGTERM")
    build_id: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="worker versioning: the build of this worker, in its deployment"
    )
    serves: Literal["all", "rows", "objects"] = Field(
        "all", description="“rows” takes workflows and steps that need the database alone, “objects” those that call the store"
    )
    metrics_ledger_every_s: Seconds = Field(15, description="seconds between two looks into the ledger for its metrics")
    log_format: Literal["text", "json"] = Field("text", description="“json” is one object a line, with the ids of the step")

    @model_validator(mode="after")
    def _keys_go_together(self) -> Self:
        if (self.s3_access_key is None) != (self.s3_secret_key is None):
            raise ValueError("S3_ACCESS_KEY and S3_SECRET_KEY go together")
        if (self.trace_store == "snuba") != (self.snuba_url is not None):
            raise ValueError("TRACE_STORE=snuba and SNUBA_URL go together")
        if self.images_reserved and self.images == "copies":
            raise ValueError("IMAGES_RESERVED and IMAGES=copies do not go together: a late delete would hit a new upload")
        return self

    @property
    def bulk_artifacts_a_deletion(self) -> int:
        """So many that none of a bulk's deletions needs to be confirmed by itself."""
        return min(self.chunk_artifacts, self.max_artifacts_unconfirmed or self.chunk_artifacts)

    @property
    def hiding(self) -> Literal["auto", "markers", "copies"]:
        """How images are hidden, and those that are hidden already are settled. Copies cannot be, where commits ask first."""
        if self.images_reserved:
            return "markers"
        return "auto" if self.images == "keep" else self.images

    @property
    def quiet_period(self) -> timedelta:
        return timedelta(seconds=self.quiet_period_s)

    @property
    def trace_items_pause(self) -> timedelta:
        return timedelta(seconds=self.trace_items_pause_s)

    @property
    def trace_items_within(self) -> timedelta:
        return timedelta(seconds=self.trace_items_within_s)

    @property
    def shutdown_grace(self) -> timedelta:
        return timedelta(seconds=self.shutdown_grace_s)


def explained(settings: type[BaseSettings]) -> str:
    """One paragraph a variable, for --help."""
    lines = []
    for name, field in settings.model_fields.items():
        default = "required" if field.is_required() else f"default: {_shown(field.default)}"
        lines.append(f"  {PREFIX}{name.upper()}\n      {field.description} ({default})")
    return "\n".join(lines)


def one_line(error: ValidationError) -> str:
    """The first thing that is wrong, naming the variable and no value."""
    problem = error.errors(include_input=False, include_url=False, include_context=False)[0]
    name = f"{PREFIX}{str(problem['loc'][0]).upper()}" if problem["loc"] else PREFIX.rstrip("_")
    reason = "is not set" if problem["type"] == "missing" else problem["msg"].removeprefix("Value error, ")
    return f"{name}: {reason}"


S = TypeVar("S", bound=DatabaseSettings)


def load(settings: type[S]) -> S:
    """Read the environment, or say in one line what is wrong with it and exit with 2."""
    try:
        return settings()
    except ValidationError as error:
        sys.stderr.write(f"{one_line(error)}\n")
        sys.exit(2)


def _shown(default: object) -> str:
    return ",".join(default) if isinstance(default, tuple) else "none" if default is None else str(default)
