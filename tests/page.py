"""A report's page taken apart with the standard library's parser alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "link", "img", "br", "input"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    children: list[Element | str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    def all(self, tag: str, **attributes: str) -> list[Element]:
        found = []
        for child in self.children:
            if isinstance(child, Element):
                if child.tag == tag and attributes.items() <= child.attributes.items():
                    found.append(child)
                found += child.all(tag, **attributes)
        return found

    def one(self, tag: str, **attributes: str) -> Element:
        (found,) = self.all(tag, **attributes)
        return found


class _Builder(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.root = Element("root", {})
        self._open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self._open[-1].children.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open[-1].children.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open[-1].tag == tag, f"</{tag}> closes <{self._open[-1].tag}>"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        self._open[-1].children.append(data)


def read_page(path: Path) -> Element:
    """The whole tree; an AssertionError where a tag is closed that is not the last one opened."""
    builder = _Builder()
    builder.feed(path.read_text(encoding="utf-8"))
    builder.close()
    assert len(builder._open) == 1, builder._open[-1].tag
    return builder.root


def rows(table: Element) -> list[list[str]]:
    """The cells of a table's body."""
    return [
        [cell.text.strip() for cell in row.children if isinstance(cell, Element)]
        for row in table.one("tbody").all("tr")
    ]


def numbers(page: Element, figure: str) -> list[list[str]]:
    """The table behind a figure."""
    return rows(page.one("figure", id=f"figure-{figure}").one("table"))


def caption(page: Element, figure: str) -> str:
    return page.one("figcaption", id=f"caption-{figure}").text


def findings(page: Element) -> dict[str, str]:
    items = [item for entries in page.all("dl", **{"class": "findings"}) for item in entries.all("div")]
    return {item.one("dt").text.split(": ")[-1]: item.one("dd").text for item in items}
