"""A receipt as a page: every statement is on it and nothing of it is markup, and a stranger can check digest and signature."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_public_key,
)
from markdown_it import MarkdownIt
from sqlalchemy import select, update

from activities.ledger.schema import Deletion
from artifact_deletion.outbox import DeletionState
from artifact_deletion.receipt import DeletionReceipt
from artifact_deletion.request import DeletionRequest
from commands.exit_codes import BAD_USAGE, DONE, FAILED
from tests.image_steps import ImageSteps
from tests.stack import Stack, steps_of
from tests.typed import Run, assert_one_sentence, runner
from tests.unit.test_docs import RECEIPT, blocks

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
OPENSSL = shutil.which("openssl") is not None
SECRET = "correct horse battery staple"
HOSTILE = "</td><script>alert(1)</script>|**b** _x_ [a](http://evil.example) `c` &amp; ![](//evil.example) \\| www.evil.example"
"""A code, which is the store's own word."""


@pytest.fixture
def run(stack: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(stack, monkeypatch, capsys)


@pytest.fixture
def closed(stack: Stack) -> DeletionRequest:
    """A deletion that is complete."""
    one, two = stack.snapshots("one", "two")
    stack.world.comparison(one, two)
    request = stack.request([one.id, two.id], requested_by="user:7", reference="ticket:1")
    with steps_of(stack) as steps:
        assert steps.finish(request, steps.open_and_collect(request)).complete
    return request


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """Made as the document says, or with the same package that signs where there is no OpenSSL."""
    made = tmp_path / "receipt-key.pem"
    if OPENSSL:
        shell(tmp_path, blocks(RECEIPT, "sh")[1])
        return made
    key = Ed25519PrivateKey.generate()
    made.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "receipt-key.pub.pem").write_bytes(public)
    return made


@dataclass
class Page(HTMLParser):
    """What a browser would read of a page."""

    source: str
    rows: list[list[str]] = field(default_factory=list)
    code: list[str] = field(default_factory=list)
    tags: set[str] = field(default_factory=set)
    attributes: set[str] = field(default_factory=set)
    said: str = ""
    _into: list[str] | None = None

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th", "pre"}:
            self._into = self.rows[-1] if tag != "pre" else self.code
            self._into.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in {"td", "th", "pre"}:
            self._into = None

    def handle_data(self, data: str) -> None:
        self.said += data
        if self._into is not None:
            self._into[-1] += data

    @property
    def values(self) -> dict[str, str]:
        """The tables, names without their indent."""
        return {row[0].strip(): row[1].strip() for row in self.rows}


def of_html(source: str) -> Page:
    return Page(source)


def of_markdown(source: str) -> Page:
    """As GitHub would: tables, links that nothing marks as such, and HTML as it stands there."""
    shown = MarkdownIt("commonmark", {"html": True}).enable("table").render(source)
    return Page(re.sub(r"<pre><code[^>]*>", "<pre>", shown))


in_each_form = pytest.mark.parametrize(("form", "read"), [("html", of_html), ("markdown", of_markdown)])


