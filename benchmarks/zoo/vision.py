"""Models of `torchvision` and `timm`, if these are installed."""

from __future__ import annotations

import importlib
import importlib.util
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.zoo.entries import Entry, image

DETECTION_OPERATORS: list[torch.library.Library] = []
"""Keeps the declarations of `declare_operators` alive."""


def declare_operators() -> None:
    """Make `torchvision` importable with a build of torch that its compiled part does not fit.

    Its Python part registers shape rules for two operators, `nms` and `qnms`, that only the
    compiled part defines. With their schemas declared the import succeeds; calling the operators
    raises an error that they have no kernel.
    """
    if DETECTION_OPERATORS or importlib.util.find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        DETECTION_OPERATORS.append(library)


TORCHVISION: list[tuple[str, dict[str, Any], int, int]] = [
    # name, settings, image size, batch
    ("alexnet", {}, 96, 1),
    ("densenet121", {}, 64, 1),
    ("efficientnet_b0", {}, 64, 1),
    ("googlenet", {"init_weights": False, "aux_logits": False}, 64, 1),
    ("inception_v3", {"init_weights": False, "aux_logits": False}, 96, 1),
    ("mnasnet0_5", {}, 64, 1),
    ("mobilenet_v3_small", {}, 64, 1),
    ("regnet_y_400mf", {}, 64, 1),
    ("shufflenet_v2_x1_0", {}, 64, 1),
    ("squeezenet1_1", {}, 64, 1),
]
SEGMENTATION: list[tuple[str, int]] = [
    ("deeplabv3_mobilenet_v3_large", 64),
    ("lraspp_mobilenet_v3_large", 64),
]
TORCHVISION_FULL = [
    ("resnet50", 224),
    ("mobilenet_v2", 224),
    ("convnext_tiny", 224),
    ("swin_t", 224),
]
TIMM: list[tuple[str, dict[str, Any], int]] = [
    ("res2net50_26w_4s", {}, 64),
    ("cspresnet50", {}, 64),
    ("ghostnet_100", {}, 64),
    ("mixer_s32_224", {"img_size": 64}, 64),
    ("levit_128s", {}, 224),
    ("coatnet_nano_rw_224", {"img_size": 64}, 64),
    ("nfnet_l0", {}, 64),
    ("hrnet_w18_small", {}, 64),
]
TIMM_SMALL = {
    # Names of models that need the image size, and of those that accept any size.
    "img_size": """
        beit_base_patch16_224 gcresnet33ts botnet26t_256 lambda_resnet26t repvgg_a0 mobileone_s0
        cait_xxs24_224 convit_tiny deit_tiny_patch16_224 efficientformerv2_s0 efficientvit_m0
        eva02_tiny_patch14_224 gcvit_xxtiny hiera_tiny_224 maxvit_rmlp_pico_rw_256 gmlp_s16_224
        resmlp_12_224 mobilevit_xxs mobilevitv2_050 mvitv2_tiny nest_tiny pit_ti_224 repvit_m0_9
        sequencer2d_s swiftformer_xs swin_tiny_patch4_window7_224 swinv2_tiny_window8_256
        swinv2_cr_tiny_224 tnt_s_legacy_patch16_224 twins_pcpvt_small twins_svt_small visformer_tiny
        vit_tiny_patch16_224 vitamin_small_224 volo_d1_224 xcit_nano_12_p16_224
        vit_relpos_small_patch16_224 vit_srelpos_small_patch16_224
    """.split(),
    "": """
        convmixer_768_32 convnext_atto convnextv2_atto crossvit_9_240 davit_tiny dla34 dpn48b
        edgenext_xx_small efficientvit_b0 fasternet_t0 fastvit_t8 focalnet_tiny_srf ghostnetv2_100
        hardcorenas_a hgnetv2_b0 inception_next_atto caformer_s18 poolformerv2_s12 mambaout_femto
        mixnet_s mobilenetv3_small_050 mobilenetv4_conv_small nextvit_small rdnet_tiny regnetx_002
        repghostnet_050 resnest14d resnetv2_50 rexnet_100 shvit_s1 skresnet18 selecsls42
        legacy_seresnet18 starnet_s1 tiny_vit_5m_224 tresnet_m vovnet39a xception41 lcnet_050
        tinynet_e mnasnet_small spnasnet_100 ecaresnet26t darknet17 cspdarknet53
        tf_efficientnetv2_b0 cs3darknet_s eca_nfnet_l0 gernet_s hrnet_w18_small_v2 seresnet18
        resnext26ts csatv2
    """.split(),
}
SMALL = 64


def _torchvision(name: str, settings: dict[str, Any]) -> nn.Module:
    declare_operators()
    models = importlib.import_module("torchvision.models")
    found: nn.Module = models.get_model(name, weights=None, **settings)
    return found


def _timm(name: str, settings: dict[str, Any]) -> nn.Module:
    declare_operators()
    timm = importlib.import_module("timm")
    found: nn.Module = timm.create_model(name, pretrained=False, **settings)
    return found


def entries() -> list[Entry]:
    """One entry for each model of the installed packages."""
    found = []
    if importlib.util.find_spec("torchvision") is not None:
        for name, settings, size, batch in TORCHVISION:
            build = partial(_torchvision, name, settings)
            found.append(Entry(name, "torchvision", build, image(size, size, batch=batch)))
        plain = {"weights_backbone": None}
        for name, size in SEGMENTATION:
            build = partial(_torchvision, name, plain)
            found.append(Entry(name, "torchvision", build, image(size, size)))
        for name, size in TORCHVISION_FULL:
            build = partial(_torchvision, name, {})
            inputs = image(size, size, batch=1)
            found.append(Entry(f"{name} at {size}", "torchvision", build, inputs, full=True))
    if importlib.util.find_spec("timm") is not None:
        for name, settings, size in TIMM:
            build = partial(_timm, name, settings)
            found.append(Entry(name, "timm", build, image(size, size, batch=1)))
        for setting, names in TIMM_SMALL.items():
            for name in names:
                build = partial(_timm, name, {setting: SMALL} if setting else {})
                found.append(Entry(name, "timm", build, image(SMALL, SMALL, batch=1)))
        whole = partial(_timm, "efficientformer_l1", {})
        found.append(Entry("efficientformer_l1", "timm", whole, image(224, 224, batch=1)))
        attentive = partial(_timm, "halonet26t", {})
        found.append(Entry("halonet26t", "timm", attentive, image(256, 256, batch=1)))
    return found
