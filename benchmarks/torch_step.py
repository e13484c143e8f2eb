"""The peer: one BYOL training step in PyTorch, to compare images/s on the same machine.

    python benchmarks/torch_step.py --arch resnet18 --size 32 --batch 64 --compile
    python benchmarks/torch_step.py --arch resnet50 --size 224 --batch 256 --device cuda \\
        --dtype bfloat16 --compile --json torch.json

A BYOL step with the network and heads of configs/byol_cifar10_r18.py: online and target network, a
two-layer projector and predictor (hidden 4096, out 256), two views, each with its own batch-norm
statistics, the loss in both directions, SGD with momentum (or LARS), the moving average of the
target. Each view is a separate pass, as PyTorch users write it; optimizer and moving average use
multi-tensor kernels. Images are noise, drawn once. It needs only PyTorch, not torchvision.

Reference: Grill et al. 2020; He et al. 2016.
"""

# mypy: ignore-errors
# (torch's own annotations do not allow lists of parameters)

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

# depth -> (blocks per stage, expansion)
ARCHS = {"resnet18": ((2, 2, 2, 2), 1), "resnet50": ((3, 4, 6, 3), 4)}
TAU, RATE, MOMENTUM, DECAY, ETA = 0.99, 0.05, 0.9, 1e-5, 1e-3


class Block(nn.Module):
    """A residual block: basic for expansion 1, else a bottleneck with its stride on the 3x3."""

    def __init__(self, inputs: int, features: int, stride: int, expansion: int) -> None:
        super().__init__()
        f, out = features, features * expansion
        layers = ((inputs, f, 3, stride), (f, f, 3, 1))
        if expansion > 1:
            layers = ((inputs, f, 1, 1), (f, f, 3, stride), (f, out, 1, 1))
        parts: list[nn.Module] = []
        for i, o, k, s in layers:
            conv = nn.Conv2d(i, o, k, s, k // 2, bias=False)
            parts += [conv, nn.BatchNorm2d(o), nn.ReLU(inplace=True)]
        self.branch = nn.Sequential(*parts[:-1])
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inputs != out:
            projection = nn.Conv2d(inputs, out, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, features * expansion, H / stride, W / stride]."""
        return torch.relu(self.branch(x) + self.shortcut(x))


def resnet(arch: str, size: int) -> tuple[nn.Sequential, int]:
    """The encoder up to its pooled features, and their number; small images use CIFAR's stem."""
    blocks, expansion = ARCHS[arch]
    if size < 64:
        stem: list[nn.Module] = [nn.Conv2d(3, 64, 3, 1, 1, bias=False)]
    else:
        stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False)]
    stem += [nn.BatchNorm2d(64), nn.ReLU(inplace=True)]
    if size >= 64:
        stem.append(nn.MaxPool2d(3, 2, 1))
    inputs = 64
    for stage, count in enumerate(blocks):
        for i in range(count):
            features = 64 * 2**stage
            stem.append(Block(inputs, features, 2 if stage and not i else 1, expansion))
            inputs = features * expansion
    return nn.Sequential(*stem, nn.AdaptiveAvgPool2d(1), nn.Flatten()), inputs


def head(inputs: int, hidden: int, out: int) -> nn.Sequential:
    """BYOL's head: Linear, BN, ReLU, Linear without bias."""
    last = nn.Linear(hidden, out, bias=False)
    return nn.Sequential(nn.Linear(inputs, hidden), nn.BatchNorm1d(hidden), nn.ReLU(True), last)


