"""Batch size by epochs, at the same images per epoch (Chen et al. 2020, figure 9).

    python -m byol_jax.study --study configs/studies/batch_epochs.py --workdir studies/batch
    python -m byol_jax.study --study configs/studies/batch_epochs.py:byol \\
        --workdir studies/batch_byol

On the digits; the argument is the method. The learning rate follows the batch, linearly, and the
warm-up takes a sixth of the epochs. Published for ImageNet at 300 epochs (Grill et al. 2020, figure
3a, second-hand): from batch 4096 down to 256 BYOL loses 0.7 points and SimCLR 3.6; at 64 both
lose 9 or more. The batches here are other ones, so no row has a published figure.
"""

from byol_jax.study.plan import LAST_ONLY, Row, Study

BATCHES, EPOCHS = (16, 64, 256), (15, 30, 60)


def get_study(method: str = "simclr") -> Study:
    """The study of a method."""
    return Study(
        name=f"Batch size by epochs, {method}",
        config="../digits.py",
        argument=method,
        rows=[
            Row(
                f"batch {batch}, {epochs} epochs",
                {"batch_size": batch, "epochs": epochs, "optimizer.warmup_epochs": epochs / 6},
                cell=(f"batch {batch}", f"{epochs} epochs"),
            )
            for batch in BATCHES
            for epochs in EPOCHS
        ],
        overrides=LAST_ONLY,
        protocols={"fewshot": {}},
        columns={"kNN": "metrics/knn/test_top1", "5 labels": "fewshot/5"},
        shown="5 labels",
    )
