import pytest

from ols.models.published_files import find_published

RADIMAGENET = ("ResNet50", "DenseNet121", "InceptionV3", "IRV2")
NETS = ("resnet50", "densenet121", "inception_v3", "inception_resnet_v2")


@pytest.mark.parametrize("form", ["RadImageNet-{}_notop.h5", "RadImageNet-{}-notop.h5", "{}.pt"])
def test_each_net_finds_its_file_among_those_of_others(tmp_path, form):
    for name in RADIMAGENET:
        (tmp_path / form.format(name)).touch()
    (tmp_path / "ResNet50.md").touch()
    for net, name in zip(NETS, RADIMAGENET, strict=True):
        assert find_published(tmp_path, net).name == form.format(name)


def test_a_number_after_a_sign_is_a_checksum_and_directly_after_the_name_another_net(tmp_path):
    for name in (
        "efficientnet-lite0-57934424.pth",
        "efficientnet-lite1-1.pth",
        "MobileNetV3Large.tar.gz",
        "resnet180.pt",
    ):
        (tmp_path / name).touch()
    assert find_published(tmp_path, "tf_efficientnet_lite0").name == "efficientnet-lite0-57934424.pth"
    assert find_published(tmp_path, "mobilenetv3_large_100").name == "MobileNetV3Large.tar.gz"
    with pytest.raises(
        FileNotFoundError, match=r"no file of weights of resnet18: none is named resnet18; .*resnet180\.pt"
    ):
        find_published(tmp_path, "resnet18")


def test_two_files_of_one_net_are_refused_by_name(tmp_path):
    for name in ("ResNet50.pt", "resnet50_old.pt"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"several files of weights of resnet50: ResNet50\.pt, resnet50_old\.pt"):
        find_published(tmp_path, "resnet50")
