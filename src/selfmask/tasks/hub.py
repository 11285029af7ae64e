"""Masks on the Hugging Face hub: a repository holds a mask file, and a card that says what it is.

What comes down is bytes that `parse_mask` checks; nothing of a repository is run or unpickled. The client is
imported when it is needed: it is an extra.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from selfmask._common.files import write_atomically
from selfmask.errors import HubError, MaskFileError, MissingExtraError, SettingsError
from selfmask.maskfile.loading import MAX_WEIGHTS, parse_mask
from selfmask.maskfile.mask import Mask
from selfmask.tasks.card import GENERATED, model_card

FILENAME, CARD = "mask.safetensors", "README.md"
MAX_BYTES = 1 << 30
"""A download larger than this is not read: 2³¹ weights packed take a quarter of it."""

# The client has spoken through each of these in turn, and their errors of transport have no common class.
_TRANSPORTS = ("requests", "urllib3", "httpx", "httpx2", "httpcore", "httpcore2")


@dataclass(frozen=True)
class Published:
    """What a push did.

    Attributes:
        repository: the repository, "owner/name".
        url: of its page.
        commit: the commit that holds the mask: `from_hub(..., revision=commit)` gives this file for ever.
        private: whether only its owner can see it.
        card: whether the card was written; False where somebody has written one of their own.
    """

    repository: str
    url: str
    commit: str
    private: bool
    card: bool


def push_to_hub(
    path: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool = True,
    token: str | None = None,
    endpoint: str | None = None,
    message: str | None = None,
    filename: str = FILENAME,
    license: str = "unknown",
    rows: Mapping[str, Any] | None = None,
) -> Published:
    """Publish a mask file with a card made from its metadata; the repository is made if it does not exist.

    Args:
        path: the mask file. It is checked first.
        repo_id: "owner/name", or "name" in your own account.
        private: a private repository is never turned public, and a mask that is meant to be private is not pushed
            into a public one. A mask learnt on private images can leak something of them.
        token: of an account that may write there; without it, the one of `hf auth login` or HF_TOKEN.
        endpoint: another hub's address.
        message: of the commit.
        filename: the mask file's name in the repository.
        license: for the card, one of the hub's identifiers ("cc-by-4.0").
        rows: results for the card, as `Rows.to_json` gives them (`result.json` of a run has them under "rows").

    Raises:
        HubError: no network, no token or no right to write, or the repository is public.
        MaskFileError: not a mask file, or a damaged one; nothing was sent.
        MissingExtraError: `huggingface_hub` is not installed.

    Example:
        >>> done = selfmask.push_to_hub("runs/photos/mask.safetensors", "me/photos", license="cc-by-4.0")
        >>> done.private, done.url
        (True, 'https://huggingface.co/me/photos')
    """
    check_license(license)
    client = _client()
    path = Path(path)
    content = path.read_bytes()
    mask = parse_mask(content, path)
    token = token or client.get_token()
    if token is None:
        raise HubError(
            "pushing needs a token of your account: call `hf auth login` once, set HF_TOKEN, or pass token="
        )
    api = client.HfApi(endpoint=endpoint, token=token)
    with _explained(repo_id, api.endpoint):
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        info = api.repo_info(repo_id)
        if private and not info.private:
            raise HubError(
                f"{repo_id} exists and is public, and the mask is to be private: name another repository, or say that "
                "it may be public (private=False, --no-private)"
            )
        files = {one.rfilename for one in info.siblings or ()}
        ours = CARD not in files or GENERATED in _text_of(client, api, repo_id, CARD)
        additions = [client.CommitOperationAdd(filename, content)]
        if ours:
            card = model_card(mask, repo_id, filename=filename, license=license, rows=rows)
            additions.append(client.CommitOperationAdd(CARD, card.encode()))
        commit = api.create_commit(
            repo_id, additions, commit_message=message or f"selfmask: {filename}, {len(content):,} bytes"
        )
    return Published(repo_id, f"{api.endpoint}/{repo_id}", commit.oid, bool(info.private), ours)


def check_license(license: str) -> None:
    """Raises `SettingsError` for what cannot be one of the hub's identifiers."""
    if re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", license) is None:
        raise SettingsError(f"license is one of the hub's identifiers, cc-by-4.0 say, got {license!r}")


def from_hub(
    repo_id: str,
    *,
    filename: str = FILENAME,
    revision: str | None = None,
    token: str | None = None,
    endpoint: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    max_weights: int = MAX_WEIGHTS,
) -> Mask:
    """A mask from the hub, checked as `load` checks; it is fetched once and then kept in the hub's own cache.

    Args:
        repo_id: "owner/name".
        filename: the mask file in it.
        revision: a branch, a tag or a commit. Only a commit gives the same mask for ever.
        token: for a private repository, where you are not logged in.
        endpoint: another hub's address.
        cache_dir: another cache.
        max_weights: as for `load`.

    Raises:
        HubError: no network (and not in the cache), no such repository, revision or file, or no right to read it.
        MaskFileError: what came is not a mask file, or is damaged; it is removed from the cache.
        MissingExtraError: `huggingface_hub` is not installed.

    Example:
        >>> mask = selfmask.from_hub("me/photos")
        >>> model = selfmask.backbone_of(mask).module
        >>> with mask.apply(model):
        ...     features = model(images)
    """
    where = {"revision": revision, "token": token, "endpoint": endpoint, "cache_dir": cache_dir}
    return _fetch(repo_id, filename, where, max_weights)[0]


