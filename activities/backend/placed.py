"""Statements about artifacts that have rows: each is made once, of the one that selects them all."""

from datetime import datetime

from sqlalchemy import Select, select

from activities.one_of import one_of


class Placed:
    """Of a backend's `artifacts`. Ids come as the parameter `artifacts`."""

    def __init__(self, artifacts: Select[int, int, int, datetime]) -> None:
        columns = list(artifacts.selected_columns)
        these = one_of(columns[0], "artifacts")
        self.living: Select[int, int, int] = artifacts.with_only_columns(*columns[:3], maintain_column_froms=True)
        """Without the time, which a worker's role need not be able to read."""
        self.found = self.living.where(these)
        self.added = artifacts.where(these)
        self.locked = select(columns[0]).where(these).order_by(columns[0]).with_for_update()
