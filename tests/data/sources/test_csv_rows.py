"""A CSV is read as it is meant, or refused with its line: never as other classes or fewer images."""

import pytest

from ols.data.sources.csv_rows import image_name, read_csv
from ols.data.sources.radimagenet import RadImageNet


def _read(tmp_path, content, encoding="utf-8"):
    path = tmp_path / "rows.csv"
    path.write_bytes(content.encode(encoding))
    return list(read_csv(path, ("filename", "label")))


def test_spaces_around_cells_and_columns_are_no_part_of_them(tmp_path):
    (row,) = _read(tmp_path, "filename , label\na.png,\t edema\u00a0\n")
    assert row.cells == {"filename": "a.png", "label": "edema"}
    assert row.given == {"filename": "a.png", "label": "\t edema\u00a0"}
    assert row.line == 2


def test_commas_and_quotation_marks_inside_cells_are_read_where_they_are_quoted(tmp_path):
    first, second = _read(tmp_path, 'filename,label\n\n"a, b.png","fracture, left"\nb.png,"6"" cast"\n')
    assert (first.line, *first.cells.values()) == (3, "a, b.png", "fracture, left")
    assert second.cells["label"] == '6" cast'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("filename,label\na.png,fracture, left\n", "line 2: 3 fields where the header has 2; a comma inside a cell"),
        ("filename,label\na.png,b,\n", "line 2: 3 fields"),
        ('filename,label\na.png,"b\nc.png,d\n', "line 3: .*a quotation mark not closed"),
        ('filename,label\na.png,"b\nc.png,"d"\ne.png,f\n', "line 3: .*a quotation mark not closed"),
        ('filename,label\na.png,"b\nc.png,d"\ne.png,f\n', "up to line 3: a cell of several lines"),
        ('filename,label\na.png,"b"c\n', "line 2: .*quotation mark"),
        ("filename;label\na.png;b\n", "separate columns by commas, not by ';'"),
        ("filename\tlabel\na.png\tb\n", r"separate columns by commas, not by '\\t'"),
        ("filename,label,label\na.png,b,c\n", "line 1: column 'label' is there twice"),
        ("filename,label\na.png,nor\u200bmal\n", r"line 2: label 'nor\\u200bmal' has a character that cannot be seen"),
        ("filename,label\na.png,b\x00c\n", "line 2"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_line(tmp_path, content, message):
    with pytest.raises(ValueError, match=rf"rows\.csv, .*{message}"):
        _read(tmp_path, content)


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252"])
def test_other_encodings_are_refused(tmp_path, encoding):
    with pytest.raises(ValueError, match=r"rows\.csv, after line \d: .*save it as UTF-8"):
        _read(tmp_path, "filename,label\na.png,\u00d6dem\n", encoding)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le"])
def test_utf_16_is_refused_by_its_name(tmp_path, encoding):
    mark = "\ufeff" if encoding == "utf-16-le" else ""
    with pytest.raises(ValueError, match=r"rows\.csv is UTF-16: save it as UTF-8"):
        _read(tmp_path, f"{mark}filename,label\na.png,b\n", encoding)


def test_a_name_has_one_spelling(tmp_path):
    assert {image_name(tmp_path, 2, name) for name in ("./a//b.png", "a\\b.png", "a/./b.png")} == {"a/b.png"}


@pytest.mark.parametrize(
    "name", ["../other/a.png", "a/../../b.png", "/etc/passwd", "C:\\images\\a.png", "\\\\host\\a.png"]
)
def test_a_name_that_leads_out_of_the_data_set_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"line 7: .* leads out of the data set"):
        image_name(tmp_path / "rows.csv", 7, name)


def test_a_class_keeps_its_images_however_its_label_and_their_names_are_spelt(tree):
    tree.write_csvs()
    clean = RadImageNet(tree.root, "train")
    rows = tree.rows["train"]
    tree.rows["train"] = [
        (f"./{name}" if i % 2 else name, f" {label} " if i % 3 else label) for i, (name, label) in enumerate(rows)
    ]
    tree.write_csvs()
    spelt = RadImageNet(tree.root, "train")
    assert spelt.classes == clean.classes
    assert spelt.targets.tolist() == clean.targets.tolist()
    assert [spelt.sample_id(i) for i in range(len(spelt))] == [clean.sample_id(i) for i in range(len(clean))]
