"""The smallest network of each of timm's families is built, finds its head, learns, and comes back from an export.

Seven minutes on one core of a busy machine (76 s of CPU); one process that tries them all peaks at 3.2 GB.
"""

import pytest
import timm
import torch
import torch.nn.functional as F

from ols.data.transforms import Preprocessing
from ols.models.build import build_model
from ols.models.head import find_head, head_parameter_names
from ols.runs.export import export_model, load_export

# A family, its member with the fewest parameters, and the side of images that it takes, small where it can be.
SMALLEST = {
    "beit": ("beit_base_patch16_224", 64),
    "byoanet": ("halonet_h1", 256),
    "byobnet": ("test_byobnet", 64),
    "cait": ("cait_xxs24_224", 64),
    "coat": ("coat_tiny", 64),
    "convit": ("convit_tiny", 64),
    "convmixer": ("convmixer_768_32", 64),
    "convnext": ("test_convnext", 64),
    "cpubone": ("cpubone_nano", 64),
    "crossvit": ("crossvit_tiny_240", 240),
    "csatv2": ("csatv2", 128),
    "cspnet": ("cs3darknet_focus_s", 64),
    "cspnext": ("cspnext_tiny", 64),
    "davit": ("davit_tiny", 64),
    "deit": ("deit_tiny_patch16_224", 64),
    "densenet": ("densenet121", 64),
    "dla": ("dla46x_c", 64),
    "dpn": ("dpn48b", 64),
    "edgenext": ("edgenext_xx_small", 64),
    "efficientformer": ("efficientformer_l1", 224),
    "efficientformer_v2": ("efficientformerv2_s0", 64),
    "efficientnet": ("mobilenetv2_035", 64),
    "efficientvim": ("efficientvim_m1", 128),
    "efficientvit_mit": ("efficientvit_b0", 64),
    "efficientvit_msra": ("efficientvit_m0", 64),
    "eva": ("vit_tiny_patch16_dinov3_qkvb", 64),
    "fasternet": ("fasternet_t0", 64),
    "fastvit": ("fastvit_t8", 64),
    "focalnet": ("focalnet_tiny_srf", 64),
    "gcvit": ("gcvit_xxtiny", 64),
    "ghostnet": ("ghostnet_050", 64),
    "hardcorenas": ("hardcorenas_b", 64),
    "hgnet": ("hgnetv2_b0", 64),
    "hiera": ("hiera_tiny_224", 64),
    "hieradet_sam2": ("sam2_hiera_tiny", 64),
    "hrnet": ("hrnet_w18_small", 64),
    "iformer": ("iformer_t", 64),
    "inception_next": ("inception_next_atto", 64),
    "inception_resnet_v2": ("inception_resnet_v2", 128),
    "inception_v3": ("inception_v3", 128),
    "inception_v4": ("inception_v4", 128),
    "lcnetv2": ("lcnetv2_small", 64),
    "levit": ("levit_128s", 64),
    "lowformer": ("lowformer_b0", 64),
    "mambaout": ("test_mambaout", 64),
    "maxxvit": ("test_coatnet", 64),
    "metaformer": ("poolformerv2_s12", 64),
    "mlp_mixer": ("gmlp_ti16_224", 64),
    "mobilenetv3": ("lcnet_035", 64),
    "mobilevit": ("mobilevit_xxs", 64),
    "mvitv2": ("mvitv2_tiny", 64),
    "naflexvit": ("naflexvit_so150m2_patch16_reg1_gap", 64),
    "nasnet": ("nasnetalarge", 64),
    "nest": ("nest_tiny", 64),
    "nextvit": ("nextvit_small", 64),
    "nfnet": ("test_nfnet", 64),
    "pit": ("pit_ti_224", 64),
    "pnasnet": ("pnasnet5large", 64),
    "pvt_v2": ("pvt_v2_b0", 64),
    "qwen3_vit": ("qwen3_vit_88m", 64),
    "rdnet": ("rdnet_tiny", 64),
    "regnet": ("regnetx_002", 64),
    "repghost": ("repghostnet_050", 64),
    "repvit": ("repvit_m1", 64),
    "res2net": ("res2next50", 64),
    "resnest": ("resnest14d", 64),
    "resnet": ("resnet10t", 64),
    "resnetv2": ("resnetv2_18", 64),
    "rexnet": ("rexnet_100", 64),
    "selecsls": ("selecsls42", 64),
    "senet": ("legacy_seresnet18", 64),
    "sequencer": ("sequencer2d_s", 64),
    "shvit": ("shvit_s1", 64),
    "sknet": ("skresnet18", 64),
    "starnet": ("starnet_s050", 64),
    "swiftformer": ("swiftformer_xs", 64),
    "swin_transformer": ("swin_tiny_patch4_window7_224", 64),
    "swin_transformer_v2": ("swinv2_tiny_window8_256", 64),
    "swin_transformer_v2_cr": ("swinv2_cr_tiny_224", 64),
    "tiny_vit": ("tiny_vit_5m_224", 64),
    "tnt": ("tnt_s_legacy_patch16_224", 64),
    "tresnet": ("tresnet_m", 64),
    "twins": ("twins_svt_small", 64),
    "vgg": ("vgg11", 64),
    "visformer": ("visformer_tiny", 64),
    "vision_transformer": ("test_vit", 64),
    "vision_transformer_hybrid": ("vit_tiny_r_s16_p8_224", 64),
    "vision_transformer_relpos": ("test_vit_relpos", 64),
    "vision_transformer_sam": ("samvit_base_patch16_224", 64),
    "vitamin": ("vitamin_small_224", 64),
    "volo": ("volo_d1_224", 64),
    "vovnet": ("ese_vovnet19b_slim_dw", 64),
    "xception": ("legacy_xception", 64),
    "xception_aligned": ("xception41p", 64),
    "xcit": ("xcit_nano_12_p8_224", 64),
}
TOO_LARGE = {"deepseek_vit", "gemma4_vit", "mobilenetv5"}  # none below 140 million parameters
ONLY_COLOUR = {"csatv2"}  # its first layer is a cosine transform of three channels
MOST_EXPORTED = 60_000_000  # parameters, of which an export and what is read back fit beside the model


