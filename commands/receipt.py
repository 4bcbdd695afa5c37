"""`receipt`: what a deletion did."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from activities.images import owed
from artifact_deletion.outbox import DeletionState, Recorded
from artifact_deletion.receipt import DeletionReceipt
from commands import options
from commands.connection import open_ledger
from commands.exit_codes import DONE, FAILED, BadUsage
from commands.output import say, warn
from commands.proof import Signature, sign
from commands.receipt_page import page
from commands.receipt_text import print_receipt
from commands.which import ENDED, NOTHING_DELETED, find
from settings import DatabaseSettings, load

Format = Annotated[
    Literal["text", "json", "markdown", "html"] | None,
    typer.Option("--format", case_sensitive=False, help="text, JSON, or a page for a person outside; --json is the second"),
]
SignatureFile = Annotated[
    Path | None, typer.Option("--signature", metavar="FILE", help="write the signature there (RECEIPT_KEY_FILE), for openssl")
]


def receipt(
    *,
    deletion: options.Deletion,
    form: Format = None,
    signature: SignatureFile = None,
    as_json: options.Json = False,
    utc: options.Utc = False,
) -> int:
    """Print what a deletion did, and when each of it was checked.

    Below it stands what has become of hidden images since, by the ledger of now. A page, in Markdown or HTML, has every field
    of the JSON, its digest, a signature if a key is set, and how a stranger checks them.
    """
    if as_json and form not in {None, "json"}:
        raise BadUsage("--json is --format json: name one format")
    with open_ledger() as database, database.read() as session:
        found = find(session, deletion)
        images = owed.total(session, found.request.deletion_id)
    if found.receipt is None:
        warn(_why_none(found))
        return FAILED
    if found.state not in ENDED:
        warn(f"{found.request.workflow_id} is {found.state}: its receipt is of an earlier run")
    since = images if images.named else None
    signed = _sign(found.receipt) if signature is not None or form in {"markdown", "html"} else None
    if signature is not None:
        _write(signature, signed)
    if form in {"markdown", "html"}:
        say(page(found.receipt, found.state, since, signed, as_html=form == "html"))
    else:
        print_receipt(found.receipt, as_json=as_json or form == "json", utc=utc, images=since)
    return DONE if found.state is DeletionState.CLOSED else FAILED


def _why_none(found: Recorded) -> str:
    if found.state in NOTHING_DELETED:
        return f"{found.request.workflow_id} is {found.state}: nothing of it was deleted, so there is no receipt"
    return "there is no receipt yet: the deletion has not come to its end"


def _sign(receipt: DeletionReceipt) -> Signature | None:
    key_file = load(DatabaseSettings).receipt_key_file
    return None if key_file is None else sign(receipt, key_file)


def _write(file: Path, signed: Signature | None) -> None:
    if signed is None:
        raise BadUsage("there is no signature: ARTIFACT_DELETION_RECEIPT_KEY_FILE names no key")
    try:
        file.write_bytes(signed.content)
    except OSError as error:
        raise BadUsage(f"the signature cannot be written ({type(error).__name__})") from None
