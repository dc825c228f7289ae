"""Downloads: resumed where they were cut, tried again, checked, and given up only for a reason."""

from __future__ import annotations

import hashlib
import http.server
import io
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anymamba.errors import AnymambaError
from anymamba.installer.download import NotPublished, download


def archive() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("a.py", "x = 1\n" * 20000)
    return stream.getvalue()


CONTENT = archive()


class Handler(http.server.BaseHTTPRequestHandler):
    """Cuts the first answers short; /missing is 404; /busy answers 503 once; /ranges-not ignores ranges."""

    cuts = 0
    busy = 0
    ranges: list[str] = []

    def do_GET(self) -> None:
        cls = type(self)
        asked = self.headers.get("Range", "")
        cls.ranges.append(asked)
        if "missing" in self.path:
            self.send_error(404)
            return
        if cls.busy:
            cls.busy -= 1
            self.send_error(503)
            return
        start = int(asked[6:-1]) if asked and "ranges-not" not in self.path else 0
        body = CONTENT[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if cls.cuts:
            cls.cuts -= 1
            body = body[: len(body) // 2]
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("NO_PROXY", "*")
    Handler.cuts, Handler.busy, Handler.ranges = 0, 0, []
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{made.server_port}"
    made.shutdown()
    made.server_close()


def test_a_cut_download_goes_on_where_it_was_cut(server: str, tmp_path: Path) -> None:
    Handler.cuts = 2
    seen: list[tuple[int, int]] = []
    path = download(server + "/x%2By.whl", tmp_path, pause=0.0, progress=lambda have, total: seen.append((have, total)))
    assert path.name == "x+y.whl" and path.read_bytes() == CONTENT
    assert Handler.ranges[0] == "" and Handler.ranges[1] == f"bytes={len(CONTENT) // 2}-"
    assert seen[-1] == (len(CONTENT), len(CONTENT))


def test_a_server_without_ranges_begins_anew(server: str, tmp_path: Path) -> None:
    Handler.cuts = 1
    assert download(server + "/ranges-not.whl", tmp_path, pause=0.0).read_bytes() == CONTENT


def test_a_busy_server_is_asked_again(server: str, tmp_path: Path) -> None:
    Handler.busy = 2
    assert download(server + "/x.whl", tmp_path, pause=0.0).read_bytes() == CONTENT
    assert len(Handler.ranges) == 3


def test_what_is_not_published_is_not_asked_for_again(server: str, tmp_path: Path) -> None:
    with pytest.raises(NotPublished):
        download(server + "/missing.whl", tmp_path, pause=0.0)
    assert len(Handler.ranges) == 1


def test_checksum(server: str, tmp_path: Path) -> None:
    right = hashlib.sha256(CONTENT).hexdigest()
    assert download(server + "/x.whl", tmp_path, checksum=right, pause=0.0).exists()
    with pytest.raises(AnymambaError) as caught:
        download(server + "/y.whl", tmp_path, checksum="0" * 64, attempts=2, pause=0.0)
    assert right in str(caught.value.why)
    assert not (tmp_path / "y.whl").exists() and not (tmp_path / "y.whl.part").exists()


def test_a_page_instead_of_a_wheel_is_refused(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "CONTENT", b"<html>sign in</html>")
    with pytest.raises(AnymambaError) as caught:
        download(server + "/x.whl", tmp_path, attempts=2, pause=0.0)
    assert caught.value.code == "download"


def test_an_unreachable_server_is_given_up_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    with pytest.raises(AnymambaError) as caught:
        download("http://127.0.0.1:9/x.whl", tmp_path, attempts=2, pause=0.0)
    assert caught.value.why and "--wheel" in str(caught.value.fix)
