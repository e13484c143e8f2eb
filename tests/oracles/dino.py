"""Three epochs of one step of DINO by the authors' code, in float64.

    python tests/oracles/dino.py CHECKOUT      of facebookresearch/dino at 7c446df

Their `train_one_epoch`, `DINOLoss`, `DINOHead`, `MultiCropWrapper` and `get_params_groups`; the
encoder is small. Two large crops and three small ones. The last layer is frozen in epoch 0, the
teacher's temperature rises over the three, every tensor's gradient is clipped. Prints literals for
tests/test_dino.py.
"""

import pprint
import sys
import types

import torch
from small_crops import LOCAL, local
from small_network import FEATURES, checksum, value
from small_torch import Small, load, module_from, parts, read, single_process, stand_in, views
from torch import nn

HIDDEN, OUT, OUTPUTS = 12, 8, 6
RATES, DECAYS, TAUS = (0.03, 0.02, 0.01), (0.04, 0.2, 0.4), (0.9, 0.95, 0.99)


class Wrapped(nn.Module):
    """What the authors' code takes for a network on several devices."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, images):
        return self.module(images)


def network(utils, vits):
    options = {"hidden_dim": HIDDEN, "bottleneck_dim": OUT}
    net = utils.MultiCropWrapper(Small(), vits.DINOHead(FEATURES, OUTPUTS, **options))
    named = parts(net.backbone, projector=net.head.mlp)
    load(named)
    kernel = value("last_layer/kernel", (OUT, OUTPUTS))
    net.head.last_layer.weight_v.data = torch.from_numpy(kernel.T.copy())
    return net, named


def weights(net, named):
    kernel = net.head.last_layer.weight_v.detach().numpy().T.copy()
    return {**read(named), "last_layer/kernel": kernel}


def run(main_dino, utils, vits):
    (student, named), (teacher, teacher_named) = (network(utils, vits) for _ in range(2))
    wrapped = Wrapped(student)
    loss = main_dino.DINOLoss(OUTPUTS, 2 + LOCAL, 0.04, 0.07, 3, 3).double()
    optimizer = torch.optim.AdamW(utils.get_params_groups(wrapped))
    args = types.SimpleNamespace(epochs=3, clip_grad=0.05, freeze_last_layer=1)
    steps = []
    for epoch in range(3):
        small = torch.from_numpy(local(epoch).transpose(1, 0, 4, 2, 3).copy())
        found = main_dino.train_one_epoch(
            wrapped, teacher, teacher, loss, [([*views(epoch), *small], None)], optimizer, RATES,
            DECAYS, TAUS, epoch, None, args,
        )  # fmt: skip
        trained, kept = weights(student, named), weights(teacher, teacher_named)
        centre = {"centre": loss.center[0].numpy()}
        steps.append((found["loss"], *map(checksum, (centre, trained, kept))))
    return steps


def main(checkout):
    single_process()
    torch.Tensor.cuda = lambda self, *_, **__: self
    sys.path.insert(0, checkout)
    stand_in("torchvision")
    for name in ("datasets", "transforms", "models"):
        stand_in(f"torchvision.{name}")
        setattr(sys.modules["torchvision"], name, sys.modules[f"torchvision.{name}"])
    torch.cuda.synchronize = lambda: None
    main_dino = module_from(f"{checkout}/main_dino.py", "main_dino")
    del sys.modules["torchvision"]  # torch looks for it
    utils = sys.modules["utils"]
    utils.SmoothedValue.synchronize_between_processes = lambda self: None
    pprint.pprint(run(main_dino, utils, sys.modules["vision_transformer"]))


if __name__ == "__main__":
    main(sys.argv[1])
