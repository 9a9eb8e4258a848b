"""The Griffe extension that mkdocs.yml names: it hands mkdocstrings docstrings in which nothing is left to parse."""

from typing import Any

import griffe

from experiments.docs import docstrings, reference


class Markdown(griffe.Extension):
    """Rewrites every docstring of the package, and puts in what docs/notes.md and the table of peers say of a name."""

    def on_package(self, *, pkg: griffe.Module, loader: Any, **kwargs: Any) -> None:
        self._rewrite(pkg, {entry.target: entry for entry in reference.public()})

    def _rewrite(self, thing: Any, entries: dict[str, reference.Entry]) -> None:
        if thing.docstring:
            first, _, rest = docstrings.markdown(thing.docstring.value).partition("\n\n")
            entry = entries.get(thing.path)
            parts = [first, reference.note(entry), rest, reference.elsewhere(entry)] if entry else [first, rest]
            thing.docstring.value = "\n\n".join(part for part in parts if part)
        for member in thing.members.values():
            if not member.is_alias:
                self._rewrite(member, entries)
