"""Near-copies of a table, and the groups that keep them together."""

import numpy as np
from PIL import Image, ImageFilter

from ols.audit.copies import joined_groups, near_copies


def test_brighter_and_noisy_copies_are_found_and_other_images_are_not(tmp_path):
    rng = np.random.default_rng(0)
    images = [
        Image.fromarray(rng.integers(0, 256, (12, 12), np.uint8)).resize((96, 96)).filter(ImageFilter.GaussianBlur(3))
        for _ in range(4)
    ]
    copy = np.clip(np.asarray(images[1]) * 1.1 + rng.normal(0, 3, (96, 96)), 0, 255).astype(np.uint8)
    names = [f"{index}.png" for index in range(5)]
    for name, image in zip(names, [*images, Image.fromarray(copy)], strict=True):
        image.save(tmp_path / name)
    found = near_copies(tmp_path, names, log=tmp_path / "log.jsonl", workers=1)
    assert [pair[:2] for pair in found] == [(1, 4)]
    assert found[0][2] > 0.99


def test_patients_that_share_a_copy_become_one_group_through_any_chain():
    groups = ["a", "a", "b", "c", "d", "e"]
    copies = [(1, 2, 1.0), (2, 3, 1.0), (4, 4, 1.0)]
    joined = joined_groups(groups, copies)
    assert joined == ["a", "a", "a", "a", "d", "e"]
    assert joined_groups(groups, []) == groups
