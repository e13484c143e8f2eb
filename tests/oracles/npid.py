"""Three steps of instance discrimination by the authors' code, in float64.

    python tests/oracles/npid.py CHECKOUT      of zhirongw/lemniscate.pytorch at f7cfe29

NCE with K negatives and the full softmax. The negatives are given, not drawn; an image appears in
two of the three batches. Prints literals for tests/test_npid.py.
"""

import importlib.util
import pathlib
import pprint
import sys
import types

import numpy as np
import torch
from small_network import ROWS, checksum, images, value
from small_torch import Small, load, parts, read, single_process

EXAMPLES, OUT, NEGATIVES, RATES = 24, 6, 5, (0.3, 0.2, 0.1)


def index(step):
    """Which examples a batch has."""
    return (np.arange(ROWS) * 3 + 5 * step) % EXAMPLES


def drawn(step):
    """The negatives of each row [B, K]."""
    return np.random.RandomState(3000 + step).randint(0, EXAMPLES, (ROWS, NEGATIVES))


def authors(checkout, name):
    """A module of their package `lib`, without the ones beside it."""
    package = types.ModuleType("lib")
    package.__path__ = [str(pathlib.Path(checkout, "lib"))]
    sys.modules["lib"] = package
    return importlib.import_module(f"lib.{name}")


def of_old(module):
    """Let their autograd function run in torch of today.

    It saves tensors that it then changes in place, and reshapes a gradient through its `data`.
    """
    forward, backward = module.forward, module.backward

    def run(ctx, grad):
        given = types.SimpleNamespace(saved_tensors=ctx.kept)
        return backward(given, types.SimpleNamespace(data=grad.clone(), size=grad.size))

    def keep(ctx, *args):
        given = types.SimpleNamespace(
            save_for_backward=lambda *tensors: setattr(ctx, "kept", tensors)
        )
        return forward(given, *args)

    module.forward, module.backward = staticmethod(keep), staticmethod(run)


def run(checkout, negatives):
    network, normalize = Small(OUT), authors(checkout, "normalize").Normalize(2)
    named = parts(network, projector=[network.fc])
    load(named)
    if negatives:
        module = authors(checkout, "NCEAverage")
        of_old(module.NCEFunction)
        memory = module.NCEAverage(OUT, EXAMPLES, negatives, T=0.2)
        criterion = authors(checkout, "NCECriterion").NCECriterion(EXAMPLES)
    else:
        module = authors(checkout, "LinearAverage")
        of_old(module.LinearAverageOp)
        memory = module.LinearAverage(OUT, EXAMPLES, T=0.2)
        criterion = torch.nn.CrossEntropyLoss()
    memory.memory = torch.from_numpy(value("queue", (EXAMPLES, OUT)))
    optimizer = torch.optim.SGD(network.parameters(), 0.0, momentum=0.9, weight_decay=1e-2)
    steps = []
    for step, rate in enumerate(RATES):
        optimizer.param_groups[0]["lr"] = rate
        rows = torch.from_numpy(index(step))
        if negatives:
            full = np.concatenate([index(step)[:, None], drawn(step)], 1)
            memory.multinomial.draw = lambda _, full=full: torch.from_numpy(full).reshape(-1)
        view = torch.from_numpy(images(step)[:, 0].transpose(0, 3, 1, 2).copy())
        loss = criterion(memory(normalize(network(view)), rows), rows)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        z = memory.params[2].item() if negatives else 0.0
        bank = {"bank": memory.memory.numpy()}
        steps.append((loss.item(), z, checksum(bank), checksum(read(named))))
    return steps


def main(checkout):
    single_process()
    pprint.pprint({negatives: run(checkout, negatives) for negatives in (NEGATIVES, 0)})


if __name__ == "__main__":
    main(sys.argv[1])
