"""MAE by the share of patches that is hidden (He et al. 2022, figure 5).

    python -m byol_jax.study --study configs/studies/mask.py --workdir studies/mask
    python -m byol_jax.study --study configs/studies/mask.py --workdir studies/mask_cifar \\
        --config configs/mae_cifar10_cpu.py: --config.epochs=2

On the digits, 16 patches of 2 x 2 pixels; or CIFAR-10, 64 of 4 x 4. Published figures: second-hand.
"""

from byol_jax.study.plan import FEW_LABELS, LAST_ONLY, Row, Study

PUBLISHED = {0.1: 54.6, 0.25: None, 0.5: 69.9, 0.75: 73.5, 0.9: 66.1}


def get_study() -> Study:
    """The study."""
    return Study(
        name="MAE's mask ratio",
        config="../digits.py",
        argument="mae",
        rows=[Row(f"mask {m:g}", {"mae.mask": m}, published=f) for m, f in PUBLISHED.items()],
        overrides=LAST_ONLY,
        protocols={"fewshot": {}},
        columns={k: v for k, v in FEW_LABELS.items() if k != "std of z"},
        shown="5 labels",
        published="ImageNet, linear, ViT-L, 800 epochs (He et al. 2022, figure 5)",
    )
