"""What the site has beside docs/: README and its like as pages, docstrings, files of the repository that are linked to.

A hook of MkDocs (mkdocs.yml). Links stay as they are in the repository, where they have to work too; here each is led
to the page, or to a copy of the file under `repository/`. One that leads nowhere is left, and the strict build fails.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
SHOWN = ("selection", "gradients", "evaluation", "data", "store")
"""Rooms of the package whose docstrings are shown: those that one's own code may use."""
LINK = re.compile(r"(\]\()([^)\s#:]+)(#[^)\s]*)?(\))")


def on_files(files: Files, config: Any) -> Files:
    for name, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text(encoding="utf-8")))
    for room in SHOWN:
        files.append(File.generated(config, f"api/{room}.md", content=docstrings(room)))
    sources = {page: name for name, page in PAGES.items()}
    copied = {
        path
        for file in files.documentation_pages()
        for path in repository_files(sources.get(file.src_uri, f"docs/{file.src_uri}"), file.content_string)
    }
    for path in sorted(copied):
        files.append(File.generated(config, f"repository/{path}", abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The links of a page, from where its file lies in the repository to where things lie in the site."""
    source = {page: name for name, page in PAGES.items()}.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    here = os.path.dirname(page.file.src_uri) or "."

    def led(match: re.Match[str]) -> str:
        place = in_site(target(source, match[2]))
        return match[0] if place is None else f"{match[1]}{os.path.relpath(place, here)}{match[3] or ''}{match[4]}"

    return LINK.sub(led, markdown)


def target(source: str, link: str) -> str:
    """Where a link of the file `source` leads, from the root of the repository."""
    return os.path.normpath(os.path.join(os.path.dirname(source), link))


def in_site(path: str) -> str | None:
    """The place in the site of what lies at `path` in the repository; None of what is not there."""
    if path in PAGES:
        return PAGES[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"repository/{path}" if (ROOT / path).is_file() else None


def repository_files(source: str, markdown: str) -> set[str]:
    """The files outside docs/ that a page links to."""
    places = {path: in_site(path) for path in (target(source, match[2]) for match in LINK.finditer(markdown))}
    return {path for path, place in places.items() if place == f"repository/{path}"}


def docstrings(room: str) -> str:
    """A page of a room's modules, each as mkdocstrings shows it."""
    folder = ROOT / "icons" / room
    modules = [f"icons.{room}.{path.stem}" for path in sorted(folder.glob("*.py")) if path.name != "__init__.py"]
    return "\n\n".join([f"# icons.{room}", *(f"::: {module}" for module in modules)]) + "\n"
