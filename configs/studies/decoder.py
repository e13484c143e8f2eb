"""MAE's decoder: blocks, width, and mask tokens in the encoder (He et al. 2022, tables 1a to 1c).

    python -m byol_jax.study --study configs/studies/decoder.py --workdir studies/decoder
    python -m byol_jax.study --study configs/studies/decoder.py --workdir studies/decoder_cifar \\
        --config configs/mae_cifar10_cpu.py: --config.epochs=2

On the digits, whose encoder has 4 blocks of width 64: the paper's depths 1, 2, 4, 8 (its encoder
has 24) and widths 128, 256, 512 (of 1024) in proportion. The rows of the width have 2 blocks.
Published figures: second-hand.
"""

from byol_jax.study.plan import FEW_LABELS, LAST_ONLY, Row, Study


def get_study() -> Study:
    """The study."""
    depths = {1: 65.5, 2: 70.0, 4: 71.9, 8: 73.5}
    widths = {8: 69.1, 16: 71.3, 32: 73.5}
    return Study(
        name="MAE's decoder",
        config="../digits.py",
        argument="mae",
        rows=[
            *(
                Row(f"{d} block{'s' * (d > 1)}", {"mae.depth": d}, published=f)
                for d, f in depths.items()
            ),
            *(
                Row(f"width {w}", {"mae.dim": w, "mae.depth": 2}, published=f)
                for w, f in widths.items()
            ),
            Row("mask tokens in the encoder", {"mae.mask_tokens": True}, published=59.6),
        ],
        overrides={**LAST_ONLY, "mae.heads": 4},
        protocols={"fewshot": {}},
        columns={k: v for k, v in FEW_LABELS.items() if k != "std of z"},
        shown="5 labels",
        published="ImageNet, linear, ViT-L, 800 epochs (He et al. 2022, table 1)",
    )
