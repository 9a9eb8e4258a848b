import functools
import hashlib
import http.server
import importlib
import socket
import threading
import time

import numpy as np
import pytest

import jaxconv as jc
from jaxconv.weights import WeightsError, from_hub, hub
from tests.weights import torch_files as tf
from tests.weights.checks import assert_same

constants = pytest.importorskip("huggingface_hub.constants")
safetensors = pytest.importorskip("safetensors.numpy")

REPO = "timm/resnet50.a1_in1k"
COMMIT = "767268603ca0cb0bfe326fa87277f19c419566ef"
ARRAYS = {"0.weight": np.arange(8, dtype=np.float32).reshape(4, 2, 1, 1), "0.bias": np.ones(4, np.float32)}
CONTENT = safetensors.save(ARRAYS)


def cache(folder, files, revision="main"):
    """Lays files out as the hub's cache does."""
    root = folder / f"models--{REPO.replace('/', '--')}"
    for name in ("refs", "blobs", f"snapshots/{COMMIT}"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "refs" / revision).write_text(COMMIT)
    for name, content in files.items():
        blob = root / "blobs" / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        (root / "snapshots" / COMMIT / name).symlink_to(f"../../blobs/{blob.name}")
    return folder


@pytest.fixture
def endpoint(monkeypatch):
    """Returns a function that makes another address the hub's."""

    def use(url):
        monkeypatch.setattr(constants, "ENDPOINT", url)
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)

    return use


@pytest.fixture
def nobody(endpoint):
    endpoint("http://127.0.0.1:9")


class Hub(http.server.BaseHTTPRequestHandler):
    """The few answers of the hub that a download needs."""

    def __init__(self, files, asked, *args):
        self.files, self.asked = files, asked
        super().__init__(*args)

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.wfile.write(self.answer())

    def answer(self):
        self.asked.append((self.command, self.path))
        start, _, name = self.path.partition("/resolve/main/")
        content = self.files.get(name, b"") if start == f"/{REPO}" else b""
        code = {True: "EntryNotFound", False: "RepoNotFound"}[start == f"/{REPO}"]
        self.send_response(200 if content else 404)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        if not content:
            self.send_header("X-Error-Code", code)
        self.end_headers()
        return content

    def log_message(self, *args):
        pass


@pytest.fixture
def serve(endpoint):
    """Returns a function that runs a hub of these files, and gives what it was asked."""
    servers = []

    def run(files):
        asked = []
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Hub, files, asked))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        endpoint(f"http://127.0.0.1:{server.server_port}")
        return asked

    yield run
    for server in servers:
        server.shutdown()
        server.server_close()


def test_what_the_cache_holds_goes_into_a_network(tmp_path):
    cache(tmp_path, {"model.safetensors": CONTENT, "pytorch_model.bin": b"not this"})
    arrays = from_hub(REPO, cache_dir=tmp_path, local_files_only=True)
    assert_same(arrays, ARRAYS)
    params, state = jc.weights.from_torch(jc.serial(jc.Conv(4, 1)), arrays)
    np.testing.assert_array_equal(params["0"]["kernel"][0, 0], ARRAYS["0.weight"][:, :, 0, 0].T)
    assert state == {}


@pytest.mark.usefixtures("nobody")
def test_without_a_network_the_cache_serves(tmp_path):
    cache(tmp_path, {"model.safetensors": CONTENT})
    assert_same(from_hub(REPO, cache_dir=tmp_path), ARRAYS)
    assert_same(from_hub(REPO, cache_dir=tmp_path, revision=COMMIT), ARRAYS)


@pytest.mark.usefixtures("nobody")
def test_a_torch_file_where_there_is_no_other(tmp_path):
    cache(tmp_path, {"pytorch_model.bin": tf.zipped({name: tf.tensor(array) for name, array in ARRAYS.items()})})
    assert_same(from_hub(REPO, cache_dir=tmp_path), ARRAYS)


