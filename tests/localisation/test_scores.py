import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, jaccard_score

from ols.localisation.baselines import centre_prior, random_maps
from ols.localisation.scores import energy_inside, overlap_at, overlap_at_own_area, pointing_game

MAP = torch.tensor([[[0.0, 0.2, 0.4], [0.1, 0.8, 1.0], [0.0, 0.5, 0.0]]])  # sums to 3
MASK = torch.tensor([[[0, 0, 1], [0, 0, 1], [0, 0, 1]]], dtype=torch.bool)


def test_overlap_at_a_threshold_by_pencil():
    dice, iou = overlap_at(MAP, MASK, [0.4, 0.5, 0.9])
    # >= 0.4: four places, two of them inside; >= 0.5: three, one; >= 0.9: one, inside
    assert dice[0].tolist() == pytest.approx([2 * 2 / 7, 2 * 1 / 6, 2 * 1 / 4])
    assert iou[0].tolist() == pytest.approx([2 / 5, 1 / 5, 1 / 3])


def test_a_threshold_is_a_share_of_the_maximum():
    for factor in (1e-6, 1e6):
        assert overlap_at(factor * MAP, MASK, [0.5])[0].item() == pytest.approx(1 / 3)


def test_overlap_at_the_lesions_own_area_by_pencil():
    dice, iou = overlap_at_own_area(MAP, MASK)  # 1.0, 0.8 and 0.5, of which one is inside
    assert (dice.item(), iou.item()) == pytest.approx((1 / 3, 1 / 5))
    level = torch.tensor([[[1.0, 0.5, 0.5], [0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]])
    mask = torch.zeros(1, 3, 3, dtype=torch.bool)
    mask[0, 0, :2] = True  # the largest and, by chance, one of four equal ones, of which one is inside
    assert overlap_at_own_area(level, mask)[0].item() == pytest.approx((1 + 1 / 4) / 2)


def test_pointing_and_energy_by_pencil():
    assert pointing_game(MAP, MASK).item() == 1
    assert pointing_game(1 - MAP, MASK).item() == pytest.approx(1 / 3)  # three places are largest, one of them inside
    assert energy_inside(MAP, MASK).item() == pytest.approx(1.4 / 3)


def test_a_map_that_says_nothing_is_worth_the_share_of_the_lesion():
    for value in (0.0, 2.0):
        flat = torch.full((1, 3, 3), value)
        assert overlap_at_own_area(flat, MASK)[0].item() == pytest.approx(1 / 3)
        assert pointing_game(flat, MASK).item() == pytest.approx(1 / 3)
        assert energy_inside(flat, MASK).item() == pytest.approx(1 / 3)
    assert overlap_at(torch.zeros(1, 3, 3), MASK, [0.5])[0].item() == 0  # of which nothing is found


def test_an_image_without_a_lesion_has_no_score():
    empty = torch.zeros_like(MASK)
    for values in (*overlap_at(MAP, empty), *overlap_at_own_area(MAP, empty)):
        assert values.isnan().all()
    assert pointing_game(MAP, empty).isnan().all()
    assert energy_inside(MAP, empty).isnan().all()


def test_overlap_is_sklearns_f1_and_jaccard_of_the_pixels():
    rng = np.random.default_rng(0)
    maps, masks = rng.random((4, 9, 7)), rng.random((4, 9, 7)) < 0.3
    dice, iou = overlap_at(torch.from_numpy(maps), torch.from_numpy(masks), [0.3, 0.8])
    own, _ = overlap_at_own_area(torch.from_numpy(maps), torch.from_numpy(masks))
    for number in range(4):
        values, true = maps[number].ravel(), masks[number].ravel()
        for column, threshold in enumerate([0.3, 0.8]):
            found = values >= threshold * values.max()
            assert dice[number, column].item() == pytest.approx(f1_score(true, found))
            assert iou[number, column].item() == pytest.approx(jaccard_score(true, found))
        found = np.zeros(len(values), bool)
        found[np.argsort(-values)[: true.sum()]] = True
        assert own[number].item() == pytest.approx(f1_score(true, found))


def test_maps_that_are_none_are_refused():
    with pytest.raises(ValueError, match=r"of one size, got \[1, 3, 3\] and \[1, 2, 3\]"):
        pointing_game(MAP, MASK[:, :2])
    for wrong in (MAP - 1, MAP * torch.nan):
        with pytest.raises(ValueError, match="finite and not negative"):
            energy_inside(wrong, MASK)
    with pytest.raises(ValueError, match=r"thresholds must lie in \(0, 1\], got \[0.0\]"):
        overlap_at(MAP, MASK, [0.0])


def test_the_centre_prior_is_largest_in_the_middle_and_falls_off_by_the_side():
    prior = centre_prior((40, 80))
    assert prior.shape == (40, 80)
    torch.testing.assert_close(prior, prior.flip(0, 1))
    assert prior.argmax() in (19 * 80 + 39, 19 * 80 + 40, 20 * 80 + 39, 20 * 80 + 40)
    # A quarter of the side from the middle is one standard deviation: 10 rows, 20 columns
    assert float(prior[29:31, 39:41].mean()) == pytest.approx(np.exp(-0.5), abs=1e-3)
    assert float(prior[19:21, 59:61].mean()) == pytest.approx(np.exp(-0.5), abs=1e-3)


def test_a_random_map_hits_by_the_share_of_the_lesion_and_is_that_of_its_image_in_any_batch():
    maps = random_maps(np.arange(400), (14, 14), (14, 14))
    mask = torch.zeros(400, 14, 14, dtype=torch.bool)
    mask[:, 4:10, 4:11] = True  # 3/14 of the image
    assert float(overlap_at_own_area(maps, mask)[0].mean()) == pytest.approx(3 / 14, abs=0.01)
    coarse = random_maps(np.arange(4), (2, 2), (14, 14))
    assert torch.equal(random_maps([3, 1], (2, 2), (14, 14)), coarse[[3, 1]])
    assert torch.equal(coarse[:, :3, :3].amax(dim=(1, 2)), coarse[:, :3, :3].amin(dim=(1, 2)))  # a cell's corner
    assert not torch.equal(random_maps([3], (2, 2), (14, 14), seed=1), coarse[[3]])
