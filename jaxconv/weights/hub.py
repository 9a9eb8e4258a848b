"""Weights by name from the Hugging Face hub, or from its cache on this machine."""

import functools
import importlib
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxconv.extras import need
from jaxconv.weights.errors import StrPath, WeightsError
from jaxconv.weights.files import read

_NAMES = ("model.safetensors", "pytorch_model.bin")


def from_hub(
    repo: str,
    *,
    filename: str | None = None,
    key: str | None = None,
    revision: str | None = None,
    cache_dir: StrPath | None = None,
    local_files_only: bool = False,
    timeout: float = 10.0,
) -> dict[str, np.ndarray]:
    """Returns the arrays of a repository on the hub by name; `from_torch` accepts them as its source.

    ``params, state = jc.weights.from_torch(net, jc.weights.from_hub("timm/resnet50.a1_in1k"))``

    The file is stored in the hub's cache, ``~/.cache/huggingface/hub``, and read from there if the hub cannot be
    reached. ``HF_ENDPOINT``, ``HF_HOME``, ``HF_TOKEN`` and ``HF_HUB_OFFLINE`` have their usual meanings.

    Args:
      repo: "owner/name", as on the hub.
      filename: the file in the repository; by default ``model.safetensors``, or else ``pytorch_model.bin``.
      key: the name of the mapping to read, if the file is a torch checkpoint with several mappings of tensors.
      revision: a branch, a tag or a commit; by default "main".
      cache_dir: the folder of another cache.
      local_files_only: whether to read the cache only.
      timeout: seconds to wait for the hub.

    Raises:
      WeightsError: the repository, revision or file does not exist; the hub cannot be reached and the cache lacks the
        file; the file cannot be read, see `jaxconv.weights.read`.
      ImportError: huggingface_hub is not installed.
    """
    hub, utils = (need(name, "from_hub", "hub") for name in ("huggingface_hub", "huggingface_hub.utils"))
    names = _NAMES if filename is None else (filename,)
    try:
        utils.validate_repo_id(repo)
    except ValueError as error:
        raise WeightsError(f"repo must be 'owner/name', got {repo!r}") from error
    what = f"{' or '.join(names)} of {repo!r}{f' at {revision!r}' if revision else ''}"
    if not local_files_only:
        try:
            path = _download(repo, names, revision, cache_dir, timeout)
        except _OutOfReachError as error:
            reason = f"the hub is out of reach ({error})"
        else:
            if path is None:
                raise WeightsError(f"the hub has no {what}")
            return read(path, key=key)
    else:
        reason = "local_files_only is set"
    for name in names:
        cached = hub.try_to_load_from_cache(repo, name, cache_dir=cache_dir, revision=revision)
        if isinstance(cached, str):
            return read(cached, key=key)
    raise WeightsError(f"{reason}, and the cache of the hub has no {what}")


class _OutOfReachError(Exception):
    """The network or the hub does not answer."""


def _download(
    repo: str, names: tuple[str, ...], revision: str | None, cache_dir: StrPath | None, timeout: float
) -> str | None:
    """Returns the path of the first of the files that the repository contains; None if it contains none."""
    hub, utils = (importlib.import_module(name) for name in ("huggingface_hub", "huggingface_hub.utils"))
    for name in names:
        try:
            # A separate request, since a download without a network keeps trying for a long time.
            url = hub.hf_hub_url(repo, name, revision=revision)
            _within(timeout, functools.partial(hub.get_hf_file_metadata, url, timeout=timeout))
        except (utils.RepositoryNotFoundError, utils.RevisionNotFoundError) as error:
            raise WeightsError(f"the hub gives no {repo!r} at {revision or 'main'!r}: {_line(error)}") from error
        except utils.EntryNotFoundError:
            continue
        except Exception as error:
            raise _OutOfReachError(_line(error)) from error
        try:
            return hub.hf_hub_download(repo, name, revision=revision, cache_dir=cache_dir, etag_timeout=timeout)
        except Exception as error:
            raise WeightsError(f"{name} of {repo!r} could not be downloaded: {_line(error)}") from error
    return None


def _line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__


def _within(seconds: float, function: Callable[[], Any]) -> None:
    """Calls a function in a thread and stops waiting in time, since the lookup of a host's name has no timeout."""
    raised: list[Exception] = []

    def call() -> None:
        try:
            function()
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"no answer in {seconds:g} s")
    if raised:
        raise raised[0]


__all__ = ["from_hub"]
