"""A small Hub on 127.0.0.1 for tests: what `huggingface_hub` uses to create, push to and read a repository.

Repositories are kept in memory, one branch each, a dataset's under `datasets/org/name`, a Space's under
`spaces/org/name`. Files of 1 MB and more, and safetensors and Parquet files of any size, go through LFS with its basic
transfer, as on the real Hub without Xet.
"""

import base64
import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_test"
_KINDS = ("models", "datasets", "spaces")
_LFS_SUFFIXES = (".safetensors", ".parquet")


@dataclass
class Repository:
    """Files by path, and the messages of the commits in order."""

    files: dict[str, bytes] = field(default_factory=dict)
    lfs: dict[str, str] = field(default_factory=dict)  # path -> sha256
    commits: list[str] = field(default_factory=list)

    @property
    def sha(self) -> str:
        return hashlib.sha1(f"{len(self.commits)}".encode()).hexdigest()

    def oid(self, path: str) -> str:
        """Git's id of a file's content."""
        content = self.files[path]
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    def entry(self, path: str) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "type": "file",
            "path": path,
            "size": len(self.files[path]),
            "oid": self.oid(path),
        }
        if path in self.lfs:
            entry["lfs"] = {"oid": self.lfs[path], "size": len(self.files[path]), "pointerSize": 134}
        return entry

    def tree(self, folder: str, recursive: bool) -> list[dict[str, Any]]:
        """What lies in a folder (`""`, or ending in a slash): files and folders, at any depth or right in it."""
        found = [path for path in sorted(self.files) if path.startswith(folder)]
        parents = {str(parent) for path in found for parent in PurePosixPath(path).parents}
        folders = sorted(parent for parent in parents if parent != "." and parent.startswith(folder))
        entries = [{"type": "directory", "path": path, "size": 0, "oid": "0" * 40} for path in folders]
        entries += [self.entry(path) for path in found]
        return [entry for entry in entries if recursive or "/" not in entry["path"][len(folder) :]]


