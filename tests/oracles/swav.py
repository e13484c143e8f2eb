"""Four steps of SwAV by the authors' code, in float64: with and without a queue.

    python tests/oracles/swav.py CHECKOUT APEX    of facebookresearch/swav at 06b1b7c, and a folder
                                                  with apex/parallel/LARC.py of NVIDIA/apex

Their `train`, `distributed_sinkhorn`, multi-crop and head, and Apex's LARC; the encoder is small.
Two large crops and three small ones. The prototypes are frozen in the first step; the queue holds
two batches, so that it is full in the third. Prints literals for tests/test_swav.py.
"""

import pprint
import sys
import types

import numpy as np
import torch
from small_crops import local
from small_network import FEATURES, checksum, value
from small_torch import Small, load, module_from, parts, read, single_process, stand_in, views
from torch import nn

HIDDEN, OUT, PROTOTYPES, QUEUE, RATES = 12, 8, 6, 16, (0.8, 0.6, 0.4, 0.2)


def model_of(resnet):
    class Crops(resnet.ResNet):
        """The authors' multi-crop and head around a small encoder."""

        def __init__(self):
            nn.Module.__init__(self)
            self.small = Small()
            self.small.fc = nn.Identity()
            layers = nn.Linear(FEATURES, HIDDEN), nn.BatchNorm1d(HIDDEN), nn.ReLU()
            self.projection_head = nn.Sequential(*layers, nn.Linear(HIDDEN, OUT))
            self.prototypes = nn.Linear(OUT, PROTOTYPES, bias=False)
            self.l2norm = True

        def forward_backbone(self, x):
            return self.small(x)

    class Wrapped(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, inputs):
            return self.module(inputs)

    return Wrapped(Crops())


def run(main_swav, larc, resnet, queue):
    model = model_of(resnet)
    named = parts(model.module.small, projector=model.module.projection_head)
    load(named)
    kernel = value("prototypes/kernel", (OUT, PROTOTYPES))
    model.module.prototypes.weight.data = torch.from_numpy(kernel.T.copy())
    sgd = torch.optim.SGD(model.parameters(), 0.0, momentum=0.9, weight_decay=1e-2)
    optimizer = larc.LARC(sgd, trust_coefficient=0.05, clip=False)
    codes, sinkhorn = [], main_swav.distributed_sinkhorn

    def recorded(out):
        codes.append(sinkhorn(out))
        return codes[-1]

    main_swav.distributed_sinkhorn = recorded
    steps = []
    for step in range(len(RATES)):
        codes.clear()
        small = torch.from_numpy(local(step).transpose(1, 0, 4, 2, 3).copy())
        loader = [[*views(step), *small]]
        (_, loss), queue = main_swav.train(loader, model, optimizer, step, RATES, queue)
        trained = read(named)
        trained["prototypes/kernel"] = model.module.prototypes.weight.detach().numpy().T
        kept = {} if queue is None else {"queue": queue.numpy()}
        rows = np.stack([q[-len(loader[0][0]) :].numpy() for q in codes])
        steps.append((loss, checksum({"codes": rows}), checksum(trained), checksum(kept)))
    main_swav.distributed_sinkhorn = sinkhorn
    return steps


def main(checkout, apex):
    single_process()
    torch.Tensor.cuda = lambda self, *_, **__: self
    sys.path.insert(0, checkout)
    stand_in("torchvision")
    stand_in("torchvision.transforms")
    stand_in("torchvision.datasets", ImageFolder=object)
    sys.modules["torchvision"].datasets = sys.modules["torchvision.datasets"]
    sys.modules["torchvision"].transforms = sys.modules["torchvision.transforms"]
    stand_in("pandas")
    stand_in("apex")
    stand_in("apex.parallel")
    larc = module_from(f"{apex}/apex/parallel/LARC.py", "apex.parallel.LARC")
    main_swav = module_from(f"{checkout}/main_swav.py", "main_swav")
    del sys.modules["pandas"], sys.modules["torchvision"]  # torch looks for them
    main_swav.args = types.SimpleNamespace(
        crops_for_assign=[0, 1], nmb_crops=[2, 3], temperature=0.1, epsilon=0.05, use_fp16=False,
        sinkhorn_iterations=3, world_size=1, rank=1, freeze_prototypes_niters=1,
    )  # fmt: skip
    resnet = sys.modules["src.resnet50"]
    found = {0: run(main_swav, larc, resnet, None)}
    found[QUEUE] = run(main_swav, larc, resnet, torch.zeros(2, QUEUE, OUT))
    pprint.pprint(found)


if __name__ == "__main__":
    main(*sys.argv[1:])
