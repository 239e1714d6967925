"""`icons compare`: how far two selections agree, over all and by source and votes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from icons.config_file import load_config
from icons.data.records import Records
from icons.data.sets import open_records
from icons.errors import UserError
from icons.plain import in_line
from icons.progress import say, say_json
from icons.selection.compare import Agreement, Bool, by_group, by_votes, shared
from icons.stages.generalist.answers import compare_answers
from icons.stages.generalist.selections import Member, Selection, Training, numbered, read_selection, read_training
from icons.store.layout import INDICES, RunFolder
from icons.store.selection import selection_names


def compare(path_a: Path, path_b: Path, data: Path | None = None, as_json: bool = False) -> None:
    """Prints the comparison of two index or data files; `data` is the training file, or a config that names it.

    Index files are compared by row. Where a data file takes part, a record is known by its id when no other record of
    the training file has it (without that file: when ids are unique in both data files), else by id, image and
    conversations together.

    Raises UserError when a file cannot be used, or when an index file and a data file come without the training file.
    """
    a, b = read_selection(index_file(path_a)), read_selection(index_file(path_b))
    report = _compared(a, b, _training_records(data))
    if as_json:
        say_json(report)
    else:
        _print(report)


def of_run(config: Path, *names: str) -> list[Path]:
    """The index files of a run's selections, each given by its name."""
    selections = RunFolder(load_config(config).output_dir).selections
    for name in names:
        if not (selections / name / INDICES).is_file():
            known = ", ".join(selection_names(selections)) or "none"
            raise UserError(f"no selection {name} in {selections}; there are {known}")
    return [selections / name / INDICES for name in names]


def index_file(path: Path) -> Path:
    """The index file within a selection's folder; any other path as it is."""
    return path / INDICES if (path / INDICES).is_file() else path


def _training_records(data: Path | None) -> Records | None:
    if data is not None and data.suffix in {".yaml", ".yml"}:
        return open_records(load_config(data).train.parts)
    return None if data is None else open_records(data)


def _compared(a: Selection, b: Selection, records: Records | None) -> dict[str, Any]:
    num_train = _num_train([a, b], records)
    by_row = a.rows is not None and b.rows is not None
    if not by_row and records is None and (a.rows is not None or b.rows is not None):
        raise UserError(
            "an index file and a data file can be compared through the training data alone: give it with --data"
        )
    training = _training(a, b, records)
    sides = _sides(a, b, training)
    report: dict[str, Any] = {"a": _named(a), "b": _named(b), "num_train": num_train}
    if a.rows is not None and b.rows is not None:
        items_a, items_b = a.rows, b.rows
        report["matched_by"] = "row"
    else:
        assert sides is not None
        by_id = _telling_ids(sides, training)
        items_a, items_b = numbered(sides, by_id)
        told_by_id = [member.id in by_id for side in (a, b) for member in side.members or []]
        report["matched_by"] = "id" if all(told_by_id) else "id, else content" if any(told_by_id) else "content"
    in_both_a, in_both_b = shared(items_a, items_b)
    agreement = Agreement(len(a), len(b), int(in_both_a.sum()), num_train)
    report |= {
        "both": agreement.both,
        "share_of_a": agreement.share_a,
        "share_of_b": agreement.share_b,
        "jaccard": agreement.jaccard,
        "expected_by_chance": agreement.expected,
    }
    if sides is not None and not by_row:
        matched = (in_both_a, in_both_b)
        report |= _doubts(sides, (items_a, items_b), matched)
        if training is not None:
            for name, selection in (("a", a), ("b", b)):
                lost = sum(not training.holds(member) for member in selection.members or [])
                report[name]["not_in_training_data"] = lost
    if records is not None and a.rows is not None and b.rows is not None:
        report["answers"] = compare_answers(records, a.rows, b.rows)
    if sides is not None:
        groups_a, groups_b = ([member.source for member in side] for side in sides)
        report["by_source"] = [vars(row) for row in by_group(groups_a, groups_b, in_both_a)]
    for name, selection, in_both in (("a", a, in_both_a), ("b", b, in_both_b)):
        if selection.votes is not None and selection.rows is not None:
            rows = by_votes(selection.votes[selection.rows], in_both)
            report[name]["tasks"] = selection.tasks
            report[name]["by_votes"] = [{"votes": v, "selected": n, "both": both} for v, n, both in rows]
    return report


def _named(selection: Selection) -> dict[str, Any]:
    return {"path": str(selection.path), "size": len(selection)}


def _num_train(selections: list[Selection], records: Records | None) -> int | None:
    """N; UserError when the files disagree about it."""
    counts = {str(side.path): side.num_train for side in selections if side.num_train is not None}
    if records is not None:
        counts[str(records.path)] = len(records)
        for side in selections:
            if side.rows is not None and len(side.rows) and side.rows.max() >= len(records):
                raise UserError(f"{side.path}: row {side.rows.max()} is not in {records.path} ({len(records)} records)")
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} of {count}" for name, count in counts.items())
        raise UserError(f"not selections of one training file: {listed} records")
    return next(iter(counts.values()), None)


def _training(a: Selection, b: Selection, records: Records | None) -> Training | None:
    if records is None:
        return None
    rows = {int(row) for side in (a, b) if side.rows is not None for row in side.rows}
    return read_training(records, rows, [member for side in (a, b) for member in side.members or []])


