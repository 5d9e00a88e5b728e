"""Downloads, against a small hub on this machine: resumed, checked, pinned, refused where it is gated, and offline."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from fmcache.errors import ModelError
from fmcache.extract.hub import hub_file, hub_folder
from fmcache.extract.models.card import Published
from fmcache.extract.registry import resolve_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER = "fedcba9876543210fedcba9876543210fedcba98"
WEIGHTS = np.random.default_rng(0).bytes(3_000_000)
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()


class Hub(ThreadingHTTPServer):
    """A hub with two repositories: org/open and org/gated; it remembers what was asked of it."""

    def __init__(self) -> None:
        self.files = {"model.safetensors": WEIGHTS, "config.json": b'{"model_type": "none"}'}
        self.requests: list[tuple[str, str, str]] = []
        self.break_after: int | None = None
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path = self.path.split("?")[0]
        if "org/" in path:
            self.server.requests.append((self.command, path, self.headers.get("Range", "")))
        if "org/gated" in path:
            return self.reply(403, b"{}", {"X-Error-Code": "GatedRepo"}, body)
        if not path.startswith(("/org/open", "/api/models/org/open")):
            return self.reply(404, b"{}", {"X-Error-Code": "RepoNotFound"}, body)
        if path.startswith("/api/models"):
            return self.api(path, body)
        revision, name = path.removeprefix("/org/open/resolve/").split("/", 1)
        if revision not in ("main", COMMIT):
            return self.reply(404, b"{}", {"X-Error-Code": "RevisionNotFound"}, body)
        if name not in self.server.files:
            return self.reply(404, b"{}", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, body)
        return self.file(self.server.files[name], body)

    def api(self, path: str, body: bool) -> None:
        names = [{"rfilename": name} for name in self.server.files]
        content: object = {"id": "org/open", "sha": COMMIT, "siblings": names}
        if "/tree/" in path:
            content = [
                {"type": "file", "path": name, "size": len(of), "oid": hashlib.sha256(of).hexdigest()}
                for name, of in self.server.files.items()
            ]
        self.reply(200, json.dumps(content).encode(), {"Content-Type": "application/json"}, body)

    def file(self, data: bytes, body: bool) -> None:
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        head = {
            "X-Repo-Commit": COMMIT,
            "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
            "Accept-Ranges": "bytes",
        }
        if start:
            head["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        part = data[start:]
        limit = self.server.break_after
        if body and limit is not None and len(part) > limit:
            self.server.break_after = None
            self.head(206 if start else 200, len(part), head)
            self.wfile.write(part[:limit])
            self.close_connection = True
            return
        self.reply(206 if start else 200, part, head, body)

    def head(self, status: int, size: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(size))
        self.end_headers()

    def reply(self, status: int, data: bytes, headers: dict[str, str], body: bool) -> None:
        self.head(status, len(data), headers)
        if body:
            self.wfile.write(data)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    import huggingface_hub.constants as constants
    from huggingface_hub import file_download, hf_api

    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(
        file_download, "HUGGINGFACE_CO_URL_TEMPLATE", constants.HUGGINGFACE_CO_URL_TEMPLATE, False
    )
    monkeypatch.setattr(hf_api.HfApi, "endpoint", address, False)
    monkeypatch.setattr(hf_api.api, "endpoint", address)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(
        constants, "DOWNLOAD_CHUNK_SIZE", 1 << 16
    )  # what is written, and so resumed, at a time
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield server
    server.shutdown()
    server.server_close()


def card(**where: str):  # type: ignore[no-untyped-def]
    return replace(
        resolve_model("dinov2"), published=Published(**{"hub": "org/open", "revision": COMMIT, **where})
    )


def test_a_file_is_fetched_at_its_commit_and_then_taken_from_the_cache(hub: Hub) -> None:
    path, commit = hub_file(card(sha256=SHA256))
    assert (path.read_bytes(), commit) == (WEIGHTS, COMMIT)
    asked = len(hub.requests)
    assert all(COMMIT in where for _, where, _ in hub.requests)
    again, _ = hub_file(card(sha256=SHA256))
    assert again == path
    assert len(hub.requests) == asked, "a pinned file that is here is not asked for again"


def test_without_a_commit_the_head_is_taken_and_named(hub: Hub) -> None:
    assert hub_file(card(revision=""))[1] == COMMIT


def test_a_broken_download_is_resumed(hub: Hub) -> None:
    hub.break_after = 1_000_000
    path, _ = hub_file(card(sha256=SHA256))
    assert path.read_bytes() == WEIGHTS
    ranges = [range_ for method, _, range_ in hub.requests if method == "GET" and range_]
    assert ranges, "the second request asks only for the rest"
    assert int(ranges[-1].removeprefix("bytes=").split("-")[0]) > 0


def test_a_wrong_hash_is_refused_and_the_file_removed(hub: Hub) -> None:
    with pytest.raises(ModelError, match="is not the file that the card of dinov2-base names") as error:
        hub_file(card(sha256="0" * 64))
    assert SHA256 in error.value.found
    hub.requests.clear()
    assert hub_file(card(sha256=SHA256))[0].read_bytes() == WEIGHTS
    assert any(method == "GET" for method, _, _ in hub.requests), "the refused bytes were not kept"


def test_a_repository_from_before_safetensors(hub: Hub) -> None:
    hub.files = {"pytorch_model.bin": WEIGHTS}
    path, _ = hub_file(card())
    assert (path.name, path.read_bytes()) == ("pytorch_model.bin", WEIGHTS)


def test_a_folder_holds_configuration_and_weights(hub: Hub) -> None:
    folder, commit = hub_folder(card(file=""))
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert commit == COMMIT


@pytest.mark.parametrize(
    ("where", "says", "helps"),
    [
        ({"hub": "org/gated", "gated": "Accept the terms at X."}, "not open to you", "hf auth login"),
        ({"revision": OTHER}, "cannot be downloaded", "--checkpoint"),
        ({"file": "other.bin"}, "cannot be downloaded", "--checkpoint"),
        ({"hub": "org/none"}, "cannot be downloaded", "Check the name"),
    ],
    ids=["gated", "revision", "file", "repository"],
)
def test_what_cannot_be_had_is_said_in_three_lines(
    hub: Hub, where: dict[str, str], says: str, helps: str
) -> None:
    with pytest.raises(ModelError, match=says) as error:
        hub_file(card(**where))
    assert helps in error.value.do
    assert str(error.value).count("\n") == 2
    if "gated" in where:
        assert error.value.found == "Accept the terms at X."


def test_offline_is_respected(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="is not on this machine") as error:
        hub_file(card())
    assert "offline mode" in error.value.found
    assert f"org/open/tree/{COMMIT}" in error.value.do
    assert not hub.requests
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub_file(card())
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub_file(card())[0].read_bytes() == WEIGHTS
