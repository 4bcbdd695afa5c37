"""Clients that upload while everything strikes: they ask, skip, put, put unasked, give up, and commit within the grace."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock

from botocore.exceptions import BotoCoreError, ClientError
from sqlalchemy.exc import SQLAlchemyError

from demo.world import Project, Snapshot, screen
from tests.images_oracle import Images
from tests.stack import Stack
from tests.uploader import Uploader, hash_of

GRACE_S, LATE_S, CATCH_UP_S = 3.0, 9.0, 0.3
"""Scaled down from a day, 20 minutes and 15 seconds. A request may be late, by a worker that is stopped for 4 seconds."""
_IN_TIME_S = GRACE_S - 1.0
_SCREENS = tuple(f"{one}.png" for one in ("login", "cart", "home"))


@dataclass
class Uploads:
    """Of one round. A thread a client."""

    stack: Stack
    images: Images = field(default_factory=Images)
    servers_up: Lock = field(default_factory=Lock)
    """Held while a server is away: what a commit that got no answer has done is another test's business."""

    def upload(self, project: Project, usecase: str, draw: random.Random) -> Snapshot | None:
        """One client's whole upload. None if it gave up."""
        client = Uploader(self.stack, project, usecase)
        images = {name: screen(name.removesuffix(".png"), draw.randrange(4)) for name in draw.sample(_SCREENS, 2)}
        put: set[str] = set()
        began = time.monotonic()
        try:
            with self.servers_up:
                skipped = client.asks(images) if draw.random() < 0.8 else set()
            _wait(draw.uniform(0, 0.8))
            if draw.random() < 0.15:
                return None
            with self.servers_up:
                put = images.keys() - skipped
                client.puts(images, skipped)
            _wait(draw.uniform(0, 0.8))
            with self.servers_up:
                if draw.random() < 0.15 or time.monotonic() - began > _IN_TIME_S:
                    self._give_up(project, images, put)
                    return None
                made = client.commits(images)
                self.images.snapshots.append(made)
                return made
        except (BotoCoreError, ClientError, SQLAlchemyError):
            self._give_up(project, images, put)
            return None

    def _give_up(self, project: Project, images: dict[str, bytes], put: set[str]) -> None:
        self.images.given_up |= {(project.id, hash_of(images[name])) for name in put}


_wait: Callable[[float], None] = time.sleep
"""A client takes its time: that is the race."""