def _sides(a: Selection, b: Selection, training: Training | None) -> list[list[Member]] | None:
    """The members of both; None when a row's record is not known."""
    sides = []
    for side in (a, b):
        if side.members is not None:
            sides.append(side.members)
        elif training is not None and side.rows is not None:
            sides.append([training.members[row] for row in side.rows.tolist()])
        else:
            return None
    return sides


def _telling_ids(sides: list[list[Member]], training: Training | None) -> set[str]:
    """The ids that stand for one record each."""
    if training is not None:
        return {
            member.id for side in sides for member in side if member.id is not None and training.ids[member.id] == 1
        }
    for side in sides:
        if len({member.id for member in side} - {None}) < len(side):
            return set()  # an id that is unique here may belong to several records of the training file
    return {member.id for side in sides for member in side if member.id is not None}


def _doubts(sides: list[list[Member]], items: tuple[Any, Any], in_both: tuple[Bool, Bool]) -> dict[str, int]:
    """Records in both by their id with another content, and records of A outside B with an id that is in B."""
    contents = {int(item): member.content for item, member in zip(items[1], sides[1], strict=True)}
    differing = other = 0
    outside = Counter(member.id for member, both in zip(sides[1], in_both[1], strict=True) if not both)
    for item, member, both in zip(items[0], sides[0], in_both[0], strict=True):
        differing += bool(both) and contents[int(item)] != member.content
        other += not both and member.id is not None and member.id in outside
    return {"both_with_other_content": differing, "same_id_not_matched": other}


def _print(report: dict[str, Any]) -> None:
    a, b = report["a"], report["b"]
    width = len(f"{max(a['size'], b['size']):,}")
    for name, side in (("A", a), ("B", b)):
        say(f"{name}  {side['size']:>{width},} records  {side['path']}")
    say("")
    for label, text in _figures(report):
        say(f"{label:<20} {text}")
    for name, side in (("A", a), ("B", b)):
        if side.get("not_in_training_data"):
            say(f"{side['not_in_training_data']:,} records of {name} are not in the training data")
    if report.get("both_with_other_content"):
        say(f"{report['both_with_other_content']:,} of those in both have the same id but another content")
    if report.get("same_id_not_matched"):
        count = report["same_id_not_matched"]
        say(f"{count:,} records of A outside B have the id of a record of B, with another content")
    if "by_source" in report:
        rows = [
            [
                in_line(row["group"], 60),
                row["a"],
                row["b"],
                row["both"],
                _share(row["both"], row["a"]),
                _share(row["both"], row["b"]),
            ]
            for row in report["by_source"]
        ]
        _table(["source", "A", "B", "both", "of A", "of B"], rows)
    if report.get("answers"):
        _print_answers(report["answers"])
    for name, other, side in (("A", "B", a), ("B", "A", b)):
        if "by_votes" in side:
            rows = [
                [str(row["votes"]), row["selected"], row["both"], _share(row["both"], row["selected"])]
                for row in side["by_votes"]
            ]
            _table([f"votes of {name}", "selected", f"in {other}", "share"], rows)
            if side["tasks"]:
                say(f"{len(side['tasks'])} tasks voted: {in_line(', '.join(side['tasks']), 1000)}")


def _print_answers(table: list[dict[str, Any]]) -> None:
    """How far each selection prefers answers, and the answer of each source whose share differs most."""
    rows = []
    for row in table:
        cells = [f"{row[side]['distance']:.1%}{'!' if row[side]['skewed'] else ''}" for side in ("a", "b")]
        most = max(row["top"], key=lambda each: max(abs(each[s] - each["data"]) for s in ("a", "b")), default=None)
        shares = "" if most is None else f"{most['data']:.0%} -> {most['a']:.0%}, {most['b']:.0%}"
        answer = "" if most is None else in_line(most["answer"].replace("\n", " "), 24)
        rows.append([in_line(row["source"], 60), *cells, f"{row['a']['by_chance']:.1%}", answer, shares])
    _table(["answers of source", "A", "B", "by chance", "answer", "data -> A, B"], rows)
    say("distance of the answers' shares from the data's; ! = a preference that chance does not explain")


def _figures(report: dict[str, Any]) -> list[tuple[str, str]]:
    expected = report["expected_by_chance"]
    if expected is None:
        chance = "not known without the training data; give it with --data"
    else:
        times = f", found {report['both'] / expected:.2f} times as many" if expected else ""
        chance = f"{expected:,.1f} of {report['num_train']:,} training records{times}"
    return [
        ("in both", f"{report['both']:,} (matched by {report['matched_by']})"),
        ("share of A", f"{report['share_of_a']:.1%}"),
        ("share of B", f"{report['share_of_b']:.1%}"),
        ("Jaccard", f"{report['jaccard']:.3f}"),
        ("expected by chance", chance),
    ]


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def _table(head: list[str], rows: list[list[Any]]) -> None:
    """Columns under each other: the first to the left, numbers to the right."""
    cells = [head, *([cell if isinstance(cell, str) else f"{cell:,}" for cell in row] for row in rows)]
    widths = np.array([[len(cell) for cell in row] for row in cells]).max(axis=0)
    say("")
    for row in cells:
        others = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        say("  ".join([row[0].ljust(widths[0]), *others]).rstrip())
