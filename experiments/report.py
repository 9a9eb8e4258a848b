"""What an experiment leaves behind: JSON, figures, and one HTML page that shows them without a network."""

import base64
import html
import importlib.metadata
import io
import json
import os
import platform
from collections.abc import Mapping, Sequence
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
    """Writes a file whole or not at all."""
    beside = path.with_name(path.name + ".partial")
    beside.write_bytes(content)
    os.replace(beside, path)


def environment() -> dict[str, Any]:
    """Returns the versions and the device behind a figure."""
    packages = ("jax", "jaxlib", "numpy", "optax", "orbax-checkpoint")
    versions = {name: importlib.metadata.version(name) for name in packages}
    return {
        "versions": {"jaxconv": jaxconv.__version__, "python": platform.python_version()} | versions,
        "device": f"{jax.devices()[0].device_kind}, {_processor()}, {os.cpu_count()} cores",
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def write_json(path: Path, value: Any) -> None:
    """Writes indented JSON."""
    write(path, (json.dumps(value, indent=2) + "\n").encode())


def png(figure: Any) -> bytes:
    """Returns a matplotlib figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def write_report(folder: Path, title: str, facts: Mapping[str, Any], parts: Sequence[tuple[str, str, Any]]) -> Path:
    """Writes report.html, and each figure as a PNG beside it.

    Args:
      folder: where to.
      title: the page's title.
      facts: a table at the top.
      parts: (file name, caption, figure or summary) in their order; what is no figure shows as its HTML.
    """
    rows = "".join(f"<tr><th>{html.escape(k)}</th><td>{html.escape(str(v))}</td></tr>" for k, v in facts.items())
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
