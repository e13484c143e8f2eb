"""The numbers of MoCo's, MoCo v3's, SimSiam's and NNCLR's recipes, from their sources."""

# What the recipes of MoCo, MoCo v3, SimSiam and NNCLR have in common.
_SHARED = {
    "image_size": 224,
    "data.name": "imagenet2012",
    "encoder.name": "resnet50",
    "encoder.width": 1.0,
    "encoder.padding": "torch",
    "resnet.stem": "imagenet",
    "resnet.zero_init_last": False,
    "method.probe": True,
    "optimizer.lr_scaling": "linear",
    "optimizer.warmup_epochs": 0.0,
    "optimizer.warmup_start": 0.0,
    "optimizer.schedule": "cosine",
    "optimizer.final": 0.0,
    "optimizer.accumulate": 1,
}
_SGD = {
    "optimizer.name": "sgd",
    "optimizer.exclude": [],
    "sgd.momentum": 0.9,
    "sgd.nesterov": False,
}
_LARS = {
    "optimizer.name": "lars",
    "optimizer.exclude": ["bias", "scale"],
    "optimizer.warmup_epochs": 10.0,
    "lars.momentum": 0.9,
    "lars.nesterov": False,
    "lars.eta": 1e-3,
    "lars.lr_inside": False,
    "lars.clip": False,
}
# solo-learn's CIFAR setting, as for BYOL above; the warm-up starts from 3e-5 at any rate.
_SOLO = {
    "batch_size": 256,
    "epochs": 1000,
    "image_size": 32,
    "data.name": "cifar10",
    "encoder.name": "resnet18",
    "resnet.stem": "cifar",
    "resnet.project_first": False,
    "optimizer.warmup_epochs": 10.0,
}
_SOLO_LARS = {**_LARS, "lars.eta": 0.02, "lars.clip": True}
# facebookresearch/moco:main_moco.py (defaults, README.md) and moco/builder.py; batch norm is that
# of 8 GPUs.
_MOCO = {
    **_SHARED,
    **_SGD,
    "batch_size": 256,
    "epochs": 200,
    "method.name": "moco",
    "moco.out": 128,
    "moco.queue": 65536,
    "moco.tau": 0.999,
    "moco.tau_schedule": "constant",
    "moco.symmetric": False,
    "moco.shuffle": True,
    "moco.bn_groups": 8,
    "optimizer.lr": 0.03,
    "optimizer.weight_decay": 1e-4,
}
_MOCOV3 = {
    "method.name": "mocov3",
    "mocov3.hidden": 4096,
    "mocov3.out": 256,
    "mocov3.layers": 2,
    "mocov3.predictor_norm": False,
    "mocov3.tau_schedule": "cosine",
    "mocov3.bn": "per_view",
    "mocov3.bn_groups": 1,
}
_SIMSIAM = {
    "views.recipe": "moco_v2",
    "method.name": "simsiam",
    "simsiam.hidden": 2048,
    "simsiam.out": 2048,
    "simsiam.layers": 3,
    "simsiam.predictor_hidden": 512,
    "simsiam.bn": "per_view",
    "simsiam.bn_groups": 1,
    "optimizer.lr_fixed": ["predictor"],
}
_NNCLR = {
    "method.name": "nnclr",
    "nnclr.hidden": 2048,
    "nnclr.out": 256,
    "nnclr.predictor_hidden": 4096,
    "nnclr.bn": "per_view",
    "nnclr.bn_groups": 1,
}