def statements(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of a receipt's JSON, by its path."""
    if isinstance(value, dict):
        for key, one in value.items():
            yield from statements(one, f"{name}.{key}".removeprefix("."))
    else:
        yield name, value


@in_each_form
async def test_every_statement_of_the_receipt_is_on_the_page(
    stack: Stack, run: Run, closed: DeletionRequest, form: str, read: Callable[[str], Page]
) -> None:
    """By the name that the document explains, and in words."""
    done = await run("receipt", closed.workflow_id, "--format", form)
    assert (done.code, done.err) == (DONE, "")
    page = read(done.out)
    receipt = stack.receipt(closed.workflow_id)
    for name, value in statements(receipt.model_dump(mode="json")):
        expected = ", ".join(map(str, value)) or "none" if isinstance(value, list) else value
        assert page.values[name] == (expected if isinstance(expected, str) else json.dumps(expected)), name
    assert page.values["State"] == "complete: nothing is left over"
    assert page.values["Asked by"] == "user:7, reference ticket:1"
    assert page.values["after"] == "0.01 of 30 promised days"
    assert page.values["Closed"].endswith(" UTC")
    assert "replicas, backups and dumps" in page.said


async def test_the_page_is_one_file_that_loads_nothing(run: Run, closed: DeletionRequest, key_file: Path) -> None:
    """It is opened years later, far away, and its reader is no one's to track."""
    source = (
        await run("receipt", closed.workflow_id, "--format", "html", ARTIFACT_DELETION_RECEIPT_KEY_FILE=str(key_file))
    ).out
    page = of_html(source)
    assert page.tags == {"html", "meta", "title", "style", "h1", "h2", "p", "table", "tr", "th", "td", "pre"}
    assert page.attributes == {"lang", "charset", "name", "content", "http-equiv", "scope", "class"}
    assert not re.search(r"url\(|@import|https?:|//", source.partition("</style>")[0])
    assert "default-src 'none'" in source
    assert "color-scheme: light dark" in source
    assert "@media print" in source
    assert source.isascii()


@in_each_form
async def test_nothing_that_a_store_said_is_markup(
    stack: Stack, run: Run, closed: DeletionRequest, form: str, read: Callable[[str], Page]
) -> None:
    """Codes are the store's own words, and the page is opened by a stranger."""
    before = read((await run("receipt", closed.workflow_id, "--format", form)).out)
    receipt = stack.receipt(closed.workflow_id).model_dump(mode="json")
    receipt["complete"] = False
    receipt["objects"]["left_over"] = {HOSTILE: 3, "Ü\x1b[2J\n| x | y |": 1}
    with stack.database.write() as session:
        session.execute(update(Deletion).values(receipt=receipt, state=DeletionState.FAILED))
    done = await run("receipt", closed.workflow_id, "--format", form)
    assert done.code == FAILED
    page = read(done.out)
    assert page.values[f"objects.left_over.{HOSTILE}"] == "3"
    assert page.values["objects.left_over.Ü�[2J�| x | y |"] == "1"
    assert f"{HOSTILE} 3" in page.values["left over"]
    assert page.tags == before.tags
    assert page.attributes == before.attributes
    assert "\x1b" not in done.out
    assert form == "html" or not re.search(r"(?<!\\)://|www\.", done.out), "some readers make links of these"


@in_each_form
@pytest.mark.parametrize("asked", ["--json", "--format=json"])
async def test_two_commands_of_the_page_compute_its_digest(
    stack: Stack, run: Run, closed: DeletionRequest, tmp_path: Path, form: str, read: Callable[[str], Page], asked: str
) -> None:
    """From what `--json` prints, and as the document says too."""
    page = read((await run("receipt", closed.workflow_id, "--format", form)).out)
    digest, commands = page.code
    printed = (await run("receipt", closed.workflow_id, asked)).out
    (tmp_path / "receipt.json").write_text(printed)
    assert shell(tmp_path, commands).split() == [digest.strip(), "receipt.canonical"]
    assert blocks(RECEIPT, "sh")[0].strip() == commands.strip()
    content = (tmp_path / "receipt.canonical").read_bytes()
    assert DeletionReceipt.model_validate_json(content) == stack.receipt(closed.workflow_id)
    assert "Not signed" in page.said
    (tmp_path / "receipt.json").write_text(printed.replace('"requested_artifacts": 2', '"requested_artifacts": 3'))
    assert digest.strip() not in shell(tmp_path, commands)


async def test_a_code_in_any_script_leads_to_the_same_digest(
    stack: Stack, run: Run, closed: DeletionRequest, tmp_path: Path
) -> None:
    """`--json` escapes what is not ASCII, the canonical JSON does not."""
    receipt = stack.receipt(closed.workflow_id).model_dump(mode="json")
    receipt["objects"]["left_over"] = {"Verweigert: Größe ✓ \"'\\": 1}
    receipt["times"]["days"] = 30.0
    with stack.database.write() as session:
        session.execute(update(Deletion).values(receipt=receipt))
    (tmp_path / "receipt.json").write_text((await run("receipt", closed.workflow_id, "--json")).out)
    digest, commands = of_html((await run("receipt", closed.workflow_id, "--format", "html")).out).code
    assert shell(tmp_path, commands).split()[0] == digest


async def test_images_that_are_not_purged_in_time_are_said_to_be_overdue(images: ImageSteps, run: Run) -> None:
    """By the time that the receipt itself names. The alert is for operators: this is for the one who asked."""
    one = images.stack.world.snapshot(images.project, {"a": b"a screen"})
    images.hide(images.delete(one))
    request = images.stack.request([one.id], images="delete")
    images.steps.close(request)
    for passed, overdue in ((timedelta(0), 0), (timedelta(days=30), 1)):
        with images.stack.database.write() as session:
            closed = session.execute(select(Deletion.receipt)).scalar_one()
            due = closed["images"]["due"] = (datetime.fromisoformat(closed["images"]["due"]) - passed).isoformat()
            session.execute(update(Deletion).values(receipt=closed))
        for command in ("receipt", "verify"):
            assert json.loads((await run(command, request.workflow_id, "--json")).out)["images_now"]["overdue"] == overdue, due
            said = (await run(command, request.workflow_id)).out
            assert len(re.findall(r"^  not purged in time: see images status +1$", said, re.MULTILINE)) == overdue


@pytest.mark.thorough
async def test_what_has_become_of_images_since_is_said_and_changes_no_digest(
    images: ImageSteps, run: Run, tmp_path: Path
) -> None:
    """Hidden images are purged after the receipt is closed: it stays what it was."""
    stack = images.stack
    one = stack.world.snapshot(images.project, {"a": b"a screen"})
    images.hide(images.delete(one))
    request = stack.request([one.id], images="delete")
    images.steps.close(request)
    digests = set[str]()
    for now in ("1 hidden, 0 purged", "0 hidden, 1 purged"):
        page = of_html((await run("receipt", request.workflow_id, "--format", "html")).out)
        assert page.values["Images by now"].startswith(now)
        printed = await run("receipt", request.workflow_id, "--json")
        assert "images_now" in json.loads(printed.out)
        (tmp_path / "receipt.json").write_text(printed.out)
        digests |= {page.code[0], shell(tmp_path, page.code[1]).split()[0]}
        images.to_the_end()
    assert len(digests) == 1


@in_each_form
async def test_a_stranger_verifies_the_signature_with_what_the_page_says(
    stack: Stack, run: Run, closed: DeletionRequest, tmp_path: Path, key_file: Path, form: str, read: Callable[[str], Page]
) -> None:
    """And with the file of `--signature`. Of a changed receipt the signature is none."""
    setting = {"ARTIFACT_DELETION_RECEIPT_KEY_FILE": str(key_file)}
    page = read((await run("receipt", closed.workflow_id, "--format", form, **setting)).out)
    digest, commands, signature, fingerprint, verifying = (one.strip() for one in page.code)
    printed = await run("receipt", closed.workflow_id, "--json", "--signature", tmp_path / "receipt.sig", **setting)
    assert (printed.code, printed.err) == (DONE, "")
    (tmp_path / "receipt.json").write_text(printed.out)
    assert shell(tmp_path, commands).split()[0] == digest
    content, public = (tmp_path / "receipt.canonical").read_bytes(), tmp_path / "receipt-key.pub.pem"
    assert (tmp_path / "receipt.sig").read_bytes() == base64.b64decode(signature)
    key: Any = load_pem_public_key(public.read_bytes())
    key.verify(base64.b64decode(signature), content)
    assert hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest() == fingerprint
    assert SECRET not in page.source
    if not OPENSSL:
        return
    said = shell(tmp_path, verifying)
    assert fingerprint in said
    assert said.endswith("Signature Verified Successfully\n")
    *_, in_document = blocks(RECEIPT, "sh")
    assert in_document.splitlines() == [verifying.splitlines()[0], verifying.splitlines()[-1]]
    assert shell(tmp_path, in_document) == said
    (tmp_path / "receipt.canonical").write_bytes(content.replace(b'"complete":true', b'"complete":false'))
    with pytest.raises(subprocess.CalledProcessError):
        shell(tmp_path, in_document)


def pem(key: Any, password: str | None = None) -> bytes:
    protection = BestAvailableEncryption(password.encode()) if password else NoEncryption()
    content: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection)
    return content


