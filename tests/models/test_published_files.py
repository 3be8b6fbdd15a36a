"""Files of published weights by the names that their publishers give them."""

import pytest

from ols.models.published_files import find_published


@pytest.fixture
def folder(tmp_path):
    for name in ("RadImageNet-ResNet50_notop.h5", "RadImageNet-IRV2-notop.h5", "resnet18.tar.gz", "README.md"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("network", "file"),
    [
        ("resnet50", "RadImageNet-ResNet50_notop.h5"),
        ("inception_resnet_v2", "RadImageNet-IRV2-notop.h5"),
        ("resnet18", "resnet18.tar.gz"),
    ],
)
def test_the_file_of_a_network_is_found_by_its_published_name(folder, network, file):
    assert find_published(folder, network).name == file


def test_none_and_several_are_refused_with_what_is_there(folder):
    with pytest.raises(FileNotFoundError, match=r"no file of weights of resnet180.*resnet18\.tar\.gz"):
        find_published(folder, "resnet180")
    (folder / "ResNet50.pt").touch()
    with pytest.raises(ValueError, match=r"several files of weights of resnet50: RadImageNet.*ResNet50\.pt"):
        find_published(folder, "resnet50")
