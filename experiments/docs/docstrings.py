"""Docstrings as Markdown."""

import re
import textwrap

_SECTION = re.compile(r"([A-Z]\w+):\n((?:[ \t]+\S.*(?:\n|$)|\s*\n)+)$")
_NAMES = re.compile(r"\*{0,2}[A-Za-z_][\w.]*(, \*{0,2}[A-Za-z_][\w.]*)*$")


def markdown(docstring: str) -> str:
    """Returns a docstring as Markdown: sections as lists, examples as code.

    >>> markdown("One line.\\n\\nArgs:\\n  x, y: two\\n    arrays.").splitlines()[-1]
    '- `x`{.argument}, `y`{.argument}: two arrays.'
    >>> markdown(">>> 1 + 1\\n2").splitlines()
    ['```pycon', '>>> 1 + 1', '2', '```']
    """
    # An indented paragraph belongs to the section before it.
    return "\n\n".join(map(_block, re.split(r"\n\s*\n(?=\S)", docstring.strip())))


def _block(block: str) -> str:
    if section := _SECTION.match(block):
        title, body = section[1], textwrap.dedent(section[2])
        return f"**{title}**\n\n" + (_with_example(body) if ">>>" in body else _items(body, title))
    return _with_example(block)


def _with_example(block: str) -> str:
    """Fences what begins with the first prompt."""
    prose, prompt, rest = re.split(r"^(\s*>>>)", block, maxsplit=1, flags=re.M) if ">>>" in block else (block, "", "")
    fenced = f"```pycon\n{textwrap.dedent(prompt + rest).strip()}\n```" if prompt else ""
    return "\n\n".join(part for part in (prose.strip("\n"), fenced) if part)


def _items(body: str, title: str) -> str:
    """Returns a list where each entry is ``names: text``; a text that is no entry stays one."""
    # Marked, so that an argument is not taken for the function of the same name. Exceptions are names.
    mark = "" if title == "Raises" else "{.argument}"
    entries = [" ".join(entry.split()) for entry in re.split(r"\n(?=\S)", body.strip("\n"))]
    named = [entry.partition(": ") for entry in entries]
    if not all(_NAMES.match(name) and text for name, _, text in named):
        return " ".join(entries)
    return "\n".join(f"- {', '.join(f'`{n}`{mark}' for n in names.split(', '))}: {text}" for names, _, text in named)
