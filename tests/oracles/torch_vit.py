"""Authors' vision transformers with the weights of `small_network.value`, and what they become."""

import functools
import importlib.util
import sys
from pathlib import Path

import numpy as np
import torch
from small_network import value

# Beginnings of the authors' names -> ours; all others are the encoder's.
MAE = {
    "decoder_embed.": "decoder/embed.",
    "decoder_blocks.": "decoder/blocks.",
    "decoder_norm.": "decoder/norm.",
    "decoder_pred.": "decoder/pixels.",
    "mask_token": "decoder/mask_token",
}
PREDICTOR = {"0.": "predictor/fc1.", "1.": "predictor/bn1.", "3.": "predictor/fc2."}
MOCO = {
    f"head.{i}.": f"projector/{ours}."
    for i, ours in ((0, "fc1"), (1, "bn1"), (3, "fc2"), (4, "bn2"), (6, "fc3"))
}


def import_timm():
    """timm, whose torchvision may be of another build of torch."""
    try:
        for file in Path(importlib.util.find_spec("torchvision").origin).parent.glob("_C*.so"):
            torch.ops.load_library(file)
    except OSError:
        import_timm.operators = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            import_timm.operators.define(f"{name}(Tensor dets, Tensor scores, float t) -> Tensor")
    import timm.models.vision_transformer

    return timm.models.vision_transformer


def old_timm():
    """timm as it was for the authors: qk_scale, num_tokens, and layers in another place."""
    vits = import_timm()
    plain = vits.Block
    vits.Block = lambda *args, qk_scale=None, **options: plain(*args, **options)
    vits.VisionTransformer.num_tokens = 1
    layers = sys.modules["timm.layers"]
    sys.modules |= {"timm.models.layers": layers, "timm.models.layers.helpers": layers}
    setattr(np, "float", float)  # noqa: B010, which the authors use
    return vits


def our_name(name, prefixes):
    """A torch parameter's name -> ours."""
    for prefix, ours in prefixes.items():
        if name.startswith(prefix):
            name = ours + name.removeprefix(prefix)
            break
    else:
        name = f"encoder/{name}"
    name = name.replace("patch_embed.proj", "patch_embed").replace("blocks.", "blocks_")
    name = name.replace(".", "/")
    norm = name.split("/")[-2].startswith(("norm", "bn"))
    return name.replace("/weight", "/scale" if norm else "/kernel")


def layout(array, back=False):
    """A torch array in our layout; with `back`, the other way."""
    if array.ndim == 4:
        return array.transpose((3, 2, 0, 1) if back else (2, 3, 1, 0))
    if array.ndim == 3:  # a token
        return array[0]
    return array.T


def trained(model, prefixes):
    """(our name, parameter) of what is trained."""
    for name, parameter in model.named_parameters():
        if not name.endswith("pos_embed"):
            yield our_name(name, prefixes), parameter


def load(model, prefixes):
    """Set the weights both sides start from."""
    for name, parameter in trained(model, prefixes):
        shape = layout(parameter.detach().numpy()).shape
        drawn = value(name, shape)
        drawn = drawn[None] if parameter.ndim == 3 else layout(drawn, back=True)
        parameter.data = torch.from_numpy(drawn.copy())


def read(model, prefixes, of=lambda parameter: parameter.detach()):
    """{our name: array in our layout} of the parameters, or of their gradients."""
    return {name: layout(of(p).numpy()).copy() for name, p in trained(model, prefixes)}


gradients = functools.partial(read, of=lambda parameter: parameter.grad)


def checkout(path):
    """Make an authors' checkout importable."""
    sys.path.insert(0, path)
