"""Model cards of exports for timm and torchvision, and for detectron2: what the encoder is, and how
to use it.
"""

from __future__ import annotations

from byol_jax.convert.info import EncoderInfo


def model_card(info: EncoderInfo, dim: int, in_torchvision: bool) -> str:
    """The text of README.md: what the encoder is, what its images are, and how to load it.

    Args:
      info: the encoder's description.
      dim: number of features D.
      in_torchvision: whether torchvision has the network too.
    """
    name = info.encoder["name"]
    sides = {"size": info.image_size, "resize": info.shorter_side}
    if in_torchvision:
        statistics = {"mean": list(info.mean), "std": list(info.std)}
        torchvision = _TORCHVISION.format(name=name, **sides, **statistics)
    else:
        torchvision = f"torchvision has no {name}; load it with timm.\n"
    return _CARD.format(
        name=name,
        dim=dim,
        facts=_facts(info),
        torchvision=torchvision,
        evaluated=_SAME if info.antialias else _OTHER,
        **sides,
    )


def detectron2_card(info: EncoderInfo, dim: int) -> str:
    """The text of README.md of an export for detectron2.

    Args:
      info: the encoder's description.
      dim: number of features D.
    """
    return _DETECTRON2.format(name=info.encoder["name"], dim=dim, facts=_facts(info))


def _facts(info: EncoderInfo) -> str:
    """How the encoder was trained, and on what, as a table."""
    mean, std = (", ".join(f"{v:g}" for v in values) for values in (info.mean, info.std))
    return _FACTS.format(
        method=info.method or "not recorded",
        source=info.source or "not recorded",
        step=info.step,
        size=info.image_size,
        mean=mean,
        std=std,
    )


_SAME = "byol_jax evaluates the encoder on the same pixels."
_OTHER = (
    "byol_jax evaluated this run on images that were resized without antialiasing, so that its "
    "accuracies are of slightly other features; the difference grows as images shrink."
)

_FACTS = """| | |
| --- | --- |
| method | {method} |
| data | {source} |
| optimizer steps | {step} |
| image size | {size} px |
| mean | {mean} |
| std | {std} |
"""

_CARD = """---
library_name: timm
license: apache-2.0
tags:
- image-feature-extraction
- self-supervised
- timm
- byol_jax
---
# {name}, pre-trained without labels

An image encoder ({name}, {dim} features, no classifier) trained with byol_jax. Inference in float32
gives the features of the JAX encoder up to rounding.

{facts}
Images are RGB. The shorter side is resized to {resize} px (bicubic, antialiased, as Pillow does),
the central {size} x {size} px are cut out, and pixels in 0..1 are normalised as
(image - mean) / std with the values above; they are this run's own, not always ImageNet's.
{evaluated} `PATH` is this folder.

## timm

```python
import timm

model = timm.create_model("local-dir:PATH", pretrained=True).eval()
config = timm.data.resolve_model_data_config(model)
transform = timm.data.create_transform(**config, is_training=False)
# features = model(transform(image)[None])  # image: Pillow, RGB
```

## torchvision

{torchvision}
## byol_jax

```python
import byol_jax

encoder = byol_jax.load_encoder("PATH")
# features = encoder(encoder.prepare(image)[None])  # one Pillow image
# features = encoder(images)  # prepared: [B, H, W, 3], uint8 or floats in 0..1
```
"""

_TORCHVISION = """```python
import torch
from safetensors.torch import load_file
from torchvision import transforms
from torchvision.models import {name}

model = {name}()
model.fc = torch.nn.Identity()
model.load_state_dict(load_file("PATH/model.safetensors"))
model.eval()
transform = transforms.Compose([
    transforms.Resize({resize}, transforms.InterpolationMode.BICUBIC),
    transforms.CenterCrop({size}),
    transforms.ToTensor(),
    transforms.Normalize({mean}, {std}),
])
# features = model(transform(image)[None])  # image: Pillow, RGB
```
"""

_DETECTRON2 = """---
license: apache-2.0
tags:
- object-detection
- self-supervised
- detectron2
- byol_jax
---
# {name} for detectron2, pre-trained without labels

The weights of an image encoder ({name}, {dim} features, no classifier) trained with byol_jax, under
the names that detectron2 gives its ResNet backbone.

{facts}
`model.pkl` is a pickle (`model`, `__author__`, `matching_heuristics`), as detectron2's own weights
are. Its networks need the settings of `detectron2.yaml`: the images are RGB, normalised with this
run's mean and std (times 255), and the stride of a block is in its 3x3 convolution:

```python
from detectron2.config import get_cfg

cfg = get_cfg()
cfg.merge_from_file("CONFIG.yaml")  # e.g. Faster R-CNN with a {name} backbone
cfg.merge_from_file("PATH/detectron2.yaml")  # PATH: this folder
cfg.MODEL.WEIGHTS = "PATH/model.pkl"
```

The statistics of the batch norms are the encoder's own. detectron2 keeps them fixed by default
(`MODEL.RESNETS.NORM: FrozenBN`); the tables of MoCo tune them (`SyncBN`, `BACKBONE.FREEZE_AT: 0`,
and one more norm after res5).
"""
