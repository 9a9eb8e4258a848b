"""What mkdocs calls while it builds the site: pages that are made, formulas as MathML, names as links."""

import functools
import html
import posixpath
import re
from typing import Any

from latex2mathml.converter import convert as mathml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from experiments.docs import DOCS, ROOT, notebooks, reference

# Pages of the repository's root that the site has under other names.
ROOT_PAGES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}

_LINK = re.compile(r"\]\((?!\w+:|#)([^)\s]+)\)")
_MATH = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', flags=re.S)
_CODE = re.compile(r"(<pre.*?</pre>|<a\b.*?</a>|<h\d.*?</h\d>)|<code>([^<]*)</code>", flags=re.S)
_NAME = re.compile(r"\b(?:jc|jaxconv)((?:\.\w+)+)|^(\w+)(?:\(\))?$")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Puts the reference and the notebooks into the navigation, after the first two pages, and pages it lacks last."""
    pages: list[Any] = [{"All names": "reference/index.md"}]
    for section, names in reference.sections().items():
        pages.append({section: [{reference.title(name): f"reference/{name}.md"} for name in names]})
    made: list[Any] = [{"Reference": pages}]
    if found := notebooks.files():
        made.insert(0, {"Notebooks": [{notebooks.title(path): f"notebooks/{path.stem}.md"} for path in found]})
    assert config.nav is not None
    home, *others = config.nav
    named = {file for entry in others for file in entry.values()} | {reference.NOTES.name}
    rest = sorted(path.name for path in DOCS.glob("*.md") if path.name not in named)
    start, *others = others
    config.nav = [home, start, *made, *others, *rest]
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Adds the pages that are made, and the files of the repository to which the README links."""
    made: dict[str, str | bytes] = {"reference/index.md": reference.index_text()}
    linked = [name for path in DOCS.glob("*.md") for name in from_docs(path.read_text())[1]]
    for source, name in {"README.md": "index.md", **ROOT_PAGES}.items():
        made[name], found = from_root((ROOT / source).read_text())
        linked += found
    made |= {name: (ROOT / name).read_bytes() for name in linked}
    for pages in reference.sections().values():
        made |= {f"reference/{page}.md": reference.page_text(page) for page in pages}
    for path in notebooks.files():
        text, images = notebooks.convert(path)
        made[f"notebooks/{path.stem}.md"] = text
        made |= {f"notebooks/{name}": content for name, content in images.items()}
    for name, content in made.items():
        files.append(File.generated(config, name, content=content))
    return files


def from_root(text: str) -> tuple[str, list[str]]:
    """Returns a page of the repository's root as one of the site, and the files to which it links that have no page.

    >>> from_root("[a](docs/speed.md) [b](notebooks/1.ipynb) ![c](a/x.json) [d](https://d) [e](#f)")
    ('[a](speed.md) [b](notebooks/1.md) ![c](a/x.json) [d](https://d) [e](#f)', ['a/x.json'])
    """
    files = []

    def moved(found: re.Match[str]) -> str:
        link = re.sub(r"^(notebooks/.*)\.ipynb", r"\1.md", found[1].removeprefix("docs/"))
        link = ROOT_PAGES.get(link, link)
        if link == found[1]:
            files.append(link)
        return f"]({link})"

    return _LINK.sub(moved, text), files


def from_docs(text: str) -> tuple[str, list[str]]:
    """Returns a page of docs with its links to the rest of the repository, and the files among those without a page.

    >>> from_docs("[a](speed.md) [b](../notebooks/1.ipynb) [c](../a/x.json)")
    ('[a](speed.md) [b](notebooks/1.md) [c](a/x.json)', ['a/x.json'])
    """
    files = []

    def moved(found: re.Match[str]) -> str:
        link, more = from_root(f"]({found[1].removeprefix('../')})")
        files.extend(more)
        return link

    return re.sub(r"\]\((\.\./[^)\s#]+)\)", moved, text), files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns the links of a page of docs to the rest of the repository into links of the site."""
    return from_docs(markdown)[0] if (DOCS / page.file.src_uri).is_file() else markdown


def on_page_content(content: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Writes formulas as MathML, which browsers draw by themselves, and links names in running text."""
    return _MATH.sub(_formula, _CODE.sub(functools.partial(_linked, page.url), content))


def on_post_page(output: str, *, page: Page, config: MkDocsConfig) -> str:
    """Has the page load the script of the offline search from the site, where the theme names a server."""
    local = posixpath.relpath("offline.js", posixpath.dirname(page.url) or ".")
    return output.replace("https://unpkg.com/iframe-worker/shim", local)


def _formula(found: re.Match[str]) -> str:
    display = "inline" if found[2] == "(" else "block"
    return mathml(html.unescape(found[3]).strip(), display=display)


@functools.cache
def _places() -> dict[str, str]:
    """Returns the address of each public name, by every way to write it after ``jaxconv.``."""
    return {
        path.removeprefix("jaxconv."): f"reference/{entry.page}.html#{entry.target}"
        for entry in reference.public()
        for path in (entry.path, *entry.also)
    }


def _linked(url: str, found: re.Match[str]) -> str:
    """Links the names in one piece of code; a bare one in the reference only, where its own package has it first."""
    package = re.match(r"reference/(\w+)", url)
    if found[1]:
        return found[0]

    def link(name: re.Match[str]) -> str:
        ways = [name[1][1:]] if name[1] else [f"{package[1]}.{name[2]}", name[2]] if package else []
        place = next((_places()[way] for way in ways if way in _places()), None)
        return (
            f'<a href="{posixpath.relpath(place, posixpath.dirname(url) or ".")}">{name[0]}</a>' if place else name[0]
        )

    return f"<code>{_NAME.sub(link, found[2])}</code>"
