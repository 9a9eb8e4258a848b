"""The Griffe extension that mkdocs.yml names: it passes mkdocstrings docstrings that are Markdown already."""

import inspect
from typing import Any

import griffe

from experiments.docs import docstrings, reference


class Markdown(griffe.Extension):
    """Rewrites every docstring of the package, and adds what docs/notes.md and the table of peers say of a name."""

    def on_package(self, *, pkg: griffe.Module, loader: Any, **kwargs: Any) -> None:
        self._rewrite(pkg, {entry.target: entry for entry in reference.public()})

    def _rewrite(self, thing: Any, entries: dict[str, reference.Entry]) -> None:
        if thing.docstring:
            first, _, rest = docstrings.markdown(thing.docstring.value).partition("\n\n")
            entry = entries.get(thing.path)
            parts = [first, reference.note(entry), rest, reference.elsewhere(entry)] if entry else [first, rest]
            thing.docstring.value = "\n\n".join(part for part in parts if part)
        for name, member in list(thing.members.items()):
            if member.is_alias:
                continue
            if member.is_attribute and member.path in entries:
                value = reference.value_of(entries[member.path])
                if inspect.isfunction(value):
                    thing.set_member(name, member := _function(name, value, member))
            self._rewrite(member, entries)


def _function(name: str, value: Any, assignment: griffe.Attribute) -> griffe.Function:
    """Returns the function that an assignment makes, such as a network by `jaxconv.models.variants.variant`."""
    signature = inspect.signature(value)
    parameters = (
        griffe.Parameter(
            p.name,
            annotation=inspect.formatannotation(p.annotation),
            kind=griffe.ParameterKind(p.kind.description),
            default=None if p.default is p.empty else repr(p.default),
        )
        for p in signature.parameters.values()
    )
    return griffe.Function(
        name,
        parameters=griffe.Parameters(*parameters),
        returns=inspect.formatannotation(signature.return_annotation),
        docstring=griffe.Docstring(inspect.getdoc(value) or ""),
        lineno=assignment.lineno,
        endlineno=assignment.endlineno,
    )
