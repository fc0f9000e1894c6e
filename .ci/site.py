"""What `make site` does beside mkdocs: pages from outside of docs/, and the reference.

A hook of mkdocs (`mkdocs.yml`). Notebooks become pages, and so do pages of the repository that
docs/ links to; links to code become plain text. The reference has a page for each group of names in
`ramify.public.__all__`, which the docstrings fill.
"""

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
OUTSIDE, DOCS, REFERENCE = "repository/", "docs/", "reference/"
FIRST = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
LINK = re.compile(r"(!?)\[([^\]\[]*(?:\[[^\]]*\][^\]\[]*)*)\]\(([^)\s]+)\)")
CODE = re.compile(r"(^```.*?^```)", re.MULTILINE | re.DOTALL)
NOTEBOOK = ".ipynb"
SHOWN = (".md", ".png", ".svg")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is not in docs/: linked pages with their pictures, and the reference."""
    waiting = [*FIRST, *(f"{DOCS}{file.src_uri}" for file in files.documentation_pages())]
    seen: set[str] = set()
    while waiting:
        path = waiting.pop()
        if path in seen or not (ROOT / path).is_file():
            continue
        seen.add(path)
        if not path.startswith(DOCS):
            source = str(ROOT / path)
            files.append(File.generated(config, OUTSIDE + path, abs_src_path=source))
        if path.endswith(".md"):
            found = LINK.finditer(CODE.sub("", (ROOT / path).read_text()))
            targets = [target(path, link[3])[0] for link in found]
            waiting += [one for one in targets if one.endswith(SHOWN)]
    for notebook in sorted((ROOT / DOCS).glob(f"*{NOTEBOOK}")):
        page = notebook.name.replace(NOTEBOOK, ".md")
        files.append(File.generated(config, page, content=as_page(notebook)))
    for name, text in reference().items():
        files.append(File.generated(config, f"{REFERENCE}{name}", content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **others: Any) -> str:
    """Let links lead to where pages are on the site."""
    uri = page.file.src_uri
    if uri.startswith(REFERENCE):
        return markdown
    path = uri.removeprefix(OUTSIDE) if uri.startswith(OUTSIDE) else DOCS + uri
    parts = CODE.split(markdown)
    parts[::2] = [LINK.sub(lambda link: relinked(link, path, uri), part) for part in parts[::2]]
    return "".join(parts)


def as_page(notebook: Path) -> str:
    """A notebook as Markdown, with the file to take along."""
    parts = []
    for cell in json.loads(notebook.read_text())["cells"]:
        source = "".join(cell["source"])
        parts.append(f"```python\n{source}\n```" if cell["cell_type"] == "code" else source)
    parts.insert(1, f"<a href={notebook.name!r} download>This page as a notebook.</a>")
    return "\n\n".join(parts)


def target(path: str, link: str) -> tuple[str, str]:
    """The file of the repository that a link of a page means, and the anchor in it."""
    name, sharp, anchor = link.partition("#")
    if ":" in name or not name:
        return "", ""
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), name)), sharp + anchor


def relinked(link: re.Match[str], path: str, uri: str) -> str:
    """A link of a page as it is on the site; its text alone where the file is not shown there."""
    meant, anchor = target(path, link[3])
    if not meant:
        return link[0]
    if meant.endswith(NOTEBOOK):
        meant = meant.replace(NOTEBOOK, ".md")
    elif not meant.endswith(SHOWN) or not (ROOT / meant).is_file():
        return link[2]
    own = meant.removeprefix(DOCS) if meant.startswith(DOCS) else OUTSIDE + meant
    return f"{link[1]}[{link[2]}]({posixpath.relpath(own, posixpath.dirname(uri) or '.')}{anchor})"


def reference() -> dict[str, str]:
    """The pages of the reference: a group of public names each, as `ramify.public` has them."""
    listed = (ROOT / "src/ramify/public.py").read_text().partition("__all__ = [")[2]
    pages: dict[str, str] = {}
    for comment, names in re.findall(r"# ([^\n]+)\n((?:    \"\w+\",\n)+)", listed):
        own = re.findall(r"\"(\w+)\"", names)
        blocks = [f"::: ramify.public.{name}\n" for name in own]
        title = comment[0].upper() + comment[1:]
        file = f"{re.sub('[^a-z]+', '-', comment.lower()).strip('-')}.md"
        pages[file] = "\n".join([f"# {title}\n", "From `import ramify`.\n", *blocks])
    return pages
