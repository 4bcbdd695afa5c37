"""A payload codec: all that goes through Temporal is encrypted, and its servers see neither ids nor receipts.

    export DELETION_KEYS=2026b:<base64 of 32 bytes>,2026a:<base64 of 32 bytes>
    export ARTIFACT_DELETION_ADAPTERS=examples.encryption:adapters    # for workers and starter.py

A backend takes the codec and leaves the last line: `Deletions(lambda: connect(codec=from_environment()))`.

The first key encrypts, and all of them decrypt: put a new one in front, and drop the old one when no history needs it any more.
Payloads that were never encrypted are taken as they are, so that plain JSON from other clients still starts a deletion.
"""

import base64
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from temporalio.api.common.v1 import Payload
from temporalio.converter import PayloadCodec

from adapters import Adapters

ENCODING = b"binary/encrypted"
_NONCE_BYTES = 12


@dataclass(frozen=True)
class EncryptionCodec(PayloadCodec):
    """AES-GCM with a random nonce for each payload; the id of the key stands beside it, and is authenticated with it."""

    keys: Mapping[str, bytes]
    """By id, the newest first."""

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Encrypt with the newest key."""
        newest = next(iter(self.keys))
        return [self._encrypted(newest, payload.SerializeToString()) for payload in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Decrypt with the key that each names."""
        return [self._decrypted(one) if one.metadata.get("encoding") == ENCODING else one for one in payloads]

    def _encrypted(self, key_id: str, content: bytes) -> Payload:
        nonce = os.urandom(_NONCE_BYTES)
        data = AESGCM(self.keys[key_id]).encrypt(nonce, content, key_id.encode())
        return Payload(metadata={"encoding": ENCODING, "key": key_id.encode()}, data=nonce + data)

    def _decrypted(self, payload: Payload) -> Payload:
        key_id = payload.metadata["key"]
        nonce, data = payload.data[:_NONCE_BYTES], payload.data[_NONCE_BYTES:]
        return Payload.FromString(AESGCM(self.keys[key_id.decode()]).decrypt(nonce, data, key_id))


def from_environment() -> EncryptionCodec:
    """The keys of DELETION_KEYS."""
    pairs = (pair.partition(":") for pair in os.environ["DELETION_KEYS"].split(","))
    return EncryptionCodec({key_id: base64.b64decode(key) for key_id, _, key in pairs})


adapters = Adapters(codec=from_environment)
