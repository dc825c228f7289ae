"""A file from the release page: resumed where it was cut, tried again with growing pauses, checked where a checksum is published."""

from __future__ import annotations

import hashlib
import http.client
import json
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

from anymamba.errors import AnymambaError
from anymamba.language import _, ngettext

ATTEMPTS = 8
_AGENT = {"User-Agent": "anymamba-install"}


class NotPublished(AnymambaError):
    """The server says that there is no such file: trying again is of no use."""


def download(
    url: str,
    folder: Path,
    *,
    checksum: str | None = None,
    attempts: int = ATTEMPTS,
    pause: float = 1.0,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Returns the path. HTTP_PROXY, HTTPS_PROXY and NO_PROXY are honoured. checksum: SHA-256 in hexadecimal.

    Raises NotPublished on 403, 404 and 410, AnymambaError ("download") when every attempt failed or the file is not right.
    """
    target = folder / unquote(url.rsplit("/", 1)[1])
    part = target.with_name(target.name + ".part")
    folder.mkdir(parents=True, exist_ok=True)
    reason = ""
    for attempt in range(attempts):
        if attempt:
            time.sleep(min(pause * 2 ** (attempt - 1), 60.0))
        try:
            _fetch(url, part, progress)
        except urllib.error.HTTPError as error:
            if error.code in (403, 404, 410):
                raise NotPublished(
                    "not-published", _("there is no {url} (HTTP {code})").format(url=url, code=error.code)
                ) from error
            if error.code == 416:  # the part is longer than the file: begin anew
                part.unlink(missing_ok=True)
            reason = f"HTTP {error.code}"
        except (OSError, http.client.HTTPException) as error:  # a reset, a timeout, a name that does not resolve
            reason = str(error) or type(error).__name__
        else:
            reason = _wrong(part, checksum)
            if not reason:
                part.replace(target)
                return target
            part.unlink()
    raise AnymambaError(
        "download",
        ngettext(
            "{url} could not be downloaded in {attempts} attempt",
            "{url} could not be downloaded in {attempts} attempts",
            attempts,
        ).format(url=url, attempts=attempts),
        reason,
        _("set HTTPS_PROXY, or fetch the file elsewhere and give it with --wheel FILE"),
    )


def published_checksum(repository: str, tag: str, name: str) -> str | None:
    """SHA-256 of a release file as GitHub states it; None where it states none or cannot be asked."""
    url = f"https://api.github.com/repos/{repository}/releases/tags/{tag}"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=_AGENT), timeout=10) as answer:
            assets = json.load(answer)["assets"]
    except (OSError, ValueError, KeyError, http.client.HTTPException):
        return None
    digest = next((item.get("digest") for item in assets if item.get("name") == name), None) or ""
    return digest[7:] if digest.startswith("sha256:") else None


def _fetch(url: str, part: Path, progress: Callable[[int, int], None] | None) -> None:
    have = part.stat().st_size if part.exists() else 0
    headers = dict(_AGENT, **({"Range": f"bytes={have}-"} if have else {}))
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
        if have and answer.status != 206:  # the server sends the whole file again
            have = 0
        total = have + int(answer.headers.get("Content-Length") or 0)
        with open(part, "ab" if have else "wb") as file:
            while block := answer.read(1 << 18):
                file.write(block)
                have += len(block)
                if progress:
                    progress(have, total)
    if have < total:
        raise OSError(_("cut after {have} of {total} bytes").format(have=have, total=total))


def _wrong(part: Path, checksum: str | None) -> str:
    """What is wrong with the finished file, empty when nothing is."""
    if checksum:
        actual = hashlib.sha256(part.read_bytes()).hexdigest()
        if actual != checksum.lower():
            return _("the checksum is {value} instead of {checksum}").format(value=actual, checksum=checksum)
    if not zipfile.is_zipfile(part):
        return _("what arrived is no wheel")
    with zipfile.ZipFile(part) as archive:
        bad = archive.testzip()
    return _("{file} in the wheel is damaged").format(file=bad) if bad else ""
