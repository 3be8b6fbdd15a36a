"""The section on where networks look: means and differences of all folds and seeds, beside numpy."""

from dataclasses import replace

import numpy as np
import pytest

from ols.evaluation.localised_images import LocalisedImages
from ols.studies.findings.localisation import localisation_section
from ols.studies.findings.trainings import choose_ways
from ols.tasks.report.parts import Table

MEASURES = ("dice", "dice_own_area", "pointing", "energy")


@pytest.fixture(scope="module")
def cells(make_cells):
    """Two starts, two folds, two seeds; a third of the test images is marked, in an order of its own in each cell."""
    rng, found = np.random.default_rng(0), []
    for cell in make_cells({"none": 0.5, "own": 0.5}, folds=2, seeds=2, images=120):
        marked = rng.permutation(len(cell.test.sample_ids) // 3)
        names = [cell.test.sample_ids[place] for place in marked]
        patients = [cell.test.patients[place] for place in marked]
        better = 0.2 * (cell.labels["source"] == "own")
        scores = {
            name: {measure: shift + 0.5 * rng.random(len(names)) for measure in MEASURES}
            for name, shift in (("grad_cam", 0.1 + better), ("centre_prior", 0.1))
        }
        found.append(replace(cell, localised=LocalisedImages(names, patients, scores)))
    return found


def _means(cells, source, name="grad_cam"):
    own = [cell.localised.scores[name] for cell in cells if cell.labels["source"] == source]
    return {measure: np.mean(np.concatenate([one[measure] for one in own])) for measure in MEASURES}


def _tables(section):
    return [part for part in section.parts if isinstance(part, Table)]


def test_all_folds_and_seeds_count_and_differences_are_paired_by_image(cells):
    values, differences = _tables(localisation_section(choose_ways(cells), "source"))
    for row, source in zip(values.rows, ("none", "own"), strict=True):
        assert row.cells[1].text == "40 images, 20 patients"
        means, prior = _means(cells, source), _means(cells, source, "centre_prior")
        for cell, measure in zip(row.cells[2:], MEASURES, strict=True):
            assert cell.text == f"{means[measure]:.3f}"
            assert cell.below[0].startswith(f"{means[measure] - prior[measure]:+.3f} (")
    (row,) = differences.rows
    assert row.cells[1].text == "own less none"
    for cell, measure in zip(row.cells[2:], MEASURES, strict=True):
        assert cell.text.startswith(f"{_means(cells, 'own')[measure] - _means(cells, 'none')[measure]:+.3f} (")

    # Paired: an image that both starts find as hard, or as easy, says nothing of their difference
    hardness = {name: value for name, value in zip(values_of(cells), np.linspace(-0.3, 0.3, 40), strict=True)}
    harder = [replace(cell, localised=shifted(cell.localised, hardness)) for cell in cells]
    wide, still_narrow = _tables(localisation_section(choose_ways(harder), "source"))
    assert width(wide.rows[0].cells[5]) > 1.5 * width(values.rows[0].cells[5])
    assert width(still_narrow.rows[0].cells[5]) == pytest.approx(width(row.cells[5]), abs=0.002)


def values_of(cells):
    return sorted({name for cell in cells for name in cell.localised.names})


def shifted(images, hardness):
    shift = np.array([hardness[name] for name in images.names])
    scores = {name: {m: v + shift for m, v in of_map.items()} for name, of_map in images.scores.items()}
    return replace(images, scores=scores)


def width(cell):
    low, high = map(float, (cell.beside or cell.text).partition("(")[2].strip(")").split(" to "))
    return high - low


def test_ways_whose_cells_were_not_all_localised_and_measures_that_some_lack_are_left_out(cells):
    assert localisation_section(choose_ways([replace(cell, localised=None) for cell in cells]), "source") is None
    less = [replace(cell, localised=None) if cell.labels["source"] == "own" else cell for cell in cells[:-1]]
    values, differences = _tables(localisation_section(choose_ways(less), "source"))
    assert ["none" in row.cells[0].text for row in values.rows] == [True]
    assert not differences.rows
    first = cells[0].localised
    scores = {name: {m: v for m, v in of_map.items() if m != "dice"} for name, of_map in first.scores.items()}
    values, _ = _tables(
        localisation_section(
            choose_ways([replace(cells[0], localised=replace(first, scores=scores)), *cells[1:]]), "source"
        )
    )
    assert [column.title for column in values.columns[2:]] == ["Dice at own area", "pointing game", "energy inside"]


def test_scores_are_read_as_they_were_written(cells, tmp_path):
    images = shifted(cells[0].localised, dict.fromkeys(cells[0].localised.names, 1 / 3))
    images.scores["grad_cam"]["dice"][0] = np.nan
    images.write(tmp_path / "images.csv")
    again = LocalisedImages.read(tmp_path / "images.csv")
    assert (again.names, again.patients) == (images.names, images.patients)
    assert list(again.scores) == ["grad_cam", "centre_prior"]
    for name, of_map in images.scores.items():
        for measure, values in of_map.items():
            np.testing.assert_array_equal(again.scores[name][measure], values)


def test_an_interval_draws_patients_and_needs_five(cells):
    images = cells[0].localised
    found = images.means()["energy"]
    assert found.low < found.mean < found.high
    patients = [name[-1] for name in images.patients]
    assert len(set(patients)) >= 5
    other = replace(images, patients=patients).means()["energy"]
    assert (other.low, other.high) != (found.low, found.high)
    few = replace(images, patients=["a", "b"] * (len(images.names) // 2)).means()["energy"]
    assert np.isnan([few.low, few.high]).all()
    with pytest.raises(ValueError, match="the same images in the same order"):
        images.less(cells[1].localised)
