"""Literal tables for tests/test_configs.py: instance discrimination, SimCLR v2's other stages."""

from recipe_tables_projections import TABLES as PROJECTIONS

# zhirongw/lemniscate.pytorch: SGD of cifar.py and main.py; Wu et al. 2018, section 4.
NPID = {
    "epochs": 200,
    "views.recipe": "npid",
    "encoder.width": 1.0,
    "encoder.padding": "torch",
    "resnet.zero_init_last": False,
    "resnet.sk_ratio": 0.0,
    "method.name": "npid",
    "method.probe": True,
    "npid.out": 128,
    "npid.momentum": 0.5,
    "npid.bn_groups": 1,
    "optimizer.name": "sgd",
    "optimizer.lr": 0.03,
    "optimizer.lr_scaling": "none",
    "optimizer.warmup_epochs": 0.0,
    "optimizer.schedule": "multistep",
    "optimizer.milestones": [120.0, 160.0],
    "optimizer.drop": 0.1,
    "optimizer.exclude": [],
    "optimizer.accumulate": 1,
    "sgd.momentum": 0.9,
    "sgd.nesterov": False,
}
_V2 = PROJECTIONS["simclr2_imagenet_r50"]

TABLES = {
    # cifar.py and README.md ("Training on CIFAR10"); adjust_learning_rate drops at 120 and 160.
    f"npid_cifar10_r18{argument}": {
        **NPID,
        "batch_size": 128,
        "image_size": 32,
        "data.name": "cifar10",
        "views.mean": [0.4914, 0.4822, 0.4465],
        "views.std": [0.2023, 0.1994, 0.2010],
        "encoder.name": "resnet18",
        "resnet.stem": "cifar",
        "resnet.project_first": False,
        "npid.negatives": negatives,
        "npid.temperature": 0.1,
        "optimizer.weight_decay": 5e-4,
        "eval.knn_k": 200,
        "eval.knn_temperature": 0.1,
    }
    for argument, negatives in (("", 0), (":4096", 4096))
} | {
    # main.py and README.md ("Training on ImageNet").
    "npid_imagenet_r50": {
        **NPID,
        "batch_size": 256,
        "image_size": 224,
        "data.name": "imagenet2012",
        "encoder.name": "resnet50",
        "resnet.stem": "imagenet",
        "npid.negatives": 4096,
        "npid.temperature": 0.07,
        "optimizer.weight_decay": 1e-4,
    },
    # google-research/simclr:README.md, rows with SK; sk_ratio of the flags in tf2/run.py.
    "simclr2_imagenet_r50_sk": {**_V2, "resnet.sk_ratio": 0.0625},
    # Chen et al. 2020 (v2), section 3.
    "distill_imagenet_r50": {
        **{k: v for k, v in _V2.items() if k.partition(".")[0] not in ("simclr", "method")},
        "method.name": "distill",
        "distill.temperature": 1.0,
        "distill.alpha": 1.0,
        "distill.bn_groups": 1,
        "epochs": 400,
        "views.recipe": "crop_flip",
        "views.mean": [0.0, 0.0, 0.0],
        "views.std": [1.0, 1.0, 1.0],
        "resnet.sk_ratio": 0.0,
        "optimizer.warmup_epochs": 20.0,
    },
}
