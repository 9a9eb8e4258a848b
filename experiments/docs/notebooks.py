"""Notebooks with their outputs as Markdown: prose unchanged, code, and below it what it printed and drew."""

import base64
import json
import re
from pathlib import Path
from typing import Any

from experiments.docs import ROOT

FOLDER = ROOT / "notebooks"

# Of several forms of one output the first that is there is shown.
_IMAGES = {"image/png": "png", "image/jpeg": "jpg", "image/gif": "gif", "image/svg+xml": "svg"}
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def files() -> list[Path]:
    """Returns the notebooks in the order of their names."""
    return sorted(FOLDER.glob("*.ipynb"))


def convert(path: Path) -> tuple[str, dict[str, bytes]]:
    """Returns a notebook as Markdown, and its images by the name under which the Markdown shows them.

    Raises:
      ValueError: a cell failed, or code was never run.
    """
    parts: list[str] = []
    images: dict[str, bytes] = {}
    for number, cell in enumerate(json.loads(path.read_text())["cells"]):
        source = _text(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(re.sub(r"(\]\([^)\s]+)\.ipynb\b", r"\1.md", source))
        elif cell["cell_type"] == "code" and source.strip():
            if cell.get("execution_count") is None:
                raise ValueError(
                    f"{path.name}: cell {number} has not been run: execute the notebook and keep its outputs"
                )
            parts.append(_fenced(source, "python"))
            parts += [_output(output, f"{path.stem}_{number}_{i}", images) for i, output in enumerate(cell["outputs"])]
    return "\n\n".join(part for part in parts if part) + "\n", images


def title(path: Path) -> str:
    """Returns a notebook's first heading, or its name."""
    found = re.search(r"^# +(.+)$", convert(path)[0], flags=re.M)
    return found.group(1).strip() if found else path.stem


def _text(lines: str | list[str]) -> str:
    return lines if isinstance(lines, str) else "".join(lines)


def _fenced(text: str, language: str) -> str:
    ticks = "`" * max(3, *(len(run) + 1 for run in re.findall(r"`+", text) or [""]))
    return f"{ticks}{language}\n{text.strip(chr(10))}\n{ticks}"


def _output(output: dict[str, Any], name: str, images: dict[str, bytes]) -> str:
    if output["output_type"] == "error":
        raise ValueError(f"{name}: the cell failed: {output['ename']}: {output['evalue']}")
    if output["output_type"] == "stream":
        return _fenced(_ANSI.sub("", _text(output["text"])), "text") if output["name"] == "stdout" else ""
    data = output["data"]
    for kind, suffix in _IMAGES.items():
        if kind in data:
            content = _text(data[kind])
            images[f"{name}.{suffix}"] = content.encode() if suffix == "svg" else base64.b64decode(content)
            return f"![{_text(data.get('text/plain', name)).strip('<>')}]({name}.{suffix})"
    if "text/html" in data:
        return f'<div class="output">\n{_text(data["text/html"])}\n</div>'
    if "text/markdown" in data:
        return _text(data["text/markdown"])
    return _fenced(_ANSI.sub("", _text(data["text/plain"])), "text")
