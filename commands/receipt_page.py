"""A receipt as a page for a person outside: every statement of it, and how to check that it is the one that was given."""

import html
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from activities.images.owed import Total
from artifact_deletion.outbox import DeletionState
from artifact_deletion.receipt import DeletionReceipt
from commands import proof
from commands.display import Rows, at, one_line, said
from commands.proof import Signature
from commands.receipt_text import images_since, receipt_lines
from commands.which import ENDED

_CLAIMS = (
    "This receipt says what one deletion did, how far that was checked, and when. All times are UTC, by the clock of the "
    "database."
)
_CLAIMS_NOTHING = (
    "It claims nothing about replicas, backups and dumps of the database; copies that the store replicates to other buckets; "
    "caches, logs, and files that people have downloaded; objects that a writer puts down after the last listing; the content "
    "of files, which the backend's own clean-up removes; and images, unless it says that they were asked for."
)
_STYLE = """\
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100% }
th, td { border-bottom: 1px solid rgb(128 128 128 / .4); padding: .2rem 1rem .2rem 0; text-align: left; vertical-align: top;
  overflow-wrap: anywhere }
th { font-weight: normal; width: 40% }
th.part { padding-left: 1.5rem }
pre { border: 1px solid rgb(128 128 128 / .4); padding: .6rem; white-space: pre-wrap; overflow-wrap: anywhere }
@media print {
  body { max-width: none; margin: 0; font-size: 10pt }
  h2 { break-after: avoid }
  tr, pre { break-inside: avoid }
}"""
_MARKUP = re.compile(r"[\\`*_\[\]|~<>&]|:(?=//)|(?<=www)\.")
"""What would be markup, an entity or a link in a Markdown table."""


class _Writer(Protocol):
    """Puts down the parts of a page, each escaped."""

    def heading(self, text: str, level: int = 2) -> None: ...

    def paragraph(self, text: str) -> None: ...

    def table(self, rows: Rows) -> None: ...

    def code(self, text: str) -> None: ...

    def page(self) -> str: ...


@dataclass
class _Markdown:
    parts: list[str] = field(default_factory=list)

    def heading(self, text: str, level: int = 2) -> None:
        self.parts.append(f"{'#' * level} {_MARKUP.sub(_escaped, text)}")

    def paragraph(self, text: str) -> None:
        self.parts.append(_MARKUP.sub(_escaped, text))

    def table(self, rows: Rows) -> None:
        cells = [(f"&emsp;{_cell(name)}" if name.startswith(" ") else _cell(name), _cell(value)) for name, value in rows]
        self.parts.append("\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in cells)]))

    def code(self, text: str) -> None:
        self.parts.append(f"```sh\n{text}\n```")

    def page(self) -> str:
        return "\n\n".join(self.parts)


@dataclass
class _Html:
    parts: list[str] = field(default_factory=list)

    def heading(self, text: str, level: int = 2) -> None:
        self.parts.append(f"<h{level}>{html.escape(text)}</h{level}>")

    def paragraph(self, text: str) -> None:
        self.parts.append(f"<p>{html.escape(text)}</p>")

    def table(self, rows: Rows) -> None:
        self.parts.append("<table>")
        for name, value in rows:
            part = ' class="part"' if name.startswith(" ") else ""
            cells = html.escape(one_line(name.strip())), html.escape(one_line(str(value)))
            self.parts.append(f'<tr><th scope="row"{part}>{cells[0]}</th><td>{cells[1]}</td></tr>')
        self.parts.append("</table>")

    def code(self, text: str) -> None:
        self.parts.append(f"<pre>{html.escape(text)}</pre>")

    def page(self) -> str:
        """One file that loads nothing, in ASCII, so that it can be sent through anything."""
        head = [
            '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">',
            """<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">""",
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>Receipt of a deletion</title>\n<style>\n{_STYLE}\n</style>",
        ]
        return "\n".join([*head, *self.parts, "</html>"]).encode("ascii", "xmlcharrefreplace").decode()


def page(
    receipt: DeletionReceipt, state: DeletionState, images: Total | None, signature: Signature | None, *, as_html: bool
) -> str:
    """Write a receipt in HTML, or in Markdown as GitHub and others read it. `images`: what has become of them since."""
    to: _Writer = _Html() if as_html else _Markdown()
    to.heading("Receipt of a deletion", 1)
    to.paragraph(_CLAIMS)
    to.paragraph(_CLAIMS_NOTHING)
    if state not in ENDED:
        to.paragraph(f"The deletion is {state} again: this is the receipt of an earlier run.")
    to.table(said(receipt_lines(receipt, utc=True)))
    to.heading("Every field")
    to.paragraph("By its name in the receipt's JSON. The service's docs/receipt.md says of each how it is known.")
    to.table(list(_fields(receipt.model_dump(mode="json"))))
    if images is not None:
        to.heading("Images since")
        to.paragraph(f"By the ledger, {at(datetime.now(UTC), utc=True)}. This is no part of the receipt and of its digest.")
        to.table(said(images_since(images, receipt, utc=True)))
    _write_proof(to, receipt, signature)
    return to.page()


def _write_proof(to: _Writer, receipt: DeletionReceipt, signature: Signature | None) -> None:
    to.heading("Check this receipt")
    to.paragraph("SHA-256 of the receipt's JSON, with its keys sorted and without spaces:")
    to.code(proof.digest(receipt))
    to.paragraph(
        "The JSON comes with this page, as receipt.json: starter.py receipt ID --format json prints it. These two commands "
        "must print the same digest. Then compare the fields above with the JSON."
    )
    to.code(f"{proof.CANONICAL}\n{proof.DIGEST}")
    if signature is None:
        to.paragraph("Not signed: no key is set. The digest alone does not say whose receipt this is.")
        return
    to.paragraph("Signed with Ed25519, in base64:")
    to.code(signature.base64)
    to.paragraph("Fingerprint of the public key, the SHA-256 of its DER form:")
    to.code(signature.fingerprint)
    to.paragraph(
        "Have the public key, as receipt-key.pub.pem, from where it was published, not from where this page came. The first "
        "command must print its fingerprint, the last one that the signature is verified."
    )
    to.code(f"{proof.FINGERPRINT}\nprintf %s {signature.base64} | base64 -d > receipt.sig\n{proof.VERIFY}")


def _fields(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Each statement by its path, as docs/receipt.md names it."""
    if isinstance(value, dict) and value:
        for key, one in value.items():
            yield from _fields(one, f"{name}.{key}" if name else key)
    elif isinstance(value, list):
        yield name, ", ".join(map(str, value)) or "none"
    else:
        yield name, value if isinstance(value, str) else "none" if value == {} else json.dumps(value)


def _cell(value: object) -> str:
    return _MARKUP.sub(_escaped, one_line(str(value).strip()))


def _escaped(markup: re.Match[str]) -> str:
    return f"\\{markup[0]}"
