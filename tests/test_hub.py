"""Where a checkpoint comes from: a folder, or a hub that speaks as Hugging Face's, on this machine's loopback.

Each case runs in a child, because the hub's library reads its environment once, as it is imported.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytest.importorskip("huggingface_hub")

SMALL = ["config.json", "tokenizer.json", "chat_template.jinja"]
SHARDS = ["transformers-00001-of-00002.safetensors", "transformers-00002-of-00002.safetensors"]
INDEX = "transformers.safetensors.index.json"
# What sesame/csm-1b holds, and what of it is needed.
ALL = [*SMALL, INDEX, *SHARDS, "README.md", "prompts/a.wav", "model.safetensors", "ckpt.pt"]
NEEDED = {*SMALL, INDEX, *SHARDS}
CHILD = """
import json, sys
from device.voice.hub import locate
from device.voice.plain import VoiceFault
out = []
for name in sys.argv[1:]:
    try:
        out.append([str(locate(name)), ""])
    except VoiceFault as fault:
        out.append(["", str(fault)])
    except Exception as error:
        out.append(["", "NO VOICE FAULT: " + repr(error)])
print(json.dumps(out))
"""


@dataclass
class Repository:
    files: list[str]
    gated: str = ""  # the token without which its files are refused
    fault: str = ""  # reset: the line is cut within model.safetensors; portal: a hotel's sign-in page answers


@dataclass
class Hub:
    """As much of the hub as a download of one snapshot needs, and a record of what was asked for."""

    repositories: dict[str, Repository]
    url: str = ""
    sent: list[str] = field(default_factory=list)  # owner/name/file, for each file that was given away


class Answer(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        repository = self.hub.repositories.get(name)
        if repository is None:
            return self.say(401, b"{}", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        commit = hashlib.sha1(name.encode()).hexdigest()
        if repository.fault == "portal":
            return self.say(200, b"<html>Please sign in.</html>")
        if parts[0] == "api" and parts[4] == "revision":
            siblings = [{"rfilename": file} for file in repository.files]
            return self.say(200, json.dumps({"id": name, "sha": commit, "siblings": siblings}).encode())
        if parts[0] == "api":
            tree = [{"type": "file", "path": file, "size": len(content(file)), "oid": _sha(content(file))} for file in repository.files]
            return self.say(200, json.dumps(tree).encode())
        if repository.gated and self.headers.get("Authorization") != f"Bearer {repository.gated}":
            if self.headers.get("Authorization"):
                return self.say(401, b"{}", {"X-Error-Message": "Invalid credentials in Authorization header"})
            return self.say(401, b"{}", {"X-Error-Code": "GatedRepo", "X-Error-Message": f"Access to model {name} is restricted."})
        file = "/".join(parts[4:])
        if file not in repository.files:
            return self.say(404, b"", {"X-Error-Code": "EntryNotFound"})
        data = content(file)
        if self.command == "GET":
            self.hub.sent.append(f"{name}/{file}")
        if self.command == "GET" and repository.fault == "reset" and file == "model.safetensors":
            return self.reset(data)
        self.say(200, data, {"ETag": f'"{_sha(data)}"', "X-Repo-Commit": commit})

    def say(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def reset(self, data: bytes) -> None:
        """The first half, and then the line is cut."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2])
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())
        self.close_connection = True


def content(file: str) -> bytes:
    """Unlike every other file's: the cache holds equal ones once."""
    return file.encode() * 1000