def public_alone() -> bytes:
    return Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


NO_KEY, OTHER_KIND = (
    "the file holds no private key in PEM without a password",
    "the file holds a key of another kind than Ed25519",
)
UNUSABLE: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", NO_KEY),
    "words": (SECRET.encode, NO_KEY),
    "spoilt": (lambda: pem(Ed25519PrivateKey.generate()).replace(b"MC4", b"AAA"), NO_KEY),
    "with a password": (lambda: pem(Ed25519PrivateKey.generate(), SECRET), NO_KEY),
    "public": (public_alone, NO_KEY),
    "rsa": (lambda: pem(rsa.generate_private_key(65537, 2048)), OTHER_KIND),
    "elliptic curve": (lambda: pem(ec.generate_private_key(ec.SECP256R1())), OTHER_KIND),
}


@pytest.mark.parametrize("kind", UNUSABLE)
async def test_a_key_that_cannot_be_used_is_named_by_its_setting_and_never_by_its_content(
    run: Run, closed: DeletionRequest, tmp_path: Path, kind: str
) -> None:
    made, sentence = UNUSABLE[kind]
    file = tmp_path / "key.pem"
    file.write_bytes(made())
    setting = {"ARTIFACT_DELETION_RECEIPT_KEY_FILE": str(file)}
    done = await run("receipt", closed.workflow_id, "--format", "html", **setting)
    assert (done.code, done.out) == (BAD_USAGE, "")
    assert done.err == f"ARTIFACT_DELETION_RECEIPT_KEY_FILE: {sentence}\n"
    assert (await run("receipt", closed.workflow_id, **setting)).code == DONE, "which needs no key"


