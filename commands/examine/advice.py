"""What to do about a request that a store did not answer, or not as it should."""

import re

_KEYS = "S3_ACCESS_KEY and S3_SECRET_KEY"
_ADVICE = (
    (r"\bNoSuchBucket\b", "set BUCKET: there is none of that name where S3_ENDPOINT leads"),
    (r"\bSSLError\b", "does S3_ENDPOINT speak TLS, with a certificate for its name that this machine trusts (AWS_CA_BUNDLE)?"),
    (r"\bRequestTimeTooSkewed\b", "this machine's clock and the store's differ too much: set them, as by NTP"),
    (r"\bInvalidAccessKeyId\b", f"set {_KEYS}: the store knows no such access key"),
    (r"\bSignatureDoesNotMatch\b", f"set {_KEYS}: the secret key is not the access key's, or a proxy changes requests"),
    (r"\b(NoCredentialsError|PartialCredentialsError|CredentialRetrievalError)\b", f"set {_KEYS}: there are no credentials"),
    (r"\b(ExpiredToken|InvalidToken)\b", "the credentials are temporary, and no longer valid: renew them"),
    (
        r"\b(AuthorizationHeaderMalformed|PermanentRedirect|IllegalLocationConstraintException)\b",
        "set S3_REGION to the bucket's",
    ),
    (r"could not be reached", "is the store up, and S3_ENDPOINT right? does a firewall or proxy stand between?"),
    (r"something else than the object store", "S3_ENDPOINT leads to something else: a login page, perhaps, or a proxy"),
)


def advice(said: str, otherwise: str) -> str:
    """What to do about a failed request, by what our own error says of it."""
    return next((do for pattern, do in _ADVICE if re.search(pattern, said)), otherwise)
