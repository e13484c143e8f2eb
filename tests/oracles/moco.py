"""Three steps of MoCo v1 and v2 by the authors' code, in float64.

    python tests/oracles/moco.py CHECKOUT      of facebookresearch/moco at 132aea9 (its last commit
                                               with files is the one before an empty tree)

One process: the keys' rows are put in a given order, and statistics are of groups of contiguous
rows, as if each group were on a device of its own. Prints literals for tests/test_moco.py.
"""

import functools
import pprint
import sys

import torch
from small_network import ROWS, checksum, permutation, value
from small_torch import (
    Small,
    load,
    module_from,
    newest_first,
    parts,
    read,
    ring,
    single_process,
    views,
)

OUT, QUEUE, RATES = 6, 16, (0.3, 0.2, 0.1)


def run(builder, layers, groups):
    base = functools.partial(Small, groups=groups)
    model = builder.MoCo(base, OUT, QUEUE, 0.9, 0.2, mlp=layers == 2)

    def named(network):
        return parts(network, projector=network.fc if layers == 2 else [network.fc])

    load(named(model.encoder_q))
    model.encoder_k.load_state_dict(model.encoder_q.state_dict())
    model.queue = torch.from_numpy(ring(value("queue", (QUEUE, OUT)), ROWS).T.copy())
    optimizer = torch.optim.SGD(model.parameters(), 0.0, momentum=0.9, weight_decay=1e-2)
    steps = []
    for step, rate in enumerate(RATES):
        optimizer.param_groups[0]["lr"] = rate
        logits, labels = model(*views(step))
        loss = torch.nn.CrossEntropyLoss()(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        queue = newest_first(model.queue.T, int(model.queue_ptr), ROWS)
        found = (read(named(model.encoder_k)), read(named(model.encoder_q)), {"queue": queue})
        steps.append((loss.item(), *map(checksum, found)))
    return steps


def main(checkout):
    single_process()
    torch.randperm = lambda n: torch.from_numpy(permutation())
    builder = module_from(f"{checkout}/moco/builder.py", "builder")
    pprint.pprint({(layers, groups): run(builder, layers, groups) for layers, groups in KINDS})


KINDS = ((1, 1), (2, 2))  # v1 with global statistics, v2 with two groups

if __name__ == "__main__":
    main(sys.argv[1])