@pytest.mark.usefixtures("nobody")
def test_a_checkpoint_of_several_mappings_by_key(tmp_path):
    tensors, zeros = ({name: tf.tensor(array) for name, array in found.items()}
                      for found in (ARRAYS, {name: 0 * array for name, array in ARRAYS.items()}))  # fmt: skip
    cache(tmp_path, {"pytorch_model.bin": tf.zipped({"model": tensors, "ema": zeros}), "model.safetensors": CONTENT})
    assert_same(from_hub(REPO, filename="pytorch_model.bin", key="model", cache_dir=tmp_path), ARRAYS)
    with pytest.raises(WeightsError, match="key='model' and key='ema'"):
        from_hub(REPO, filename="pytorch_model.bin", cache_dir=tmp_path)
    with pytest.raises(WeightsError, match=r"model\.safetensors: key is for checkpoints of torch, got 'model'"):
        from_hub(REPO, key="model", cache_dir=tmp_path)


def test_a_file_and_a_revision_by_name(tmp_path):
    cache(tmp_path, {"model.safetensors": b"", "other.safetensors": CONTENT}, revision="v1")
    options = {"cache_dir": tmp_path, "local_files_only": True}
    assert_same(from_hub(REPO, filename="other.safetensors", revision="v1", **options), ARRAYS)
    with pytest.raises(WeightsError, match=r"local_files_only is set, and .* no other\.safetensors of 'timm/"):
        from_hub(REPO, filename="other.safetensors", **options)


@pytest.mark.usefixtures("nobody")
def test_without_a_network_or_a_cache_the_error_comes_soon(tmp_path):
    began = time.monotonic()
    what = rf"the hub is out of reach \(.*refused.*\), and the cache .* has no model\.safetensors or .* of '{REPO}'"
    with pytest.raises(WeightsError, match=what):
        from_hub(REPO, cache_dir=tmp_path)
    assert time.monotonic() - began < 5


def test_a_hub_that_does_not_answer(tmp_path, endpoint):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint(f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        with pytest.raises(WeightsError, match="the hub is out of reach"):
            from_hub(REPO, cache_dir=tmp_path, timeout=0.5)
        assert time.monotonic() - began < 5


def test_a_lookup_that_does_not_end():
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"no answer in 0\.1 s"):
        hub._within(0.1, functools.partial(time.sleep, 3))
    assert time.monotonic() - began < 2


def test_offline_by_the_environment(tmp_path, monkeypatch, nobody):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    cache(tmp_path, {"model.safetensors": CONTENT})
    assert_same(from_hub(REPO, cache_dir=tmp_path), ARRAYS)


def test_a_download_is_kept(tmp_path, serve):
    asked = serve({"model.safetensors": CONTENT})
    assert_same(from_hub(REPO, cache_dir=tmp_path), ARRAYS)
    assert ("GET", f"/{REPO}/resolve/main/model.safetensors") in asked
    assert_same(from_hub(REPO, cache_dir=tmp_path, local_files_only=True), ARRAYS)


def test_the_second_name_is_downloaded_where_the_first_is_not_there(tmp_path, serve):
    serve({"pytorch_model.bin": tf.legacy({name: tf.tensor(array) for name, array in ARRAYS.items()})})
    assert_same(from_hub(REPO, cache_dir=tmp_path), ARRAYS)


def test_what_the_hub_does_not_have(tmp_path, serve):
    serve({"README.md": b"hello"})
    with pytest.raises(WeightsError, match=rf"the hub has no model\.safetensors or pytorch_model\.bin of '{REPO}'"):
        from_hub(REPO, cache_dir=tmp_path)
    with pytest.raises(WeightsError, match=r"the hub gives no 'timm/none' at 'main': .*404") as caught:
        from_hub("timm/none", cache_dir=tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(WeightsError, match="repo must be 'owner/name', got 'a/b/c'"):
        from_hub("a/b/c", cache_dir=tmp_path)


def test_a_damaged_download_is_refused(tmp_path, serve):
    serve({"model.safetensors": CONTENT[:-1]})
    with pytest.raises(WeightsError, match=r"model\.safetensors: its tensors take"):
        from_hub(REPO, cache_dir=tmp_path)


def test_a_missing_package_is_named(monkeypatch):
    def without(name):
        raise ModuleNotFoundError(name, name=name)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(ImportError, match=r"from_hub needs the package huggingface_hub: pip install '\.\[hub\]'"):
        from_hub(REPO)
