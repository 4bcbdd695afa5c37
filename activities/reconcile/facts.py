"""What the database says of some listed keys: rows of the backend and owed objects of the ledger, in one snapshot."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from activities.backend.contract import Backend, Names
from activities.backend.owners import KeyKind, Owner
from activities.images import rows
from activities.images.index import Index
from activities.images.owed import HASH_BYTES
from activities.ledger import overlaps
from activities.ledger.image_schema import ImagePage
from activities.reconcile.judge import Facts, ImageFacts


@dataclass(frozen=True)
class Project:
    """Which project is looked at."""

    organization_id: int
    id: int


def facts_of(
    session: Session, backend: Backend, project: Project, scope: str, owners: Mapping[str, Owner]
) -> tuple[Facts, Names]:
    """What is known of the owners of a scope's keys, and all that the rows of living ones name."""
    different = set(owners.values())
    ids = {one for owner in different for one in (owner.artifact, owner.base) if one}
    places, names = backend.survey(session, dict.fromkeys(ids), project.organization_id)
    living = {one.id for one in places.present if one.project_id == project.id}
    shared = [key for key, owner in owners.items() if owner.kind is KeyKind.SHARED]
    compared = {(head.id, base) for head, bases in names.comparisons.items() for base in bases}
    named = [backend.owner_of(one.key, project.organization_id, project.id) for one in names.keys]
    facts = Facts(
        living=living,
        moved={*places.moved, *(one.id for one in places.present if one.project_id != project.id)},
        compared=compared | {(owner.artifact, owner.base) for owner in named if owner.kind is KeyKind.COMPARISON},
        owed=overlaps.artifacts_owed(session, ids - living, project.organization_id, project.id) if ids - living else (),
        named=backend.still_named(session, shared) if shared else (),
        owed_keys=overlaps.shared_keys_owed(session, [scope + key for key in shared]) if shared else (),
    )
    return facts, names


def facts_of_artifacts(session: Session, backend: Backend, project: Project, ids: Collection[int]) -> Facts:
    """What is known of artifacts that have trace items in the project."""
    found = {one: in_project for one, (in_project, _) in backend.find(session, ids).items()}
    living = {one for one, in_project in found.items() if in_project == project.id}
    owed = overlaps.artifacts_owed(session, ids, project.organization_id, project.id, traces_configured=True)
    return Facts(living=living, moved=found.keys() - living, owed=owed)


_UNDECIDED = select(ImagePage.hashes).where(ImagePage.project_id == bindparam("project"), ImagePage.decided_at.is_(None))
_PAGES_AT_A_TIME = 20


def image_facts_of(session: Session, index: Index, project_id: int, images: Collection[str]) -> ImageFacts:
    """What is known of these images: by the index, and by the ledger's rows of images on their way."""
    snapshots, read, _ = index.counts(session, project_id)
    named = index.named(session, project_id, images)
    on_list = set(rows.read(session, project_id, images))
    wanted = {bytes.fromhex(image) for image in images}
    for packed in session.execute(_UNDECIDED, {"project": project_id}).yield_per(_PAGES_AT_A_TIME).scalars():
        hashes = {packed[start : start + HASH_BYTES] for start in range(0, len(packed), HASH_BYTES)}
        on_list.update(one.hex() for one in hashes & wanted)
    return ImageFacts(named, on_list, all_read=read == snapshots)
