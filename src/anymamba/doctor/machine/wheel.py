"""Is there a prebuilt wheel of the official packages for this machine, and under which URL."""

from __future__ import annotations

from typing import Any, Dict

from anymamba.doctor.compat.host import Host
from anymamba.doctor.compat.table import PREFERRED, release
from anymamba.doctor.compat.wheels import address, wheel_for
from anymamba.language import _


def gather(facts: Dict[str, Any], online: bool) -> Dict[str, Any]:
    """{"reason": why there is none} or {"urls": [...]}, with "reachable" when asked online."""
    host = Host(facts)
    if host.processor not in ("x86_64", "aarch64"):
        return {"reason": _("no wheels for {processor} processors").format(processor=host.processor)}
    urls = []
    for package, version in PREFERRED.items():
        known = release(package, version)
        assert known is not None, "the preferred releases stand in the table"
        file, reason = wheel_for(host, known)
        if file is None:
            return {"reason": reason}
        urls.append(address(known, file))
    found: Dict[str, Any] = {"urls": urls}
    if online:
        found["reachable"] = {url: _reach(url) for url in urls}
    return found


def _reach(url: str) -> str:
    """ "ok", or what went wrong; asks for the head of the file only."""
    # slow to import, and seldom needed
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=5):
            return "ok"
    except (urllib.error.URLError, OSError) as error:
        return str(getattr(error, "reason", None) or error)