async def test_a_file_that_cannot_be_read_or_written_is_one_sentence(
    run: Run, closed: DeletionRequest, tmp_path: Path, key_file: Path
) -> None:
    asked = ("receipt", closed.workflow_id, "--signature", tmp_path / "none" / "receipt.sig")
    unset = await run(*asked)
    assert_one_sentence(unset, BAD_USAGE)
    assert unset.err == "there is no signature: ARTIFACT_DELETION_RECEIPT_KEY_FILE names no key\n"
    unwritten = await run(*asked, ARTIFACT_DELETION_RECEIPT_KEY_FILE=str(key_file))
    assert (unwritten.code, unwritten.err) == (BAD_USAGE, "the signature cannot be written (FileNotFoundError)\n")
    unread = await run(*asked, ARTIFACT_DELETION_RECEIPT_KEY_FILE=str(tmp_path / "no-key.pem"))
    assert unread.err == "ARTIFACT_DELETION_RECEIPT_KEY_FILE: the file cannot be read (FileNotFoundError)\n"
    folder = await run(*asked, ARTIFACT_DELETION_RECEIPT_KEY_FILE=str(tmp_path))
    assert (folder.code, folder.err) == (BAD_USAGE, "ARTIFACT_DELETION_RECEIPT_KEY_FILE: must be a file\n")


async def test_formats_are_the_same_as_before_where_they_were_there_before(run: Run, closed: DeletionRequest) -> None:
    for before, now in (((), ("--format", "text")), (("--json",), ("--format", "JSON"))):
        assert await run("receipt", closed.workflow_id, *before) == await run("receipt", closed.workflow_id, *now)
    assert (await run("receipt", closed.workflow_id, "--json", "--format", "json")).code == DONE
    assert_one_sentence(await run("receipt", closed.workflow_id, "--json", "--format", "html"), BAD_USAGE)


@in_each_form
async def test_a_page_of_a_deletion_that_was_opened_again_says_that_it_is_of_an_earlier_run(
    stack: Stack, run: Run, closed: DeletionRequest, form: str, read: Callable[[str], Page]
) -> None:
    """The page goes where no one sees standard error."""
    stack.accept(closed)
    done = await run("receipt", closed.workflow_id, "--format", form)
    assert done.code == FAILED
    assert "The deletion is accepted again: this is the receipt of an earlier run." in read(done.out).said


def shell(folder: Path, commands: str) -> str:
    """What they print, in that folder."""
    line = ["bash", "-euc", commands]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=60, check=True).stdout
