"""Three steps of MoCo v3 for vision transformers by the authors' code, in float64.

    python tests/oracles/mocov3_vit.py CHECKOUT      of facebookresearch/moco-v3 at c349e6e

Their `MoCo_ViT` and `VisionTransformerMoCo` with a frozen patch projection, and AdamW with decay on
all, as their main_moco.py has it. Prints literals for tests/test_vit.py.
"""

import functools
import pprint
import sys

import torch
from small_network import checksum
from small_torch import module_from, single_process, views
from small_vit import DEPTH, DIM, HEADS, PATCH, SIDE
from torch_vit import MOCO, PREDICTOR, load, old_timm, read

HIDDEN, OUT = 12, 6
RATES, DECAYS = (0.003, 0.002, 0.001), (0.9, 0.93, 0.97)


def main(path):
    single_process()
    old_timm()
    vits = module_from(f"{path}/vits.py", "vits")
    builder = module_from(f"{path}/moco/builder.py", "builder")
    network = functools.partial(
        vits.VisionTransformerMoCo,
        stop_grad_conv1=True,
        img_size=SIDE,
        patch_size=PATCH,
        embed_dim=DIM,
        depth=DEPTH,
        num_heads=HEADS,
        norm_layer=functools.partial(torch.nn.LayerNorm, eps=1e-6),
    )
    torch.float32, single = torch.float64, torch.float32  # of the positions
    model = builder.MoCo_ViT(network, OUT, HIDDEN, 0.2)
    torch.float32 = single
    base, target = model.base_encoder, model.momentum_encoder
    # Theirs has the row first: the same table with its halves exchanged.
    table = base.pos_embed.data
    base.pos_embed.data = torch.cat([table[..., DIM // 2 :], table[..., : DIM // 2]], -1)
    load(base, MOCO)
    load(model.predictor, PREDICTOR)
    target.load_state_dict(base.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), 0.0, weight_decay=0.1)
    steps = []
    for step, (rate, decay) in enumerate(zip(RATES, DECAYS, strict=True)):
        optimizer.param_groups[0]["lr"] = rate
        loss = model(*views(step), decay)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        online = read(base, MOCO) | read(model.predictor, PREDICTOR)
        steps.append((loss.item(), checksum(read(target, MOCO)), checksum(online)))
    pprint.pprint(steps)


if __name__ == "__main__":
    main(sys.argv[1])
