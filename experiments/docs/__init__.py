"""The documentation site: what mkdocs.yml and docs/ leave to be made. `make docs` builds it."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
