"""Reports of experiments: JSON, figures, and a self-contained HTML page."""

import argparse
import base64
import contextlib
import html
import importlib.metadata
import io
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

import jaxconv

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }}
img {{ max-width: 100%; }} table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .15rem .6rem; text-align: left; border-bottom: 1px solid #ddd; }}
caption {{ caption-side: bottom; color: #555; padding-top: .4rem; }}
</style></head><body><h1>{title}</h1>
{body}
</body></html>
"""


def write(path: Path, content: bytes) -> None:
    """Writes a file atomically."""
    beside = path.with_name(path.name + ".partial")
    beside.write_bytes(content)
    os.replace(beside, path)


def run(main: Callable[[], Any]) -> None:
    """Runs a command. An error that a user can correct ends it with one sentence, and the status 1."""
    try:
        main()
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        sys.exit(sentence(error))


def sentence(error: Exception) -> str:
    """Returns an error's message, in which a missing file comes first.

    >>> sentence(ValueError("--size must be positive")), sentence(FileNotFoundError(2, "No such file", "a.png"))
    ('--size must be positive', 'a.png: No such file')
    """
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def environment() -> dict[str, Any]:
    """Returns the versions, the device and the commit of a measurement."""
    versions = {}
    for name in ("jax", "jaxlib", "numpy", "optax", "orbax-checkpoint"):
        # Commands that do not train need no optimizer.
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "versions": {"jaxconv": jaxconv.__version__, "python": platform.python_version()} | versions,
        "device": f"{jax.devices()[0].device_kind}, {_processor()}, {os.cpu_count()} cores",
        "commit": _commit(),
    }


def arguments(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the arguments of a command as values for a JSON file.

    >>> arguments(argparse.Namespace(seed=0, image=[Path("a.png")], folder=None))
    {'seed': 0, 'image': ['a.png'], 'folder': None}
    """
    return {name: _plain(value) for name, value in vars(options).items()}


def metrics_of(weights: Path, *names: str) -> dict[str, Any]:
    """Returns values of metrics.json, and its arguments, of the run that wrote a file of weights in the same folder.

    Raises:
      FileNotFoundError: one of the two files does not exist.
      ValueError: metrics.json lacks one of the names, as that of another command does.
    """
    for path in (weights, beside := weights.with_name("metrics.json")):
        if not path.is_file():
            raise FileNotFoundError(f"--weights must be a file in the folder of an earlier run, {path} does not exist")
    try:
        metrics = json.loads(beside.read_text())
        found = {**metrics["arguments"], **metrics}
        return {name: found[name] for name in names}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{beside} must be written by an earlier run of this command") from error


def counted(count: int, noun: str, plural: str = "") -> str:
    """Returns a number with its noun.

    >>> counted(1, "face"), counted(1200, "face"), counted(0, "nucleus", "nuclei")
    ('1 face', '1,200 faces', '0 nuclei')
    """
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def text(value: Any) -> str:
    """Returns a value as a reader expects it, not as Python prints it.

    >>> text({"first": 0.5, "second": [1, 2.0]}), text(None)
    ('first 0.5, second 1, 2', 'none')
    """
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {text(each)}" for name, each in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(text, value)) or "none"
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value


def _commit() -> str:
    """Returns the commit of the running code, with "+" if files are modified; "" outside of a checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        try:
            found = subprocess.run(command, capture_output=True, text=True)
        except OSError:
            return ""
        return found.stdout.strip() if found.returncode == 0 else ""

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "*.py")
    return git("rev-parse", "--short=9", "HEAD") + ("+" if changed else "")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def write_json(path: Path, value: Any) -> None:
    """Writes JSON, one entry a line."""
    write(path, (_lines(value) + "\n").encode())


def write_results(path: Path, value: Any) -> None:
    """Writes a measurement as JSON, one entry a line, floating-point numbers with four digits."""
    write_json(path, rounded(value))


def _lines(value: Any, depth: int = 0) -> str:
    """Returns JSON with one line for each entry of the outer collection and of collections directly inside it."""
    if depth > 1 or not isinstance(value, dict | list) or not any(isinstance(v, dict | list) for v in _items(value)):
        return json.dumps(value)
    entries = [_lines(v, depth + 1) for v in _items(value)]
    if isinstance(value, dict):
        entries = [f"{json.dumps(name)}: {entry}" for name, entry in zip(value, entries, strict=True)]
    left, right = "{}" if isinstance(value, dict) else "[]"
    return f"{left}\n" + ",\n".join(entries) + f"\n{right}"


def _items(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value


def rounded(value: Any) -> Any:
    """Returns the value with floats rounded to four digits: more digits are noise, and make the repository larger.

    >>> rounded({"ms": [1.23456, 3]})
    {'ms': [1.235, 3]}
    """
    if isinstance(value, dict):
        return {str(name): rounded(v) for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v) for v in value]
    return float(f"{value:.4g}") if isinstance(value, float) and math.isfinite(value) else value


def png(figure: Any) -> bytes:
    """Returns a matplotlib figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def write_report(folder: Path, title: str, facts: Mapping[str, Any], parts: Sequence[tuple[str, str, Any]]) -> Path:
    """Writes report.html, and each figure as a PNG beside it.

    Args:
      folder: the output folder.
      title: the page's title.
      facts: a table at the top; for the values see `text`.
      parts: (file name, caption, figure or summary) in order; a part that is not a figure is inserted as its HTML.
    """
    rows = "".join(f"<tr><th>{html.escape(k)}</th><td>{html.escape(text(v))}</td></tr>" for k, v in facts.items())
    body = [f"<table>{rows}</table>"]
    for name, caption, part in parts:
        body.append(f"<h2>{html.escape(caption)}</h2>")
        if hasattr(part, "savefig"):
            picture = png(part)
            write(folder / f"{name}.png", picture)
            data = base64.b64encode(picture).decode()
            body.append(f'<img alt="{html.escape(caption)}" src="data:image/png;base64,{data}">')
        else:
            body.append(part._repr_html_())
    path = folder / "report.html"
    write(path, _PAGE.format(title=html.escape(title), body="\n".join(body)).encode())
    return path
