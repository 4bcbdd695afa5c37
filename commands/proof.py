"""How a stranger knows that a receipt is the one that was given: by a digest of its JSON and, with a key, by a signature.

Both are over the canonical JSON: keys sorted, no spaces, UTF-8. It is made of what `receipt --json` prints, by any program that
reads JSON, and is the same whenever and wherever the receipt is printed.
"""

import base64
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from artifact_deletion.errors import Misconfigured
from artifact_deletion.receipt import DeletionReceipt

IMAGES_NOW = "images_now"
"""What `receipt --json` prints beside the receipt. It changes, so it is no part of the canonical JSON."""
CANONICAL = f"""\
python3 -c 'import json, sys
content = json.load(sys.stdin.buffer)
content.pop("{IMAGES_NOW}", None)
text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
sys.stdout.buffer.write(text.encode())' < receipt.json > receipt.canonical"""
"""The first of two commands by which a stranger computes the digest."""
DIGEST = "sha256sum receipt.canonical"
"""The second."""
FINGERPRINT = "openssl pkey -pubin -in receipt-key.pub.pem -outform DER | sha256sum"
VERIFY = "openssl pkeyutl -verify -pubin -inkey receipt-key.pub.pem -rawin -in receipt.canonical -sigfile receipt.sig"


@dataclass(frozen=True)
class Signature:
    """An Ed25519 signature over the canonical JSON."""

    content: bytes
    fingerprint: str
    """SHA-256 of the public key in DER, hex."""

    @property
    def base64(self) -> str:
        """For a page."""
        return base64.b64encode(self.content).decode()


def canonical(receipt: DeletionReceipt) -> bytes:
    """Return the JSON over which digest and signature are."""
    content = receipt.model_dump(mode="json")
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def digest(receipt: DeletionReceipt) -> str:
    """Return the SHA-256 of the canonical JSON, hex."""
    return hashlib.sha256(canonical(receipt)).hexdigest()


def sign(receipt: DeletionReceipt, key_file: Path) -> Signature:
    """Sign with the key in that file. Raises Misconfigured, and says nothing of what the file holds."""
    # Slow to import, and not needed without a key.
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key  # noqa: PLC0415

    setting = "ARTIFACT_DELETION_RECEIPT_KEY_FILE"
    try:
        key = load_pem_private_key(key_file.read_bytes(), password=None)
    except OSError as error:
        raise Misconfigured(f"{setting}: the file cannot be read ({type(error).__name__})") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise Misconfigured(f"{setting}: the file holds no private key in PEM without a password") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise Misconfigured(f"{setting}: the file holds a key of another kind than Ed25519")
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return Signature(key.sign(canonical(receipt)), hashlib.sha256(public).hexdigest())
