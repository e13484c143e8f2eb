"""Three steps of MoCo v3 for ResNets by the authors' code, with their LARS, in float64.

    python tests/oracles/mocov3.py CHECKOUT    of facebookresearch/moco-v3 at c349e6e

Prints literals for tests/test_moco.py.
"""

import pprint
import sys

from small_network import checksum
from small_torch import Small, load, module_from, parts, read, single_process, views

HIDDEN, OUT = 12, 6
RATES, DECAYS = (0.3, 0.2, 0.1), (0.9, 0.93, 0.97)


def main(checkout):
    single_process()
    builder = module_from(f"{checkout}/moco/builder.py", "builder")
    lars = module_from(f"{checkout}/moco/optimizer.py", "optimizer").LARS
    model = builder.MoCo_ResNet(Small, OUT, HIDDEN, 0.5)
    base, target = model.base_encoder, model.momentum_encoder
    named = parts(base, projector=base.fc, predictor=model.predictor)
    load(named)
    target.load_state_dict(base.state_dict())
    optimizer = lars(model.parameters(), 0.0, weight_decay=1e-2, momentum=0.9)
    steps = []
    for step, (rate, decay) in enumerate(zip(RATES, DECAYS, strict=True)):
        optimizer.param_groups[0]["lr"] = rate
        loss = model(*views(step), decay)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found = read(parts(target, projector=target.fc)), read(named)
        steps.append((loss.item(), *map(checksum, found)))
    pprint.pprint(steps)


if __name__ == "__main__":
    main(sys.argv[1])
