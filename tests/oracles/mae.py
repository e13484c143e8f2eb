"""The loss of MAE, its masks, reconstruction and gradients by the authors' code, in float64.

    python tests/oracles/mae.py CHECKOUT      of facebookresearch/mae at efb2a80

Their `MaskedAutoencoderViT` with timm's blocks. Prints literals for tests/test_mae.py.
"""

import functools
import pprint
import sys

import numpy as np
import torch
from small_network import checksum, images
from small_vit import DECODER, DEPTH, DIM, HEADS, PATCH, SIDE, noise
from torch_vit import MAE, checkout, gradients, load, old_timm


def run(models_mae, pos_embed, normalised, ratio):
    model = models_mae.MaskedAutoencoderViT(
        img_size=SIDE,
        patch_size=PATCH,
        embed_dim=DIM,
        depth=DEPTH,
        num_heads=HEADS,
        decoder_embed_dim=DECODER["dim"],
        decoder_depth=DECODER["depth"],
        decoder_num_heads=DECODER["heads"],
        norm_layer=functools.partial(torch.nn.LayerNorm, eps=1e-6),
        norm_pix_loss=normalised,
    )
    load(model, MAE)
    for table in (model.pos_embed, model.decoder_pos_embed):  # theirs are rounded to float32
        exact = pos_embed.get_2d_sincos_pos_embed(table.shape[-1], SIDE // PATCH, cls_token=True)
        table.data = torch.from_numpy(exact)[None]
    torch.rand = lambda *_, **__: torch.from_numpy(noise())
    x = torch.from_numpy(images(0)[:, 0].transpose(0, 3, 1, 2).copy())
    loss, predicted, mask = model(x, ratio)
    loss.backward()
    assert torch.equal(model.unpatchify(model.patchify(x)), x)
    rows = ["".join("01"[int(m)] for m in row) for row in mask.numpy()]
    found = {"patches": model.patchify(x).numpy()}
    return {
        "loss": loss.item(),
        "mask": rows,
        "predicted": checksum({"": predicted.detach().numpy()}),
        "gradients": checksum(gradients(model, MAE)),
        "patches": checksum(found),
    }


def main(path):
    torch.set_default_dtype(torch.float64)
    old_timm()
    checkout(path)
    import models_mae
    from util import pos_embed

    np.set_printoptions(precision=17)
    for normalised, ratio in ((True, 0.75), (False, 0.5)):
        pprint.pprint(((normalised, ratio), run(models_mae, pos_embed, normalised, ratio)))


if __name__ == "__main__":
    main(sys.argv[1])
