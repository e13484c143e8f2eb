"""Three steps of NNCLR by solo-learn's code, with its LARS, in float64.

    python tests/oracles/nnclr.py CHECKOUT     of vturrisi/solo-learn at 9187ea3

Its base class, which needs Lightning, is replaced by one that makes the passes. Prints literals for
tests/test_nnclr.py.
"""

import pprint
import sys
import types

import torch
from small_network import FEATURES, ROWS, checksum, value
from small_torch import (
    Small,
    load,
    module_from,
    newest_first,
    parts,
    read,
    ring,
    single_process,
    stand_in,
    views,
)

HIDDEN, OUT, QUEUE, RATES = 12, 6, 16, (0.3, 0.2, 0.1)


class Base(torch.nn.Module):
    """The passes of solo-learn's BaseMethod, without its classifier."""

    def __init__(self, cfg):
        super().__init__()
        self.features_dim, self.backbone = FEATURES, Small()
        self.backbone.fc = torch.nn.Identity()

    def forward(self, x):
        return {"feats": self.backbone(x)}

    def training_step(self, batch, index):
        outs = [self(x) for x in batch[1]]
        return {"loss": 0.0, **{k: [out[k] for out in outs] for k in ("z", "p")}}

    def log_dict(self, *_, **__):
        pass


def main(checkout):
    single_process()
    stand_in("omegaconf", DictConfig=dict)
    stand_in("solo.methods.base", BaseMethod=Base)
    one = {"gather": lambda x: x, "get_rank": lambda: 0, "omegaconf_select": None}
    stand_in("solo.utils.misc", **one)
    for package in ("solo", "solo.losses", "solo.methods", "solo.utils"):
        stand_in(package)
    module_from(f"{checkout}/solo/losses/nnclr.py", "solo.losses.nnclr")
    nnclr = module_from(f"{checkout}/solo/methods/nnclr.py", "nnclr").NNCLR
    sys.modules["torch.optim.optimizer"].required = None  # gone from PyTorch; it needs the name
    lars = module_from(f"{checkout}/solo/utils/lars.py", "lars").LARS

    options = {"temperature": 0.2, "queue_size": QUEUE, "proj_hidden_dim": HIDDEN}
    options |= {"proj_output_dim": OUT, "pred_hidden_dim": HIDDEN}
    model = nnclr(types.SimpleNamespace(method_kwargs=types.SimpleNamespace(**options)))
    named = parts(model.backbone, projector=model.projector, predictor=model.predictor)
    # A norm takes these off: they have no gradient, and ours lacks them.
    without = tuple(f"projector/fc{i}/bias" for i in (1, 2, 3))
    without += ("predictor/fc1/bias", "projector/bn3/bias")
    load(named, without)
    model.queue = torch.from_numpy(ring(value("queue", (QUEUE, OUT)), ROWS).copy())
    own = {"momentum": 0.9, "weight_decay": 1e-2, "eta": 0.02, "clip_lr": True}
    optimizer = lars(model.parameters(), RATES[0], exclude_bias_n_norm=True, **own)
    steps = []
    for step, rate in enumerate(RATES):
        optimizer.param_groups[0]["lr"] = rate
        loss = model.training_step([None, views(step), torch.zeros(ROWS)], step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        queue = newest_first(model.queue.detach(), int(model.queue_ptr), ROWS)
        steps.append((loss.item(), checksum(read(named, without)), checksum({"queue": queue})))
    pprint.pprint(steps)


if __name__ == "__main__":
    main(sys.argv[1])