class HubServer:
    """Use as a context manager; `endpoint` is what `HF_ENDPOINT` is set to."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.unknown: list[str] = []  # requests that no route answered
        hub = self

        class Handler(_Handler):
            server_hub = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server_hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        parts = self._parts()
        if parts[:2] == ["api", "whoami-v2"]:
            self._json(
                {"type": "user", "name": "tester", "fullname": "tester", "orgs": [], "auth": {"type": "access"}}
            )
        elif parts[0] == "api" and len(parts) >= 4 and parts[1] in _KINDS:
            self._info(_name(parts), parts[4:])
        elif "resolve" in parts[2:4]:
            at = parts.index("resolve", 2)
            self._resolve("/".join(parts[:at]), "/".join(parts[at + 2 :]))
        else:
            self._unknown()

    do_HEAD = do_GET

    def do_POST(self) -> None:
        parts, body = self._parts(), self._body()
        if parts == ["api", "repos", "create"]:
            self._create(json.loads(body))
        elif parts == ["api", "validate-yaml"]:
            self._json({"errors": [], "warnings": []})
        elif parts[0] == "api" and parts[4:5] == ["preupload"] and parts[1] in _KINDS:
            self._preupload(_name(parts), json.loads(body))
        elif parts[0] == "api" and parts[4:5] == ["commit"] and parts[1] in _KINDS:
            self._commit(_name(parts), body)
        elif parts[-4:] == ["info", "lfs", "objects", "batch"]:
            self._lfs_batch(json.loads(body))
        else:
            self._unknown()

    def do_PUT(self) -> None:
        content = self._body()
        oid = self._parts()[-1]
        if hashlib.sha256(content).hexdigest() != oid:
            self._json({"error": "the content is not that of its name"}, 400)
            return
        self.server_hub.blobs[oid] = content
        self._json({})

    # Routes

    def _create(self, wanted: dict[str, Any]) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._json({"error": "Invalid username or password."}, 401)
            return
        name = f"{wanted.get('organization') or 'tester'}/{wanted['name']}"
        if wanted.get("type") in ("dataset", "space"):
            name = f"{wanted['type']}s/{name}"
        known = name in self.server_hub.repositories
        self.server_hub.repositories.setdefault(name, Repository())
        self._json({"url": f"{self.server_hub.endpoint}/{name}", "name": name}, 409 if known else 200)

    def _preupload(self, name: str, wanted: dict[str, Any]) -> None:
        repository = self._repository(name)
        if repository is None:
            return
        files = []
        for file in wanted["files"]:
            large = file["size"] >= 1_000_000 or file["path"].endswith(_LFS_SUFFIXES)
            oid = repository.oid(file["path"]) if file["path"] in repository.files else None
            files.append({"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False})
            files[-1]["oid"] = oid
        self._json({"files": files})

    def _lfs_batch(self, wanted: dict[str, Any]) -> None:
        objects = []
        for entry in wanted["objects"]:
            answer: dict[str, Any] = {"oid": entry["oid"], "size": entry["size"]}
            if entry["oid"] not in self.server_hub.blobs:
                answer["actions"] = {"upload": {"href": f"{self.server_hub.endpoint}/lfs/{entry['oid']}"}}
            objects.append(answer)
        self._json({"transfer": "basic", "objects": objects})

    def _commit(self, name: str, body: bytes) -> None:
        repository = self._repository(name)
        if repository is None:
            return
        for line in body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                repository.commits.append(value["summary"])
            elif item["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
                repository.lfs.pop(value["path"], None)
            elif item["key"] == "lfsFile":
                repository.files[value["path"]] = self.server_hub.blobs[value["oid"]]
                repository.lfs[value["path"]] = value["oid"]
            elif item["key"] == "deletedFile":
                repository.files.pop(value["path"], None)
        url = f"{self.server_hub.endpoint}/{name}/commit/{repository.sha}"
        self._json({"success": True, "commitUrl": url, "commitOid": repository.sha, "pullRequestUrl": None})

    def _info(self, name: str, rest: list[str]) -> None:
        repository = self._repository(name)
        if repository is None:
            return
        if rest[:1] == ["tree"]:
            inside = repository.tree("".join(f"{part}/" for part in rest[2:]), "recursive=true" in self.path.lower())
            if inside or not rest[2:]:
                self._json(inside)
            else:
                self._json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
        elif not rest or rest[0] == "revision":
            name = name.removeprefix("datasets/").removeprefix("spaces/")
            siblings = [{"rfilename": path} for path in sorted(repository.files)]
            info = {"id": name, "modelId": name, "sha": repository.sha, "siblings": siblings, "tags": []}
            self._json({"_id": "0", "private": False, "downloads": 0, "likes": 0, **info})
        else:
            self._unknown()

    def _resolve(self, name: str, path: str) -> None:
        repository = self._repository(name)
        if repository is None:
            return
        headers = {"X-Repo-Commit": repository.sha}
        if path not in repository.files:
            self._json({"error": "Entry not found"}, 404, {**headers, "X-Error-Code": "EntryNotFound"})
            return
        etag = repository.lfs.get(path) or repository.oid(path)
        self._send(repository.files[path], 200, {**headers, "ETag": f'"{etag}"', "Accept-Ranges": "none"})

    # Plumbing

    def _repository(self, name: str) -> Repository | None:
        repository = self.server_hub.repositories.get(name)
        if repository is None:
            self._json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        return repository

    def _parts(self) -> list[str]:
        return [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        content = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def _unknown(self) -> None:
        self.server_hub.unknown.append(f"{self.command} {self.path}")
        self._json({"error": "no such route"}, 404)

    def _json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(json.dumps(value).encode(), status, {"Content-Type": "application/json", **(headers or {})})

    def _send(self, content: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _name(parts: list[str]) -> str:
    """A repository's name from `api/KIND/org/name/...`."""
    name = "/".join(parts[2:4])
    return name if parts[1] == "models" else f"{parts[1]}/{name}"
