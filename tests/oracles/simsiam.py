"""Three steps of SimSiam by the authors' code, in float64, its predictor at a constant rate.

    python tests/oracles/simsiam.py CHECKOUT   of facebookresearch/simsiam at a7bc177

The loss, the groups of parameters and the rate are those of main_simsiam.py. Prints literals for
tests/test_simsiam.py.
"""

import pprint
import sys

import torch
from small_network import checksum
from small_torch import Small, load, module_from, parts, read, single_process, views

OUT, BOTTLENECK = 6, 5
RATES = (0.3, 0.2, 0.1)


def main(checkout):
    single_process()
    builder = module_from(f"{checkout}/simsiam/builder.py", "builder")
    model = builder.SimSiam(Small, OUT, BOTTLENECK)
    named = parts(model.encoder, projector=model.encoder.fc, predictor=model.predictor)
    without = ("projector/fc3/bias",)  # kept at its start by the authors; a norm takes it off
    load(named, without)
    groups = [{"params": m.parameters()} for m in (model.encoder, model.predictor)]
    optimizer = torch.optim.SGD(groups, RATES[0], momentum=0.9, weight_decay=1e-2)
    cosine = torch.nn.CosineSimilarity(dim=1)
    steps = []
    for step, rate in enumerate(RATES):
        optimizer.param_groups[0]["lr"] = rate
        p1, p2, z1, z2 = model(*views(step))
        loss = -(cosine(p1, z2).mean() + cosine(p2, z1).mean()) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        steps.append((loss.item(), checksum(read(named, without))))
    pprint.pprint(steps)


if __name__ == "__main__":
    main(sys.argv[1])
