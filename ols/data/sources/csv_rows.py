"""Rows of a CSV that names images: read strictly, as a row that is misread is a wrong label that nobody sees."""

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

BYTE_ORDER_MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
OTHER_DELIMITERS = (";", "\t", "|")


class CsvRow(NamedTuple):
    """A row.

    Args:
        line: Its line in the file; 1 is the header.
        cells: Text by column, without the spaces around it.
        given: The same as it stands in the file.
    """

    line: int
    cells: dict[str, str]
    given: dict[str, str]


def read_csv(path: Path, columns: Sequence[str]) -> Iterator[CsvRow]:
    """Yield the rows of a CSV in UTF-8; empty lines are passed over.

    Args:
        path: The file.
        columns: Columns that it must have.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not UTF-8, a column is missing or there twice, a row has more or fewer fields than the header,
            a quotation mark is not closed, or a cell has a character that cannot be seen; the message has the line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no such CSV file: {path}")
    with path.open("rb") as binary:
        start = binary.read(2)
    if start in BYTE_ORDER_MARKS:
        raise ValueError(f"{path} is {BYTE_ORDER_MARKS[start]}: save it as UTF-8")
    # -sig: spreadsheet programs write a byte-order mark
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(file, strict=True)
        try:
            header = [name.strip() for name in next(rows, [])]
            _check_header(path, header, columns)
            for row in rows:
                if row:
                    yield _checked_row(path, rows.line_num, header, row)
        except csv.Error as error:
            raise ValueError(f"{path}, line {rows.line_num}: {error}; is a quotation mark not closed?") from error
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path}, after line {rows.line_num}: not UTF-8 ({error.reason}): save it as UTF-8"
            ) from error


def image_name(path: Path, line: int, name: str) -> str:
    """Return a file name of a CSV with `/` between its parts, and no part that says nothing, as in `./a//b`.

    Raises:
        ValueError: It leads out of the folder that names are relative to; the message has the line.
    """
    name = name.replace("\\", "/")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts or name.startswith("/") or re.match("[A-Za-z]:", name):
        raise ValueError(f"{path}, line {line}: {name!r} leads out of the data set: names are relative to its folder")
    return "/".join(parts)


def _check_header(path: Path, header: list[str], columns: Sequence[str]) -> None:
    for column in columns:
        if column not in header:
            found = ", ".join(header) or "nothing"
            others = [mark for mark in OTHER_DELIMITERS if len(header) == 1 and mark in header[0]]
            hint = f"; separate columns by commas, not by {others[0]!r}" if others else ""
            raise ValueError(f"{path}, line 1: column {column!r} is missing; the header has {found}{hint}")
    twice = [name for name in header if name and header.count(name) > 1]  # NIH's lists end in commas
    if twice:
        raise ValueError(f"{path}, line 1: column {twice[0]!r} is there twice")


def _checked_row(path: Path, line: int, header: list[str], row: list[str]) -> CsvRow:
    plain = "".join(row).isprintable()
    if not plain and any("\n" in cell or "\r" in cell for cell in row):
        raise ValueError(f"{path}, up to line {line}: a cell of several lines: a quotation mark is not closed")
    if len(row) != len(header):
        hint = "; a comma inside a cell needs quotation marks around it" if len(row) > len(header) else ""
        raise ValueError(f"{path}, line {line}: {len(row)} fields where the header has {len(header)}{hint}")
    stripped = [cell.strip() for cell in row]
    cells = dict(zip(header, stripped, strict=True))
    if not plain:
        for name, cell in cells.items():
            if not cell.isprintable():
                raise ValueError(f"{path}, line {line}: {name} {cell!a} has a character that cannot be seen")
    return CsvRow(line, cells, cells if stripped == row else dict(zip(header, row, strict=True)))