def test_every_family_of_timm_is_tried_here_or_too_large():
    assert set(SMALLEST) | TOO_LARGE == set(timm.list_modules())
    assert not SMALLEST.keys() & TOO_LARGE
    assert len(SMALLEST) == 95
    for family, (name, _) in SMALLEST.items():
        assert name in timm.list_models(module=family)


@pytest.mark.slow
@pytest.mark.parametrize("family", SMALLEST)
def test_a_network_of_each_family_learns_a_step_and_comes_back_from_an_export(family, tmp_path):
    name, size = SMALLEST[family]
    channels = 3 if family in ONLY_COLOUR else 1
    torch.manual_seed(0)
    model = build_model(name, 3, channels, image_size=size)
    assert all(layer.weight.shape[0] == 3 for layer in find_head(model).values())
    before = {head: model.get_parameter(head).detach().clone() for head in head_parameter_names(model)}
    assert before
    images, targets = torch.randn(2, channels, size, size), torch.tensor([0, 2])
    logits = model.train()(images)
    assert logits.shape == (2, 3)
    F.cross_entropy(logits, targets).backward()
    torch.optim.SGD(model.parameters(), lr=1e-3).step()
    assert all(not torch.equal(value, model.get_parameter(head)) for head, value in before.items())
    model.zero_grad(set_to_none=True)
    if sum(value.numel() for value in model.parameters()) > MOST_EXPORTED:
        return
    with torch.no_grad():
        expected = model.eval()(images)
    assert expected.isfinite().all()
    export_model(
        tmp_path / "export",
        model,
        architecture=name,
        classes=["a", "b", "c"],
        groups=["CT"] * 3,
        preprocessing=Preprocessing(size, size, in_chans=channels),
        metrics={},
        task="multiclass",
    )
    loaded, _ = load_export(tmp_path / "export")
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), expected)
