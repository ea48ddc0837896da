"""API keys: read from a file or the environment, compared without telling by time how much of one was right."""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path

from mmrec.errors import ConfigError
from mmrec.serve.errors import KeyMissingError

VARIABLE = "MMREC_API_KEYS"


class Keys:
    """The keys that open a service; none means that it is open.

    Args:
        keys: As they are.
    """

    def __init__(self, keys: Iterable[str] = ()) -> None:
        # hashes are of one length, so that a comparison does not tell a key's length
        self._hashes = [sha256(key.encode()).digest() for key in keys]

    def __len__(self) -> int:
        return len(self._hashes)

    def check(self, headers: Mapping[str, str]) -> None:
        """Look for ``Authorization: Bearer KEY`` or ``X-API-Key: KEY``.

        Args:
            headers: Of the request, names in lower case.

        Raises:
            KeyMissingError: Neither, or a key that is none of these.
        """
        if not self._hashes:
            return
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = headers.get("x-api-key") or (token.strip() if scheme.lower() == "bearer" else "")
        digest = sha256(given.encode()).digest()
        same = [hmac.compare_digest(digest, known) for known in self._hashes]  # all of them, always
        if not any(same):
            raise KeyMissingError(
                "an API key", "an unknown one" if given else "none", "send Authorization: Bearer KEY"
            )


def read_keys(file: Path | None) -> Keys:
    """Keys from a file, one a line, or from the environment, separated by commas or spaces.

    Raises:
        ConfigError: A file that cannot be read or has no keys, or keys that no header can hold.
    """
    if file is None:
        found = os.environ.get(VARIABLE, "").replace(",", " ").split()
        place = VARIABLE
    else:
        place = str(file)
        try:
            found = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError("a file with an API key on each line", f"{error}", "check --keys") from None
        if not found:
            raise ConfigError(f"an API key in {place}", "none", "write one a line, or leave --keys out")
    if not all(key.isascii() and key.isprintable() and " " not in key for key in found):
        raise ConfigError(
            f"API keys of ASCII characters without spaces in {place}", "others", "choose another key"
        )
    return Keys(found)
