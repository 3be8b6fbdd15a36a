"""An audit as a page to read and as JSON."""

import base64
import datetime
import io
import json
from collections import Counter
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment

from ols.audit import Audit, near
from ols.audit.findings import Finding
from ols.data.sources.files import open_image
from ols.data.sources.protocol import SPLITS
from ols.files import write_file

FORMAT = 1
EXAMPLES = 24  # items of a finding that the page shows; the JSON has them all
LISTED = 240  # items without pictures that the page lists
SHOWN_ROWS = 4  # pictures of an item that the page shows
THUMBNAIL = 112  # pixels


def write_page(audit: Audit, page: str | Path) -> Path:
    """Write the page, one file that needs no other, and beside it the same as JSON, complete.

    Args:
        audit: What was found.
        page: HTML file to write; its suffix gives way to `.json` for the other.

    Returns:
        The JSON file.
    """
    page = Path(page)
    summary = summarise(audit)
    data = page.with_suffix(".json")
    write_file(data, json.dumps(summary, indent=1, default=float) + "\n")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["thousands"] = lambda number: f"{number:,}"
    template = environment.from_string(files(__package__).joinpath("page.html").read_text(encoding="utf-8"))
    thumbnails: dict[str, str | None] = {}
    for finding in audit.findings:
        for item in _examples(finding):
            for row in item["rows"][:SHOWN_ROWS]:
                if row["filename"] not in thumbnails:
                    thumbnails[row["filename"]] = _thumbnail(audit.rows.root / row["filename"])
    write_file(
        page,
        template.render(
            summary,
            verdict=verdict(audit),
            thumbnails=thumbnails,
            examples={finding.kind: _examples(finding) for finding in audit.findings},
            most_labels=_most_labels,
            listed=LISTED,
            shown_rows=SHOWN_ROWS,
            json_name=data.name,
            near=near,
        ),
    )
    return data


def verdict(audit: Audit) -> str:
    """Return the outcome in one sentence."""
    errors = sum(finding.count for finding in audit.findings if finding.severity == "error")
    if audit.leaks:
        return "The splits leak."
    return f"The splits do not leak; errors: {errors:,}." if errors else "No leaks and no errors were found."


def summarise(audit: Audit) -> dict[str, Any]:
    """Return the audit as what JSON can hold."""
    rows, classes = audit.rows, audit.class_counts()
    return {
        "format": FORMAT,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "root": str(rows.root.resolve()),
        "csv_folder": str(rows.folder.resolve()) if rows.folder else None,
        "leaks": audit.leaks,
        "files": len(rows.filenames),
        "readable": int((audit.files["fault"] == "").sum()),
        "near_duplicates": {"hash_bits": near.RADIUS, "correlation": near.CORRELATION},
        "splits": {split: _imbalance([c[split] for c in classes]) for split in SPLITS},
        "groups": _group_counts(classes),
        "classes": classes,
        "pixels": audit.pixel_statistics(),
        "findings": [_as_dict(finding) for finding in audit.findings],
    }


def _examples(finding: Finding) -> list[dict[str, Any]]:
    """Return items from the whole of the list, evenly: the most alike and the least."""
    count = len(finding.items)
    return (
        [finding.items[i * (count - 1) // max(EXAMPLES - 1, 1)] for i in range(EXAMPLES)]
        if count > EXAMPLES
        else finding.items
    )


def _most_labels(occurrences: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """Return the labels in which something occurs most, and how often."""
    return Counter(
        item["rows"][0]["label"] for item in occurrences if item["rows"] and "label" in item["rows"][0]
    ).most_common(8)


def _as_dict(finding: Finding) -> dict[str, Any]:
    # `items` is a method of dictionaries, which a template would find first.
    return {
        "kind": finding.kind,
        "severity": finding.severity,
        "title": finding.title,
        "meaning": finding.meaning,
        "count": finding.count,
        "occurrences": finding.items,
    }


def _imbalance(counts: list[int]) -> dict[str, Any]:
    present = [count for count in counts if count]
    smallest, largest = min(present, default=0), max(present, default=0)
    imbalance = largest / smallest if present else None
    return {
        "rows": sum(counts),
        "classes": len(present),
        "smallest": smallest,
        "largest": largest,
        "imbalance": imbalance,
    }


def _group_counts(classes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    groups: dict[str, dict[str, Any]] = {}
    for c in classes:
        group = groups.setdefault(c["group"], {"group": c["group"], "classes": 0, **dict.fromkeys(SPLITS, 0)})
        group["classes"] += 1
        for split in SPLITS:
            group[split] += c[split]
    return [groups[name] for name in sorted(groups)]


def text_summary(audit: Audit) -> str:
    """Return the findings as a table of lines."""
    lines = [f"{f.severity:8}{f.count:>9,}  {f.title}" for f in audit.findings if f.count]
    return "\n".join([*lines, verdict(audit)])


def _thumbnail(path: Path) -> str | None:
    """Return a picture as a data URI, or None where there is none to show."""
    try:
        with open_image(path) as image:
            if image.mode.startswith(("I", "F")):
                return None
            small = image.convert("RGB" if image.mode not in ("L", "LA", "1") else "L")
            small.thumbnail((THUMBNAIL, THUMBNAIL))
    except Exception:  # the report is about files that no decoder can read
        return None
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
