"""Faster R-CNN of torchvision with a feature pyramid on a ResNet of ours.

torch and torchvision are imported when they are needed: they come with the extra `detect`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from byol_jax.convert.info import EncoderInfo
from byol_jax.convert.timm import TORCHVISION

LEVELS = 5  # of the pyramid: four stages and a pooled one
CHANNELS = 256  # of each level
NORMS = ("sync", "frozen")
PARTS = (("conv1", "bn1"), ("layer1",), ("layer2",), ("layer3",), ("layer4",))
"""What `Network.freeze` counts, from the image on."""


@dataclasses.dataclass(frozen=True)
class Network:
    """The detector.

    bn: "sync", batch statistics that are trained on, also in the pyramid; or "frozen", those of the
    encoder. freeze: parts of the encoder that are not trained, 0 none to 5 all (stem, stages).
    sides: px of the shorter side, one drawn for each training image, the last one for tests.
    longest: px at most of the longer side. anchor: px of the side of the smallest anchors; each
    level doubles it. rois: boxes per training image that the head learns from. proposals: boxes per
    test image that it judges, twice as many in training.
    """

    bn: str
    freeze: int
    sides: tuple[int, ...]
    longest: int
    anchor: int
    rois: int
    proposals: int


def libraries() -> tuple[Any, Any]:
    """torch and torchvision.

    Raises:
      ImportError: they are not installed, or do not belong together; says what to do.
    """
    try:
        import torch
        import torchvision
    except (ImportError, OSError) as e:
        raise ImportError(
            f"Detection needs torch and torchvision ({_line(e)}): pip install 'byol_jax[detect]'"
        ) from e
    except RuntimeError as e:  # of torchvision, whose operators are compiled for another torch
        raise ImportError(
            f"torchvision does not fit the torch that is installed ({_line(e)}); both have to come "
            "from the same index: pip install --force-reinstall torch torchvision, or both with "
            "--index-url https://download.pytorch.org/whl/cpu"
        ) from e
    return torch, torchvision


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def check_encoder(info: EncoderInfo) -> None:
    """Refuse an encoder that torchvision has no backbone for.

    Raises:
      ValueError: it is no ResNet-18 to 152.
    """
    name = info.encoder["name"]
    if name not in TORCHVISION:
        raise ValueError(
            f"The encoder is {name!r}; detection is there for {', '.join(TORCHVISION)}, of which "
            "torchvision has the same network."
        )


def detector(
    info: EncoderInfo, state: Mapping[str, np.ndarray], classes: int, network: Network
) -> Any:
    """The detector, its backbone with given weights and the rest drawn from torch's seed.

    Args:
      info: of the encoder: its name, mean and std.
      state: arrays under torchvision's names, as `convert.timm.to_state_dict` makes them.
      classes: K, without the background.
      network: the rest.

    Returns:
      A torchvision.models.detection.FasterRCNN on the CPU; its labels are 1 to K.
    """
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    backbone = pyramid(info, state, network)
    sizes = tuple((network.anchor * 2**i,) for i in range(LEVELS))
    return FasterRCNN(
        backbone,
        classes + 1,
        min_size=network.sides,
        max_size=network.longest,
        image_mean=list(info.mean),
        image_std=list(info.std),
        rpn_anchor_generator=AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * LEVELS),
        rpn_pre_nms_top_n_train=2 * network.proposals,
        rpn_pre_nms_top_n_test=network.proposals,
        rpn_post_nms_top_n_train=2 * network.proposals,
        rpn_post_nms_top_n_test=network.proposals,
        box_batch_size_per_image=network.rois,
    )


def pyramid(info: EncoderInfo, state: Mapping[str, np.ndarray], network: Network) -> Any:
    """The ResNet with a feature pyramid: images [B, 3, H, W] -> {level: [B, 256, h, w]}."""
    torch, torchvision = libraries()
    from torchvision.models.detection.backbone_utils import BackboneWithFPN

    norms = {"frozen": torchvision.ops.FrozenBatchNorm2d, "sync": torch.nn.BatchNorm2d}
    body = getattr(torchvision.models, info.encoder["name"])(norm_layer=norms[network.bn])
    body.fc = torch.nn.Identity()
    # Copies: torch would write into the caller's arrays.
    body.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in state.items()})
    width = body.inplanes // 8
    for part in PARTS[: network.freeze]:
        for name in part:
            getattr(body, name).requires_grad_(False)
    return BackboneWithFPN(
        body,
        return_layers={f"layer{i + 1}": str(i) for i in range(4)},
        in_channels_list=[width * 2**i for i in range(4)],
        out_channels=CHANNELS,
        # MoCo's: trained norms wherever layers are new, which keeps their sizes alike.
        norm_layer=torch.nn.BatchNorm2d if network.bn == "sync" else None,
    )


def set_training(model: Any, network: Network) -> None:
    """Put a detector into training mode, but for the norms of what is not trained."""
    model.train()
    for part in PARTS[: network.freeze]:
        for name in part:
            getattr(model.backbone.body, name).eval()