def save_from_hub(
    repo_id: str,
    out: str | os.PathLike[str],
    *,
    filename: str = FILENAME,
    revision: str | None = None,
    token: str | None = None,
    endpoint: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Mask:
    """Fetch a mask file and write it to `out`, whole and checked or not at all. Arguments and errors as `from_hub`."""
    out = Path(out)
    if out.is_dir():
        raise SettingsError(f"{out} is a folder; name the file to write, {out / FILENAME} say")
    where = {"revision": revision, "token": token, "endpoint": endpoint, "cache_dir": cache_dir}
    mask, content = _fetch(repo_id, filename, where, MAX_WEIGHTS)
    write_atomically(out, content)
    return mask


def commit_of(mask: Mask) -> str | None:
    """The commit that a mask of `from_hub` came from, or None for a mask from elsewhere."""
    for folder, name in pairwise(reversed(mask.path.parts[:-1])):
        if name == "snapshots" and re.fullmatch(r"[0-9a-f]{40}", folder):
            return folder
    return None


def _fetch(repo_id: str, filename: str, where: Mapping[str, Any], max_weights: int) -> tuple[Mask, bytes]:
    """The mask and the very bytes that were checked: the cache is open to other programs."""
    client = _client()
    endpoint = where["endpoint"] or client.constants.ENDPOINT
    with _explained(repo_id, endpoint, filename, where["revision"]):
        path = _download(client, repo_id, filename, where)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise MaskFileError(f"{filename}: {path.stat().st_size} bytes, more than any mask file has")
        content = path.read_bytes()
        return parse_mask(content, path, max_weights), content
    except MaskFileError as error:
        # The name in the cache is a link to the bytes, which other revisions share.
        for part in (path.resolve(), path):
            part.unlink(missing_ok=True)
        raise MaskFileError(f"{repo_id} on the hub: {error}. Nothing of it was kept") from None


def _download(client: Any, repo_id: str, filename: str, where: Mapping[str, Any]) -> Path:
    """The file in the cache, fetched first where it is not there, or where the revision may have moved on."""
    revision, token, cache = where["revision"], where["token"], where["cache_dir"]
    kept = client.try_to_load_from_cache(repo_id, filename, cache_dir=cache, revision=revision)
    if isinstance(kept, str) and re.fullmatch(r"[0-9a-f]{40}", revision or ""):
        return Path(kept)
    # Asked first, since the download itself would try an absent network for half a minute, and take any size.
    address = client.hf_hub_url(repo_id, filename, revision=revision, endpoint=where["endpoint"])
    try:
        size = client.get_hf_file_metadata(address, token=token).size
    except Exception as error:
        if isinstance(kept, str) and _out_of_reach(error):
            return Path(kept)
        raise
    if size is not None and size > MAX_BYTES:
        raise MaskFileError(
            f"{repo_id}: {filename} has {size:,} bytes, more than any mask file; nothing was fetched"
        )
    return Path(client.hf_hub_download(repo_id, filename, **where))


def _client() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.constants  # the package imports its parts when they are asked for by name only
        import huggingface_hub.errors
    except ImportError as error:
        raise MissingExtraError("the hub needs the extra 'hub': pip install 'selfmask[hub]'") from error
    return huggingface_hub


def _text_of(client: Any, api: Any, repo_id: str, filename: str) -> str:
    """A small text file of a repository, past the cache."""
    with tempfile.TemporaryDirectory() as folder:
        path = client.hf_hub_download(
            repo_id, filename, token=api.token, endpoint=api.endpoint, local_dir=folder
        )
        return Path(path).read_text(encoding="utf-8", errors="replace")


@contextlib.contextmanager
def _explained(
    repo_id: str, endpoint: str, filename: str | None = None, revision: str | None = None
) -> Iterator[None]:
    """Turns the client's many errors into a `HubError` of one line that says what to do."""
    try:
        yield
    except Exception as error:
        why = _why(error, repo_id, endpoint, filename, revision)
        if why is None:
            raise
        raise HubError(why) from error


def _out_of_reach(error: BaseException) -> bool:
    transport = type(error).__module__.partition(".")[0] in _TRANSPORTS
    return transport or isinstance(error, (ConnectionError, TimeoutError))


def _why(
    error: BaseException, repo_id: str, endpoint: str, filename: str | None, revision: str | None
) -> str | None:
    from huggingface_hub import errors

    at = f"{repo_id} on {endpoint}"
    said = " ".join(str(error).split())
    if isinstance(error, errors.HFValidationError):
        return f"{repo_id!r} is no name of a repository, which is 'owner/name': {said}"
    if isinstance(error, errors.GatedRepoError):
        return f"{at} is gated: ask for access on its page, then use a token of that account (HF_TOKEN)"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{at} does not exist, or is private and needs a token that may see it (`hf auth login`, HF_TOKEN)"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{at} has no revision {revision or 'main'!r}: give a branch, a tag or a commit of it"
    cause = _why(error.__cause__, repo_id, endpoint, filename, revision) if error.__cause__ else None
    if isinstance(error, errors.LocalEntryNotFoundError):
        return (
            cause or f"{endpoint} cannot be reached, and {filename} of {repo_id} is not in the cache: {said}"
        )
    if isinstance(error, errors.EntryNotFoundError):
        return f"{at} has no file {filename!r}; name the mask file (filename=, --filename)"
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        if status in (401, 403):
            return f"{at}: the token is not valid, or may not do this ({status}); make one that may write: {said}"
        return f"{at}: the hub answered {status}: {said}"
    if _out_of_reach(error):
        return f"{endpoint} cannot be reached ({said or type(error).__name__}): is there a network?"
    if isinstance(error, (errors.FileMetadataError, OSError, ValueError)) and type(error).__module__ in (
        "builtins",
        "json.decoder",
        "huggingface_hub.errors",
    ):
        # A body that breaks off, an answer that is no hub's; a full disk keeps its own error.
        return None if getattr(error, "errno", None) is not None else f"{at}: {said}"
    return cause if isinstance(error, RuntimeError) else None
