"""What deletions of whole projects, retention and schedules ask of a backend: projects, their rest, how old artifacts are."""

from collections.abc import Collection
from datetime import datetime
from typing import Any

from sqlalchemy import Select, func, literal
from sqlalchemy.orm import Session


class Bulk:
    """By default nothing but artifacts hangs from a project, they are all of one kind, and none needs another."""

    kinds: tuple[str, ...] = ()
    """The kinds that policies may name."""

    def aged(self, artifacts: Select[int, int, int, datetime]) -> Select[Any]:
        """`artifacts` with two more columns: the kind of each, and the time from which on no other needed it."""
        return artifacts.add_columns(literal("").label("kind"), list(artifacts.selected_columns)[3].label("since"))

    def heirs(self, session: Session, artifact_ids: Collection[int]) -> set[int]:  # noqa: ARG002
        """The artifacts that show less once these are gone, for a preview: those that inherit objects of theirs."""
        return set()

    def next_project(self, session: Session, living: Select[int, int, int], organization_id: int, after: int) -> int | None:
        """The organization's next project by its id: of those with artifacts, where a backend knows no others."""
        _, project, organization = living.selected_columns
        of = living.with_only_columns(func.min(project)).where(organization == organization_id, project > after)
        found: int | None = session.execute(of.order_by(None)).scalar_one()
        return found

    def delete_rest(self, session: Session, organization_id: int, project_id: int | None) -> dict[str, int]:  # noqa: ARG002
        """Delete what hangs from a project, or from all of an organization, beside its artifacts, which are gone.

        Returns how many rows, by table.
        """
        return {}
