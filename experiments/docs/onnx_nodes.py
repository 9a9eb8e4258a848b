"""The section of docs/conformance.md on the import of ONNX files, from the cases that the tests run.

Run ``python -m experiments.docs.onnx_nodes`` to write it; the other sections stay.
"""

import re

from experiments.docs import DOCS

PAGE = DOCS / "conformance.md"
HEADING = "## Import of ONNX files"


def section() -> str:
    """Returns the section as Markdown, its heading first."""
    from tests.interop.onnx_nodes import table

    return f"{HEADING}\n\n{table()}\n\nWritten by `python -m experiments.docs.onnx_nodes`.\n"


def with_section(page: str) -> str:
    """Returns the page with the section in its place, or at its end."""
    pattern = re.compile(rf"^{re.escape(HEADING)}\n.*?(?=^## |\Z)", flags=re.M | re.S)
    text = section()
    if not pattern.search(page):
        return f"{page.rstrip()}\n\n{text}"
    rest = pattern.search(page).end() < len(page)  # type: ignore[union-attr]
    return pattern.sub(lambda _: text + "\n" * rest, page)


def main() -> None:
    PAGE.write_text(with_section(PAGE.read_text()))


if __name__ == "__main__":
    main()
