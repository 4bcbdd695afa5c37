"""A CI that keeps screenshots: a build is its owner's, and each of its shots names an object, `{owner}/{build}/….png`."""

from datetime import datetime
from typing import Any

from sqlalchemy import DateTime, ForeignKey, func
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    __table_args__: Any = {"sqlite_autoincrement": True}  # noqa: RUF012  an id is never used twice, which SQLite has to be told


class Build(Base):
    __tablename__ = "build"
    id: Mapped[int] = mapped_column(primary_key=True)
    owner_id: Mapped[int] = mapped_column(index=True)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


class Shot(Base):
    __tablename__ = "shot"
    id: Mapped[int] = mapped_column(primary_key=True)
    build_id: Mapped[int] = mapped_column(ForeignKey("build.id"), index=True)
    key: Mapped[str]