def _sha(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    repositories = {
        "sesame/csm-1b": Repository(ALL),
        "one/file": Repository([*SMALL, "model.safetensors", "ckpt.pt"]),
        "other/shards": Repository([*SMALL, "model-00001-of-00001.safetensors", "model.safetensors.index.json"]),
        "old/pickle": Repository([*SMALL, "ckpt.pt"]),
        "no/weights": Repository(SMALL),
        "behind/gate": Repository(ALL, gated="hf_right"),
        "cut/off": Repository([*SMALL, "model.safetensors"], fault="reset"),
        "sign/in": Repository(SMALL, fault="portal"),
    }
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    server.daemon_threads = True
    Answer.hub = Hub(repositories, f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield Answer.hub
    server.shutdown()
    server.server_close()


@dataclass
class Machine:
    """A device with a cache of its own, and with or without a network."""

    cache: Path
    url: str = ""

    def run(self, *command: str, **more: str) -> str:
        mine = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING", "TRANSFORMERS_", "XDG_"))}
        mine |= {"HOME": str(self.cache / "home"), "HF_HOME": str(self.cache), "HF_ENDPOINT": self.url, "HF_HUB_DISABLE_XET": "1"}
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, env={**mine, **more}, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def locate(self, *names: str, **more: str) -> list[tuple[str, str]]:
        """For each name (folder, sentence): one of the two is empty."""
        out = json.loads(self.run("-c", CHILD, *names, **more).splitlines()[-1])
        assert all("\n" not in sentence for _, sentence in out)
        return [(folder, sentence) for folder, sentence in out]

    def snapshot(self, name: str) -> Path:
        (found,) = (self.cache / "hub" / f"models--{name.replace('/', '--')}" / "snapshots").iterdir()
        return found


def files(folder: str) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in Path(folder).rglob("*") if file.is_file()}


def test_a_repository_with_its_weights_three_times_is_fetched_once(hub: Hub, tmp_path: Path) -> None:
    """Of sesame/csm-1b only the shards and the small files travel; of others the one kind of weights that there is."""
    names = ["sesame/csm-1b", "one/file", "other/shards", "old/pickle"]
    machine = Machine(tmp_path, hub.url)
    hub.sent.clear()
    found = [files(folder) for folder, _ in machine.locate(*names)]
    assert found[0] == NEEDED
    assert found[1] == {*SMALL, "model.safetensors"}
    assert found[2] == {*SMALL, "model-00001-of-00001.safetensors", "model.safetensors.index.json"}
    assert found[3] == {*SMALL, "ckpt.pt"}
    assert sorted(hub.sent) == sorted(f"{name}/{file}" for name, had in zip(names, found, strict=True) for file in had)

    hub.sent.clear()
    gone = Machine(tmp_path, f"http://127.0.0.1:{_closed_port()}")
    for later in (gone.locate(*names), gone.locate(*names, HF_HUB_OFFLINE="1")):
        assert [files(folder) for folder, _ in later] == found
    assert hub.sent == []


def test_a_cache_that_hf_download_filled_serves_offline(hub: Hub, tmp_path: Path) -> None:
    """As under systemd: everything was fetched by hand, and HF_HUB_OFFLINE=1 is set. The index of the shards is there to be chosen."""
    machine = Machine(tmp_path, hub.url)
    machine.run("-c", "from huggingface_hub.cli.hf import main; main()", "download", "sesame/csm-1b")
    [(folder, sentence)] = Machine(tmp_path).locate("sesame/csm-1b", HF_HUB_OFFLINE="1")
    assert sentence == ""
    assert files(folder) == set(ALL)


def test_a_gated_repository_opens_to_its_token_only(hub: Hub, tmp_path: Path) -> None:
    machine = Machine(tmp_path, hub.url)
    [(_, sentence)] = machine.locate("behind/gate", HF_TOKEN="hf_wrong")
    for part in ("behind/gate", "does not accept HF_TOKEN: set a valid one", "voice.csm_model"):
        assert part in sentence
    [(folder, _)] = machine.locate("behind/gate", HF_TOKEN="hf_right")
    assert files(folder) == NEEDED


@pytest.fixture(scope="module")
def answers(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Every name that can't be had, and what is said of it."""
    names = [name for name, _ in BAD]
    said = Machine(tmp_path_factory.mktemp("answers"), hub.url).locate(*names)
    return {name: sentence for name, (_, sentence) in zip(names, said, strict=True)}


FILE = os.path.relpath(__file__)  # might be a hub's name
BAD = [
    ("", ["voice.csm_model is empty", "sesame/csm-1b"]),
    ("/no/such/folder", ["/no/such/folder", "voice.csm_model", "no such folder"]),
    ("./csm", ["./csm", "voice.csm_model", "no such folder"]),
    ("~/csm", ["~/csm", "voice.csm_model", "no such folder"]),
    ("~nobody-here/csm", ["~nobody-here/csm", "voice.csm_model", "no such folder"]),
    (FILE, [FILE, "voice.csm_model", "no such folder"]),
    ("nobody/nothing", ["nobody/nothing", "no such repository", "voice.csm_model", "HF_TOKEN"]),
    ("behind/gate", ["behind/gate is gated: accept its licence on huggingface.co/behind/gate and set HF_TOKEN", "voice.csm_model"]),
    ("a/b/c", ["'a/b/c'", "neither a folder nor a hub name", "voice.csm_model"]),
    ("two words", ["'two words'", "neither a folder nor a hub name", "voice.csm_model"]),
    ("no/weights", ["no/weights", "no weights", "voice.csm_model"]),
    ("cut/off", ["cut/off", "could not be fetched", "try again", "voice.csm_model"]),
    ("sign/in", ["sign/in", "could not be fetched", "try again", "voice.csm_model"]),
]


@pytest.mark.parametrize(("name", "says"), BAD)
def test_a_name_that_leads_nowhere_is_one_sentence(answers: dict[str, str], name: str, says: list[str]) -> None:
    for part in says:
        assert part in answers[name]


def test_what_is_not_whole_on_this_machine_is_said_when_offline(hub: Hub, tmp_path: Path) -> None:
    """Half a download is neither taken for a checkpoint nor for one without weights; the way out is the same for all."""
    machine = Machine(tmp_path, hub.url)
    names = ["sesame/csm-1b", "one/file", "old/pickle", "other/shards"]
    machine.locate(*names)
    (machine.snapshot("sesame/csm-1b") / SHARDS[1]).unlink()
    for name in SMALL:
        (machine.snapshot("one/file") / name).unlink()
    for name in ("old/pickle", "other/shards"):  # as a library leaves it that wanted config.json only, and no list of what there is
        for file in machine.snapshot(name).iterdir():
            if file.name != "config.json":
                file.unlink()
        shutil.rmtree(machine.snapshot(name).parents[1] / "trees", ignore_errors=True)
    gone = Machine(tmp_path, f"http://127.0.0.1:{_closed_port()}")
    for said in (gone.locate(*names, "never/fetched", HF_HUB_OFFLINE="1"), gone.locate(*names, "never/fetched")):
        for name, (folder, sentence) in zip([*names, "never/fetched"], said, strict=True):
            assert folder == ""
            assert sentence.startswith(name)
            assert f"'hf download {name}'" in sentence
            assert "voice.csm_model" in sentence


def test_a_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    """Also one of this directory, whose name a hub's repository might have."""
    (tmp_path / "sesame/csm-1b").mkdir(parents=True)
    [(folder, _)] = Machine(tmp_path).locate(str(tmp_path))
    assert Path(folder) == tmp_path
    child = CHILD.replace("out = []", f"import os; os.chdir({str(tmp_path)!r}); out = []")
    [(near, _)] = json.loads(Machine(tmp_path).run("-c", child, "sesame/csm-1b", HF_HUB_OFFLINE="1"))
    assert near == "sesame/csm-1b"


def _closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
