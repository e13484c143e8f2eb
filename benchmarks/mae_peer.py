"""MAE's step beside the authors' model in PyTorch, and what the encoder costs by its visible share.

    python benchmarks/mae_peer.py CHECKOUT [--config configs/mae_imagenet_vitb.py] [--batch 64] \\
        [--threads 2] [--compile] [--json FILE]

CHECKOUT is of facebookresearch/mae (at efb2a80), which needs timm: `MaskedAutoencoderViT` of the
config's sizes, with torch's fused AdamW, in the dtype of the config. Both get images in memory and
draw their masks; views are left out. Whatever is compared is timed in turns, so that other work on
the machine slows all of it. The encoder alone: forward and backward, of 1/4 of the patches and of
all.

Reference: He et al. 2022.
"""

# mypy: ignore-errors

from __future__ import annotations

import argparse
import functools
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
from absl import flags
from ml_collections import config_flags

from byol_jax import mesh
from byol_jax.bench.noise import noise
from byol_jax.bench.step import Runner
from byol_jax.config import resolve
from byol_jax.experiment.build import build
from byol_jax.models.vit import make_vit

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "oracles"))


def their_model(source: str, c) -> torch.nn.Module:
    """The authors' model of the sizes of a config."""
    from torch_vit import checkout, old_timm

    old_timm()
    checkout(source)
    import models_mae

    return models_mae.MaskedAutoencoderViT(
        img_size=c.image_size,
        patch_size=c.vit.patch,
        embed_dim=c.vit.dim,
        depth=c.vit.depth,
        num_heads=c.vit.heads,
        decoder_embed_dim=c.mae.dim,
        decoder_depth=c.mae.depth,
        decoder_num_heads=c.mae.heads,
        norm_layer=functools.partial(torch.nn.LayerNorm, eps=1e-6),
        norm_pix_loss=c.mae.normalised,
    )


def their_steps(model: torch.nn.Module, c, device: str, compiled: bool) -> dict[str, Callable]:
    """{name: a function that does it once and waits}."""
    model = model.to(device)
    images = torch.randn(c.batch_size, 3, c.image_size, c.image_size, device=device)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, (0.9, 0.95), fused=True)
    half = torch.autocast(device, torch.bfloat16, enabled=c.encoder.dtype == "bfloat16")
    loss_of = torch.compile(model) if compiled else model

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with half:
            loss, *_ = loss_of(images, c.mae.mask)
        loss.backward()
        optimizer.step()
        wait()

    def encoder(mask: float) -> None:
        optimizer.zero_grad(set_to_none=True)
        with half:
            tokens, *_ = model.forward_encoder(images, mask)
            loss = tokens.float().square().mean()
        loss.backward()
        wait()

    return {
        "step, PyTorch": step,
        "encoder of 1/4, PyTorch": functools.partial(encoder, 0.75),
        "encoder of all, PyTorch": functools.partial(encoder, 0.0),
    }


def our_steps(c) -> dict[str, Callable]:
    """{name: a function that does it once and waits}."""
    runner = Runner(build(c, noise(max(4 * c.batch_size, 2048), c.image_size)))
    vit = make_vit(c.encoder.name, image_size=c.image_size, dtype=c.encoder.dtype, **c.vit)
    shape = (c.batch_size, c.image_size, c.image_size, 3)
    images = jax.random.normal(jax.random.key(0), shape)
    params, _ = vit.encoder.init(jax.random.key(1), images[:, None])
    patches = (c.image_size // c.vit.patch) ** 2
    order = np.argsort(np.random.default_rng(0).random((c.batch_size, patches)), axis=1)
    keep = jnp.asarray(order[:, : patches // 4], jnp.int32)

    def loss_of(params, images, keep):
        return jnp.square(vit.tokens(params, images, keep, None, True)[0]).mean()

    options = mesh.compiler_options(jax.default_backend())
    gradient = jax.jit(jax.grad(loss_of), compiler_options=options)

    def encoder(keep) -> None:
        jax.block_until_ready(gradient(params, images, keep))

    return {
        "step, ours": runner,
        "encoder of 1/4, ours": functools.partial(encoder, keep),
        "encoder of all, ours": functools.partial(encoder, None),
    }


def main() -> None:
    """Measure and print; see the module's docstring."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("source", metavar="CHECKOUT")
    p.add_argument("--config", default="configs/mae_cifar10_cpu.py")
    p.add_argument("--batch", type=int, default=0, help="0: the config's")
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--device", default="cpu", help="of PyTorch")
    p.add_argument("--threads", type=int, default=0, help="of PyTorch; 0: its choice")
    p.add_argument("--compile", action="store_true", help="torch.compile")
    p.add_argument("--json", default="", help="file for the result")
    a = p.parse_args()
    if a.threads:
        torch.set_num_threads(a.threads)
    flag = config_flags.DEFINE_config_file("config", sys_argv=["", f"--config={a.config}"])
    flags.FLAGS(["", f"--config={a.config}"])
    c = flag.value
    c.batch_size = a.batch or c.batch_size
    c.data.placement = "stream"
    c.views.placement = "host"
    c.method.probe = False
    c = resolve(c)
    torch.manual_seed(0)
    found = our_steps(c) | their_steps(their_model(a.source, c), c, a.device, a.compile)
    times = {name: [] for name in found}
    for i in range(a.rounds + 1):
        for name, run in found.items():
            start = time.perf_counter()
            run()
            if i:  # the first one compiles
                times[name].append(1e3 * (time.perf_counter() - start))
    medians = {name: statistics.median(t) for name, t in times.items()}
    print(
        f"{a.config}, batch {c.batch_size}, {c.encoder.dtype}, torch {torch.__version__}, jax",
        end=" ",
    )
    print(f"{jax.__version__}, {torch.get_num_threads()} threads")
    for name, ms in medians.items():
        print(f"{name:26s} {ms:9.1f} ms ({min(times[name]):.1f} to {max(times[name]):.1f})")
    for part in ("step", "encoder of 1/4", "encoder of all"):
        ratio = medians[f"{part}, ours"] / medians[f"{part}, PyTorch"]
        print(f"{part}: ours / PyTorch {ratio:.2f}")
    for whose in ("ours", "PyTorch"):
        share = medians[f"encoder of 1/4, {whose}"] / medians[f"encoder of all, {whose}"]
        print(f"encoder of 1/4 / of all, {whose}: {share:.2f}")
    if a.json:
        Path(a.json).write_text(json.dumps(times, indent=1) + "\n")


if __name__ == "__main__":
    main()
