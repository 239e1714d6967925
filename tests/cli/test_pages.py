"""The documents hold together: links lead somewhere, the site's menu has every page, written pages are up to date."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
MADE_BY_THE_SITE = {"index.md", "contributing.md", "changelog.md"}


def anchors(path: Path) -> set[str]:
    """Of the headings of a page, as GitHub and MkDocs make them."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    dead = []
    for link, anchor in re.findall(r"\]\(([^)\s#:]*)(#[^)\s]*)?\)", page.read_text()):
        target = Path(os.path.normpath(page.parent / link)) if link else page
        if not target.is_file() or (anchor and anchor[1:] not in anchors(target)):
            dead.append(link + anchor)
    assert dead == []


def test_the_sites_menu_has_every_page() -> None:
    listed = set(re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    written = {path.name for path in (ROOT / "docs").glob("*.md")}
    assert {name for name in listed if not name.startswith("api/")} == written | MADE_BY_THE_SITE
    rooms = {name.partition("/")[2].removesuffix(".md") for name in listed if name.startswith("api/")}
    assert {room for room in rooms if not (ROOT / "icons" / room).is_dir()} == set()
    assert yaml.safe_load((ROOT / "mkdocs.yml").read_text())["hooks"] == ["docs/site/pages.py"]


def test_the_page_of_keys_is_that_of_the_config(tmp_path: Path) -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'docs')!r}); import keys; sys.stdout.write(keys.page())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (ROOT / "docs" / "config.md").read_text() == done.stdout, "run: python docs/keys.py"
