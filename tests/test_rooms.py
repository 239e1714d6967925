"""The house: imports go downwards only, and in no circle."""

from __future__ import annotations

import ast
import json
from collections import Counter, defaultdict
from pathlib import Path

import icons
from tests.conftest import ROOT

HOUSE = Path(icons.__file__).parent

FLOORS = (
    ("cli", "__main__"),
    ("demo",),
    ("pipeline", "cluster", "opening", "opened_run"),
    ("stages",),
    ("models", "training", "report"),
    ("config_file", "mixture_file", "new_config", "settings"),
    ("config", "config_data", "config_section", "store"),
    ("data", "selection", "evaluation"),
    ("gradients",),
    ("atomic", "cores", "errors", "exits", "machine", "parent", "plain", "progress", "ranges", "stop", "yaml_text"),
)
"""From the top: a room imports from its own floor or from one below; `stages` has floors of its own."""

STAGES = (("checks",), ("report", "export"), ("generalist",), ("training",), ("specialist",))


def imports() -> dict[str, set[str]]:
    """Module -> the modules of icons that it imports, anywhere in the file."""
    files = {_name(path): path for path in HOUSE.rglob("*.py")}
    arrows: dict[str, set[str]] = defaultdict(set)
    for module, path in files.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            arrows[module] |= {name for name in names if name in files and name != module}
    packages = {name for name, path in files.items() if path.name == "__init__.py"}
    return {module: names - packages for module, names in arrows.items()}


def _name(path: Path) -> str:
    parts = path.relative_to(HOUSE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_no_module_imports_itself_by_way_of_others() -> None:
    arrows, done = imports(), set[str]()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            for other in sorted(arrows.get(module, ())):
                visit(other, (*path, module))
            done.add(module)

    for module in sorted(arrows):
        visit(module, ())


def test_no_import_goes_upwards() -> None:
    upward = []
    for module, others in imports().items():
        for other in others:
            for floors, part in ((FLOORS, 1), (STAGES, 2)):
                here, there = (_floor(floors, name, part) for name in (module, other))
                if here is not None and there is not None and here > there:
                    upward.append(f"{module} -> {other}")
    assert not upward


def test_every_room_has_a_floor() -> None:
    rooms = {path.stem for path in HOUSE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert rooms - {"__init__"} == {room for floor in FLOORS for room in floor}
    stages = {path.name for path in (HOUSE / "stages").iterdir() if (path / "__init__.py").is_file()}
    assert stages == {room for floor in STAGES for room in floor}


def room(module: str) -> str:
    """The room a module lies in: stages/specialist, data, config ..."""
    parts = module.split(".")
    if len(parts) == 1:
        return "__init__"
    return f"stages/{parts[2]}" if parts[1] == "stages" and len(parts) > 2 else parts[1]


def room_arrows() -> dict[str, int]:
    """ "room -> room" -> how many imports; the lowest floor, which everybody may use, is left out."""
    left_out = {*FLOORS[-1], "__main__", "__init__"}
    rooms = ((room(module), room(other)) for module, others in imports().items() for other in others)
    counts = Counter(f"{here} -> {there}" for here, there in rooms if here != there and not {here, there} & left_out)
    return dict(sorted(counts.items()))


def test_the_picture_shows_the_imports_as_they_are() -> None:
    drawn = json.loads((ROOT / "docs" / "pictures" / "rooms.json").read_text())
    assert drawn == room_arrows(), "docs/pictures/rooms.* are of other imports; run: python docs/rooms.py"


def _floor(floors: tuple[tuple[str, ...], ...], module: str, part: int) -> int | None:
    parts = module.split(".")
    if part == 2 and (len(parts) < 3 or parts[1] != "stages"):
        return None
    room = parts[part] if len(parts) > part else ""
    return next((number for number, rooms in enumerate(floors) if room in rooms), None)
