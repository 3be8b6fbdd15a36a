"""A table of targets in the making: which images it has, what was left out, and why."""

import csv
import io
from collections import Counter
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from ols.data.sources.folder import ENDINGS
from ols.files import write_file

TABLE, ACCOUNT, LEFT_OUT, BOXES = "targets.csv", "prepared.md", "left_out.csv", "boxes.csv"
MADE = "prepared"  # folder for images and masks that had to be made
SHOWN = 20  # names of a reason in the account; `left_out.csv` has all


class Prepared:
    """Rows of a table of targets, in a folder that holds the download, and an account of what is not in it.

    Args:
        folder: Where the download was unpacked.
        licence: Source and terms of the set, in a sentence or two.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It holds a table that this command has not written.
    """

    def __init__(self, folder: str | Path, *, licence: str):
        self.folder, self.licence = Path(folder).expanduser(), licence
        if not self.folder.is_dir():
            raise FileNotFoundError(f"no such folder: {self.folder}")
        if (self.folder / TABLE).exists() and not (self.folder / ACCOUNT).exists():
            raise ValueError(f"{self.folder / TABLE} is there and was not written by this command: move it away")
        self.rows: dict[str, dict[str, str]] = {}
        self.boxes: list[dict[str, str]] = []
        self.left_out: list[tuple[str, str]] = []
        self.notes: list[str] = []
        self._contradicting: set[str] = set()
        self.files = sorted(
            path.relative_to(self.folder).as_posix()
            for path in self.folder.rglob("*")
            if path.suffix.lower() in ENDINGS and path.is_file() and not self._is_passed_over(path)
        )
        self._by_path: dict[str, list[str]] = {}
        self._by_name: dict[str, list[str]] = {}
        for file in self.files:
            self._by_path.setdefault(file.casefold(), []).append(file)
            self._by_name.setdefault(file.rsplit("/", 1)[-1].casefold(), []).append(file)
        self._tops = sorted({file.split("/")[0] for file in self.files if "/" in file})

    def find(self, listed: str) -> str | None:
        """Return the image of a name in a list of the set, or say under `left_out` why there is none.

        Upper and lower case are not told apart. A name with folders is looked for in the folder and in those directly
        in it; one without, everywhere.
        """
        wanted = listed.strip().replace("\\", "/").casefold()
        found = self._by_name.get(wanted, []) if "/" not in wanted else []
        for top in ("", *self._tops):
            found = found or self._by_path.get(f"{top}/{wanted}".lstrip("/").casefold(), [])
        if len(found) == 1:
            return found[0]
        self.leave_out(listed, "no such image" if not found else f"{len(found)} files of this name")
        return None

    def add(self, filename: str, cells: Mapping[str, str]) -> None:
        """Add a row; one that says the same again is left out, and all of an image whose rows contradict each other.

        Args:
            filename: Name of the image, relative to the folder.
            cells: The other columns; the same ones for all rows.
        """
        before = self.rows.get(filename)
        if filename in self._contradicting or (before is not None and before != dict(cells)):
            self.rows.pop(filename, None)
            self._contradicting.add(filename)
            self.leave_out(filename, "rows that contradict each other")
        elif before is not None:
            self.leave_out(filename, "a second row that says the same (the first stays)")
        else:
            self.rows[filename] = dict(cells)

    def add_box(self, filename: str, finding: str, corner_and_size: tuple[str, str, str, str]) -> None:
        """Add a box around a finding: x and y of its upper left corner, width and height, in pixels of the image."""
        cells = zip(("x", "y", "width", "height"), corner_and_size, strict=True)
        self.boxes.append({"filename": filename, "finding": finding, **dict(cells)})

    def leave_out(self, name: str, why: str) -> None:
        """Remember what is not in the table."""
        self.left_out.append((name, why))

    def note(self, text: str) -> None:
        """Add a sentence to the account."""
        self.notes.append(text)

    def make_path(self, name: str) -> Path:
        """Return where to write an image or a mask that the download does not have in a form that can be read."""
        path = self.folder / MADE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def write(self) -> str:
        """Write table, boxes, what was left out and the account, which is returned.

        Raises:
            ValueError: No image is left.
        """
        if not self.rows:
            raise ValueError(f"{self.folder}: no image can be used; {'; '.join(self._reasons()) or 'none was found'}")
        rows = [{"filename": name, **self.rows[name]} for name in sorted(self.rows)]
        boxes = [box for box in self.boxes if box["filename"] in self.rows]
        left_out = [{"name": name, "why": why} for name, why in self.left_out]
        account = self._account(len(boxes))
        write_file(self.folder / ACCOUNT, account)  # first: a table without it would not be taken for our own
        for name, content in ((BOXES, boxes), (LEFT_OUT, left_out), (TABLE, rows)):
            if content:
                write_file(self.folder / name, as_csv(list(content[0]), content))
            else:
                (self.folder / name).unlink(missing_ok=True)
        return account

    def _account(self, boxes: int) -> str:
        columns = ["filename", *next(iter(self.rows.values()))]
        lines = [
            f"# {self.folder.resolve().name}",
            "",
            f"{len(self.rows):,} images in `{TABLE}`: {', '.join(columns)}.",
        ]
        if "patient" in columns:
            lines.append(f"{len({row['patient'] for row in self.rows.values()}):,} patients.")
        else:
            lines.append("Patients are not known: images of one patient may lie on both sides of a split.")
        lines += [f"{boxes:,} boxes in `{BOXES}`."] if boxes else []
        lines += ["", f"Licence: {self.licence} Check the terms of your copy.", ""]
        lines += [f"- {note}" for note in self.notes]
        lines += ["", f"## Left out: {len(self.left_out):,}", ""]
        for why, count in Counter(why for _, why in self.left_out).most_common():
            names = [name for name, reason in self.left_out if reason == why]
            more = f" and more, see `{LEFT_OUT}`" if count > SHOWN else ""
            lines.append(f"- {why} ({count:,}): {', '.join(names[:SHOWN])}{more}")
        return "\n".join(lines) + "\n"

    def _reasons(self) -> list[str]:
        return [f"{why} ({count:,})" for why, count in Counter(why for _, why in self.left_out).most_common(5)]

    def _is_passed_over(self, path: Path) -> bool:
        parts = path.relative_to(self.folder).parts
        return parts[0] == MADE or any(part.startswith(".") for part in parts) or "__MACOSX" in parts


def find_list(folder: Path, *patterns: str) -> Path:
    """Return the one file below a folder whose name fits the first pattern that any fits, in upper or lower case.

    Copies of it are taken for it.

    Raises:
        FileNotFoundError: None fits; the message has the patterns.
        ValueError: Several fit the same one and hold something else; the message names them.
    """
    files = sorted(path for path in folder.rglob("*") if not path.name.startswith("."))
    for pattern in patterns:
        found = [path for path in files if fnmatchcase(path.name.lower(), pattern.lower()) and path.is_file()]
        if len(found) > 1 and len({path.read_bytes() for path in found}) > 1:
            raise ValueError(f"{folder} has several {pattern}: {', '.join(map(str, found[:4]))}")
        if found:
            return found[0]
    raise FileNotFoundError(f"{folder} has no {' or '.join(patterns)}")


def as_csv(columns: list[str], rows: list[dict[str, str]]) -> str:
    """Return a table as text: a line of columns, and a line for each row."""
    text = io.StringIO()
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()
