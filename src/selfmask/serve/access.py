"""Who may ask: the token, the names that this machine may be called by, and where neither is needed."""

from __future__ import annotations

import hmac
import os
from pathlib import Path

from selfmask.errors import SettingsError
from selfmask.serve.settings import ServeSettings, is_loopback

VARIABLE = "SELFMASK_TOKEN"
_SHORTEST = 16
OPEN = frozenset({"/", "/health", "/ready"})
"""What everyone may ask for: it tells nothing of the masks."""


def token_of(settings: ServeSettings) -> str | None:
    """The token that callers must show; None where none is needed.

    Raises `SettingsError` where one is needed and there is none, and for one that could be guessed.
    """
    if settings.token_file is not None:
        token, where = _in_file(settings.token_file), str(settings.token_file)
    else:
        token, where = os.environ.get(VARIABLE), VARIABLE
    if token is None:
        if settings.local:
            return None
        raise SettingsError(
            f"--host {settings.host} lets other machines in, which needs a token: write one into a file and name it by "
            f"--token-file, or set {VARIABLE}; or listen at 127.0.0.1"
        )
    if len(token) < _SHORTEST or not token.isascii() or not token.isprintable() or " " in token:
        raise SettingsError(
            f"the token of {where} is to be {_SHORTEST} or more printable ASCII characters without spaces "
            '(python -c "import secrets; print(secrets.token_urlsafe())" makes one)'
        )
    return token


def _in_file(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeError) as error:
        raise SettingsError(f"--token-file {path} cannot be read: {error}") from None


class Access:
    """Whether a request may be answered. token: see `token_of`."""

    def __init__(self, token: str | None) -> None:
        self.token = token

    def refusal(self, path: str, host: str, authorization: str) -> tuple[int, str] | None:
        """Status and reason; None: it may.

        Without a token the Host must be this machine's: else a page from elsewhere could have its own name lead here,
        and read the answers (DNS rebinding).
        """
        if self.token is None:
            if is_loopback(_without_port(host)):
                return None
            return 421, "without a token, only localhost is answered"
        if path in OPEN:
            return None
        kind, _, shown = authorization.partition(" ")
        right = hmac.compare_digest(shown.strip().encode("utf-8", "surrogatepass"), self.token.encode())
        if kind.lower() != "bearer" or not right:
            return 401, "this needs the header Authorization: Bearer TOKEN"
        return None


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
