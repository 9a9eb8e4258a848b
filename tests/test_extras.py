"""Errors about packages that are not installed: what they say, and that the extras they name have the packages."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

from jaxconv import extras

ROOT = Path(__file__).parents[1]


def test_a_missing_package_is_one_sentence(monkeypatch):
    for name in ("PIL", "PIL.Image"):
        monkeypatch.setitem(sys.modules, name, None)
    message = r"^drawing needs the package Pillow: pip install '\.\[data\]' in a checkout of jaxconv$"
    with pytest.raises(ModuleNotFoundError, match=message) as error:
        extras.need("PIL.Image", "drawing", "data")
    assert error.value.name == "PIL"
    found = extras.missing("drawing", "numpy", "PIL.Image", "no_such_package", extra="data")
    assert "needs the packages Pillow, no_such_package: pip" in str(found)
    assert extras.missing("drawing", "numpy", extra="data") is None
    assert extras.need("json.decoder", "reading", "data").JSONDecoder


def test_a_package_that_lacks_another_tells_so_itself(tmp_path, monkeypatch):
    (tmp_path / "broken_package.py").write_text("import another_package")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="No module named 'another_package'"):
        extras.need("broken_package", "drawing", "data")


def calls():
    """Yields (file, module, extra) of each call of the functions whose arguments are text."""
    for path in [*(ROOT / "jaxconv").rglob("*.py"), *(ROOT / "experiments").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "id", "").removeprefix("_")
            texts = [a.value for a in node.args if isinstance(a, ast.Constant)]
            if name == "need" and len(texts) == len(node.args) == 3:
                yield path.name, texts[0], texts[2]
            if name == "missing":
                for module in texts[1:]:
                    yield path.name, module, node.keywords[0].value.value


def test_the_extra_of_each_error_has_the_package():
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

    def packages(extra):
        for line in options[extra]:
            name, others = re.match(r"([\w-]+)(?:\[([\w,]+)\])?", line).groups()
            yield name.lower()
            for other in others.split(",") if name == "jaxconv" and others else ():
                yield from packages(other)

    found = list(calls())
    assert len(found) > 15
    for file, module, extra in found:
        root = module.split(".")[0]
        assert extras.PACKAGES.get(root, root).lower() in set(packages(extra)), (file, module, extra)
