"""Keyed hashes in the place of a site's own case and patient identifiers."""

from __future__ import annotations

import hashlib
import hmac
import os
from pathlib import Path

from medshadow.errors import DataError

ENVIRONMENT = "MEDSHADOW_SITE_KEY"
"""Environment variable that holds the key itself, where no file is named."""
MIN_LENGTH = 32
_DIGITS = 24
_MAKE_ONE = (
    "make one with: python -c 'import secrets; print(secrets.token_hex(32))' > site.key; keep it "
    "out of the archive and of backups that others read: with it, names can be matched to hashes"
)


class SiteKey:
    """A secret that turns identifiers into names which say nothing without it.

    Args:
        secret: 32 bytes or more.

    Example:
        >>> key = SiteKey(b"0" * 32)
        >>> key.hashed("case", "patient 7"), key
        ('7f09fc104c0fcc4864ffe799', SiteKey(...))
    """

    def __init__(self, secret: bytes) -> None:
        if len(secret) < MIN_LENGTH:
            raise DataError(
                f"site key: found {len(secret)} characters; expected {MIN_LENGTH} or more; "
                f"{_MAKE_ONE}"
            )
        self._secret = secret

    def __repr__(self) -> str:
        return "SiteKey(...)"

    def __reduce__(self) -> str:
        raise TypeError("a site key is not pickled")

    def hashed(self, kind: str, identifier: str) -> str:
        """HMAC-SHA256 of an identifier, its first 96 bits as 24 hexadecimal digits.

        The same for the same key, so that an archive that has grown keeps its names; other for
        identifiers of another kind, so that a case id does not give a patient id away.

        Source: RFC 2104, FIPS 198-1.
        """
        message = f"{kind}\0{identifier}".encode()
        return hmac.new(self._secret, message, hashlib.sha256).hexdigest()[:_DIGITS]


def read_site_key(path: str | os.PathLike[str] | None = None) -> SiteKey:
    """The site's key: the text of a file, or of the environment variable MEDSHADOW_SITE_KEY.

    Args:
        path: the file; white space around the key does not count.

    Raises:
        DataError: there is no key, or it is shorter than 32 characters; the message tells how to
            make one.
    """
    if path is not None:
        try:
            return SiteKey(Path(path).read_bytes().strip())
        except OSError as error:
            raise DataError(
                f"site key: {path} cannot be read ({error.strerror}); {_MAKE_ONE}"
            ) from error
    secret = os.environ.get(ENVIRONMENT, "").strip()
    if not secret:
        raise DataError(
            "site key: an archive's case and group ids are replaced by keyed hashes, and there is "
            f"no key: name its file, or set {ENVIRONMENT} to the key; {_MAKE_ONE}"
        )
    return SiteKey(secret.encode())