TABLES = {
    "moco_v1_imagenet_r50": {
        **{k: v for k, v in _MOCO.items() if k != "optimizer.final"},
        "views.recipe": "moco_v1",
        "moco.layers": 1,
        "moco.temperature": 0.07,
        "optimizer.schedule": "multistep",
        "optimizer.milestones": [120.0, 160.0],
        "optimizer.drop": 0.1,
    },
    # The notebook of branch colab-notebook, colab/moco_cifar10_demo.ipynb: lr 0.06 at batch 512.
    "moco_cifar10_r18:200": {
        **_MOCO,
        **{k: v for k, v in _SOLO.items() if "optimizer" not in k},
        "batch_size": 512,
        "epochs": 200,
        "views.recipe": "moco_v2",
        "views.mean": [0.4914, 0.4822, 0.4465],
        "views.std": [0.2023, 0.1994, 0.2010],
        "moco.layers": 1,
        "moco.queue": 4096,
        "moco.tau": 0.99,
        "moco.temperature": 0.1,
        "optimizer.weight_decay": 5e-4,
        "eval.knn_k": 200,
        "eval.knn_temperature": 0.1,
    },
    # scripts/pretrain/cifar/mocov3.yaml; the classifier's rate is that of the rest.
    "mocov3_cifar10_r18": {
        **_SHARED,
        **_SOLO_LARS,
        **_SOLO,
        **_MOCOV3,
        "views.recipe": "cifar",
        "mocov3.tau": 0.99,
        "mocov3.temperature": 0.2,
        "optimizer.lr": 0.3,
        "optimizer.warmup_start": 1e-4,
        "optimizer.weight_decay": 1e-6,
    },
    # scripts/pretrain/cifar/simsiam.yaml; the classifier's rate is 0.1.
    "simsiam_cifar10_r18": {
        **_SHARED,
        **_SGD,
        **_SOLO,
        **_SIMSIAM,
        "optimizer.lr": 0.5,
        "optimizer.lr_factors": [("probe", 0.2)],
        "optimizer.warmup_start": 6e-5,
        "optimizer.weight_decay": 1e-5,
    },
    # facebookresearch/simsiam:main_simsiam.py (defaults), simsiam/builder.py, README.md.
    "simsiam_imagenet_r50": {
        **_SHARED,
        **_SGD,
        **_SIMSIAM,
        "batch_size": 512,
        "epochs": 100,
        "resnet.zero_init_last": True,
        "optimizer.lr": 0.05,
        "optimizer.weight_decay": 1e-4,
    },
    # scripts/pretrain/cifar/nnclr.yaml; the classifier's rate is 0.1.
    "nnclr_cifar10_r18": {
        **_SHARED,
        **_SOLO_LARS,
        **_SOLO,
        **_NNCLR,
        "views.recipe": "cifar",
        "nnclr.queue": 65536,
        "nnclr.temperature": 0.2,
        "optimizer.lr": 0.4,
        "optimizer.lr_factors": [("probe", 0.25)],
        "optimizer.warmup_start": 7.5e-5,
        "optimizer.weight_decay": 1e-5,
    },
    # Dwibedi et al. 2021, section 4.1.
    "nnclr_imagenet_r50": {
        **_SHARED,
        **_LARS,
        **_NNCLR,
        "batch_size": 4096,
        "epochs": 1000,
        "views.recipe": "byol",
        "nnclr.queue": 98304,
        "nnclr.temperature": 0.1,
        "optimizer.lr": 0.3,
        "optimizer.weight_decay": 1e-6,
    },
}
TABLES |= {
    # Chen et al. 2020 (MoCo v2), table 1 (d), (e); --mlp --moco-t 0.2 --aug-plus --cos.
    f"moco_v2_imagenet_r50:{epochs}": {
        **_MOCO,
        "epochs": epochs,
        "views.recipe": "moco_v2",
        "moco.hidden": 2048,
        "moco.layers": 2,
        "moco.temperature": 0.2,
    }
    for epochs in (200, 800)
} | {
    # facebookresearch/moco-v3:CONFIG.md, main_moco.py, moco/optimizer.py.
    f"mocov3_imagenet_r50:{epochs}": {
        **_SHARED,
        **_LARS,
        **_MOCOV3,
        "batch_size": 4096,
        "epochs": epochs,
        "views.recipe": "byol",
        "resnet.zero_init_last": True,
        "mocov3.tau": tau,
        "mocov3.temperature": 1.0,
        "optimizer.lr": lr,
        "optimizer.weight_decay": decay,
    }
    for epochs, lr, decay, tau in (
        (100, 0.6, 1e-6, 0.99),
        (300, 0.3, 1e-6, 0.99),
        (1000, 0.3, 1.5e-6, 0.996),
    )
}
