"""moto's S3 server: a third one, in memory, which keeps versions as AWS does and orders its listings by itself.

It answers one request after another: its listings walk through what another request would change meanwhile, and answer 500.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from demo.servers import S3Server, _http_status

_SERVE = """
import sys
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple
run_simple("127.0.0.1", int(sys.argv[1]), DomainDispatcherApplication(create_backend_app), threaded=False)
"""


class MotoServer(S3Server):
    """It looks at no credentials. Killed, it has forgotten everything."""

    name = "moto"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, ports=1)

    def _command(self) -> Sequence[str | Path]:
        return [sys.executable, "-c", _SERVE, str(self._ports[0])]

    def _answers(self) -> bool:
        return _http_status(f"{self.endpoint}/") == 200