class Lars(torch.optim.Optimizer):
    """LARS over weights, plain momentum for biases and norms, as byol_jax.optim.lars."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__(parameters, {})
        self.weights = [p for p in parameters if p.ndim > 1]
        self.others = [p for p in parameters if p.ndim == 1]
        self.buffers = [torch.zeros_like(p) for p in self.weights + self.others]

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """One update."""
        grads = [p.grad for p in self.weights]
        grads = list(torch._foreach_add(grads, self.weights, alpha=DECAY))
        norms = (
            torch.stack(torch._foreach_norm(self.weights)),
            torch.stack(torch._foreach_norm(grads)),
        )
        ratio = torch.where((norms[0] > 0) & (norms[1] > 0), ETA * norms[0] / norms[1], 1.0)
        torch._foreach_mul_(grads, list(ratio.unbind()))
        torch._foreach_mul_(self.buffers, MOMENTUM)
        torch._foreach_add_(self.buffers, grads + [p.grad for p in self.others])
        torch._foreach_add_(self.weights + self.others, self.buffers, alpha=-RATE)


def make_step(a: argparse.Namespace) -> Callable[[], Tensor]:
    """A function that runs one whole step, optimizer and target included, and returns the loss."""
    torch.manual_seed(0)
    device = torch.device(a.device)
    encoder, dim = resnet(a.arch, a.size)
    online = nn.Sequential(encoder, head(dim, a.hidden, a.out))
    predictor = head(a.out, a.hidden, a.out).to(device)
    memory = torch.channels_last if a.channels_last else torch.contiguous_format
    online = online.to(device).to(memory_format=memory)
    target = copy.deepcopy(online).requires_grad_(False)
    parameters = [*online.parameters(), *predictor.parameters()]
    optimizer: torch.optim.Optimizer
    if a.optimizer == "lars":
        optimizer = Lars(parameters)
    else:
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": DECAY},
            {"params": [p for p in parameters if p.ndim == 1]},
        ]
        optimizer = torch.optim.SGD(groups, RATE, MOMENTUM, foreach=True)
    views = torch.randn(2, a.batch, 3, a.size, a.size, device=device)
    first, second = (v.contiguous(memory_format=memory) for v in views)
    moving = list(target.parameters()), list(online.parameters())

    def loss_of(first: Tensor, second: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=a.dtype == "bfloat16"):
            with torch.no_grad():
                z = target(first), target(second)
            q = predictor(online(first)), predictor(online(second))
        total = torch.zeros((), device=device)
        for i in (0, 1):
            total = total - 2 * functional.cosine_similarity(q[i].float(), z[1 - i].float()).mean()
        return total + 4

    if a.compile:
        loss_of = torch.compile(loss_of, mode=a.mode or None)

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(first, second)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(moving[0], moving[1], 1 - TAU)
        return loss.detach()

    return step


def measure(step: Callable[[], Tensor], a: argparse.Namespace) -> dict[str, Any]:
    """Warm up, then time `repeats` repeats of `steps` steps, with the first (compile) separate."""
    cuda = a.device.startswith("cuda")

    def timed(steps: int) -> tuple[float, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(steps):
            step()
        if cuda:
            torch.cuda.synchronize()
        return (time.perf_counter() - wall) / steps, (time.process_time() - cpu) / steps

    first_s = timed(1)[0]
    timed(a.warmup)
    walls, cpus = zip(*(timed(a.steps) for _ in range(a.repeats)), strict=True)
    median = statistics.median(walls)
    return {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "threads": torch.get_num_threads(),
        **{k: v for k, v in vars(a).items() if k != "json"},
        "first_step_s": first_s,
        "step_ms": median * 1e3,
        "step_ms_min": min(walls) * 1e3,
        "step_ms_max": max(walls) * 1e3,
        "cpu_ms": statistics.median(cpus) * 1e3,
        "images_per_s": a.batch / median,
        "loss": float(step()),
    }


def main() -> None:
    """Measure and print; see the module's docstring."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--arch", choices=sorted(ARCHS), default="resnet18")
    p.add_argument("--size", type=int, default=32, help="px")
    p.add_argument("--batch", type=int, default=64, help="images per step, two views of each")
    p.add_argument("--hidden", type=int, default=4096)
    p.add_argument("--out", type=int, default=256)
    p.add_argument("--optimizer", choices=("sgd", "lars"), default="sgd")
    p.add_argument("--device", default="cpu")
    p.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    p.add_argument("--compile", action="store_true")
    p.add_argument("--mode", default="", help="mode of torch.compile, e.g. max-autotune")
    p.add_argument("--channels-last", action=argparse.BooleanOptionalAction, default=True)
    p.add_argument("--threads", type=int, default=0, help="CPU threads; 0: torch's choice")
    p.add_argument("--warmup", type=int, default=2, help="steps")
    p.add_argument("--steps", type=int, default=1, help="steps per repeat")
    p.add_argument("--repeats", type=int, default=5)
    p.add_argument("--json", default="", help="file for the result")
    a = p.parse_args()
    if a.threads:
        torch.set_num_threads(a.threads)
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    result = measure(make_step(a), a)
    for key, value in result.items():
        print(f"{key:16s} {value:.2f}" if isinstance(value, float) else f"{key:16s} {value}")
    if a.json:
        Path(a.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
