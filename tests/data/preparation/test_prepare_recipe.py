import sys

import pytest
from data.preparation.trees import write_image
from PIL import Image

from ols.data.preparation.sets import SETS
from recipes import prepare


def _call(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["prepare.py", *map(str, words)])
    prepare.main()


def test_the_command_writes_the_table_and_an_account_and_can_be_given_again(tmp_path, monkeypatch, capsys):
    write_image(tmp_path / "normal" / "normal (1).png")
    write_image(tmp_path / "normal" / "other.png")
    for _ in range(2):
        _call(monkeypatch, "busi", tmp_path, "--normal", "benign")
        assert (tmp_path / "targets.csv").read_text().splitlines() == [
            "filename,class,mask,finding",
            "normal/normal (1).png,benign,prepared/masks/normal/normal (1).png,normal",
        ]
        assert (tmp_path / "left_out.csv").read_text().splitlines()[1:] == [
            "normal/other.png,not named `<class> (<number>)`"
        ]
    account = (tmp_path / "prepared.md").read_text()
    assert account in capsys.readouterr().out
    assert "Licence: BUSI, Al-Dhabyani et al. 2020" in account
    assert "Normal images count as benign." in account
    assert "Patients are not known" in account


@pytest.mark.parametrize("name", SETS)
def test_an_empty_folder_is_answered_in_one_line(name, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit, match="2"):
        _call(monkeypatch, name, tmp_path)
    (line,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path) in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_near_copies_of_the_prepared_images_are_named(tmp_path, monkeypatch, capsys):
    noise = Image.effect_noise((96, 96), 90).resize((192, 192))
    for folder, image in (("Training", noise), ("Testing", noise.point(lambda value: value * 0.9))):
        (tmp_path / folder / "glioma").mkdir(parents=True)
        image.save(tmp_path / folder / "glioma" / "1.png")
    Image.effect_noise((192, 192), 90).save(tmp_path / "Training" / "glioma" / "2.png")
    _call(monkeypatch, "brain_tumour", tmp_path, "--near_copies")
    rows = (tmp_path / "near_copies.csv").read_text().splitlines()
    assert len(rows) == 2
    assert rows[1].startswith("Testing/glioma/1.png,Training/glioma/1.png,")
    assert "1 pairs of near-copies" in capsys.readouterr().out
