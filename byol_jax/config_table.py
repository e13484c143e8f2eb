"""The keys of the configuration: default, unit and allowed values of each.

Values are never None and floats are written 1.0, so that every key can be overridden on the command
line. Defaults are neutral: a published recipe is a file in configs/ that states all its numbers.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple


class Key(NamedTuple):
    """One key: its default and its allowed values (for a tuple: those of each element).

    low, high: bounds, inclusive unless `low_open` or `high_open`. choices: the allowed strings.
    """

    default: Any
    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False
    choices: tuple[str, ...] = ()

    @property
    def bounded(self) -> bool:
        """Whether values are numbers with a bound."""
        return math.isfinite(self.low) or math.isfinite(self.high)

    @property
    def needs_one(self) -> bool:
        """Whether values are tuples of numbers that must not be empty, as the default is not."""
        return self.bounded and isinstance(self.default, tuple) and bool(self.default)

    def expected(self) -> str:
        """The allowed values in words: "at least 1", "0 to 1", "one of a, b"."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        low = f"{'above' if self.low_open else 'at least'} {self.low}"
        high = f"{'below' if self.high_open else 'at most'} {self.high}"
        bounds = [t for t, b in ((low, self.low), (high, self.high)) if math.isfinite(b)]
        if len(bounds) == 2 and not (self.low_open or self.high_open):
            return f"{self.low} to {self.high}"
        return " and ".join(bounds)

    def allows(self, value: Any) -> bool:
        """Whether a value (of the default's type) is allowed."""
        if isinstance(value, tuple | list):
            if not self.bounded:
                return True
            flat = not any(isinstance(v, tuple | list) for v in value)
            return flat and bool(value or not self.needs_one) and all(map(self.allows, value))
        if self.choices:
            return value in self.choices
        if not self.bounded:
            return True
        like = self.default[0] if isinstance(self.default, tuple) and self.default else 0.0
        numbers = int if isinstance(like, int) else int | float
        if isinstance(value, bool) or not isinstance(value, numbers):
            return False
        above = value > self.low if self.low_open else value >= self.low
        below = value < self.high if self.high_open else value <= self.high
        return math.isfinite(value) and above and below


def _one_of(default: str, *others: str) -> Key:
    return Key(default, choices=(default, *others))


def _count(default: Any, low: int = 1) -> Key:
    return Key(default, low=low, high=2**31 - 1)


def _share(default: float) -> Key:
    return Key(default, low=0, high=1)


def _from_0(default: Any) -> Key:
    return Key(default, low=0)


def _above_0(default: Any) -> Key:
    return Key(default, low=0, low_open=True)


def _below_1(default: float) -> Key:
    return Key(default, low=0, high=1, high_open=True)


OF_CLIPS = ("shuffle", "avc")
"""Tasks of `data.name=clips`, which is why they are not among those that take turns."""
TASKS = ("rotation", "jigsaw", "relative", "inpainting", "colorization", "exemplar")
DTYPES = ("float32", "bfloat16", "float64")

KEYS = {
    "seed": _count(0, low=0),
    "batch_size": _count(256),  # global, over all devices and processes
    "epochs": _count(100),
    "image_size": _count(224),  # px
    "init_from": Key(""),  # folder of an exported encoder to start from
    "log_every": _count(50),  # steps
    "checkpoint_every": _count(1000, low=0),  # steps; 0: at the end only
    "keep": _count(3),  # newest checkpoints kept
    "keep_every": _count(0, low=0),  # steps; those at its multiples are kept for good; 0: none
    "evaluate_every": _count(0, low=0),  # epochs between evaluations; 0: at the end only
    # How often to go back to the last checkpoint and skip that stretch of the data when a step
    # is not finite (or collapsed, with collapse.stop); 0: stop the run.
    "rollbacks": _count(0, low=0),
    "hang_seconds": _from_0(1800.0),  # without progress before the process is ended; 0.0: never
    "data.name": Key("imagenet2012"),  # digits, folder, npz, clips, or any tfds name
    "data.dir": Key(""),  # tfds data_dir, the folder of images or clips, or the .npz file
    "data.frames": _count(0, low=0),  # of each clip, as "frames"; 0: one, as an image
    "data.stride": _count(1),  # frames of the video from one of them to the next
    "data.sound": _from_0(0.0),  # seconds of each clip, as "sound"; 0.0: none
    "data.rate": _count(16_000),  # Hz, of that sound
    "data.placement": _one_of("stream", "resident"),  # resident: decoded, in the devices' memory
    "data.resident_size": _count(0, low=0),  # px, side of the decoded squares; 0: as in evaluation
    "data.steps_per_dispatch": _count(0, low=0),  # with resident data; 0: automatic
    "data.max_damaged": _share(0.02),  # share of the data set; above it the run stops
    "data.bits": Key(0, low=0, high=16),  # in use of images stored in 16 bits; 0: all 16
    "data.orient": Key(False),  # turn photographs upright, as their EXIF data ask for
    # Text file that names the training images to use, one per line; "": all.
    "data.ids_file": Key(""),
    "data.train_examples": _count(0, low=0),  # 0: count them; any other number must match
    "data.threads": _count(0, low=0),  # of the input pipeline; 0: automatic
    "mesh.fsdp": _count(1),  # devices that share one copy of the state
    "views.recipe": _one_of(
        *("byol", "simclr", "cifar", "digits", "crop_flip", "multi_crop"),
        *("moco_v1", "moco_v2", "npid"),
    ),
    "views.placement": _one_of("host", "device"),  # by tf.data, or in the train step
    # Augment the first view alone; the others are the whole image.
    "views.one_branch": Key(False),
    "views.mean": Key((), low=0, high=1),  # per channel, of images in 0..1; (): the data set's
    "views.std": _above_0(()),
    "encoder.name": _one_of(
        *("resnet50", "tiny", "resnet18", "resnet34", "resnet101", "resnet152", "resnet200"),
        *("vit_tiny", "vit_small", "vit_base", "vit_large", "vit_huge"),
    ),
    "encoder.input": _one_of("colour", "lightness"),  # of images in colour: L of Lab alone
    "encoder.width": Key(1.0, low=0.25, high=4),  # factor on every channel count
    "encoder.padding": _one_of("torch", "same"),
    "encoder.drop_path": _below_1(0.0),  # stochastic depth, of the last block
    "encoder.remat": Key(False),  # recompute blocks in the backward pass: less memory, more time
    "encoder.dtype": Key("float32", choices=DTYPES),  # of the computation
    "method.name": _one_of(
        *("byol", "siamese", "simclr", "supervised"),
        *("supcon", "barlow", "vicreg"),
        *("moco", "mocov3", "simsiam", "nnclr"),
        *("swav", "dino", "npid", "distill", "mae"),
        *TASKS,
        *OF_CLIPS,
        "several",
    ),
    "method.probe": Key(True),  # train an online linear probe if there are labels
    "optimizer.name": _one_of("sgd", "lars", "adamw"),
    "optimizer.lr": _from_0(0.1),  # at batch 256
    "optimizer.lr_scaling": _one_of("linear", "sqrt", "none"),  # B / 256, sqrt(B), unchanged
    "optimizer.warmup_epochs": _from_0(0.0),
    "optimizer.warmup_start": _share(0.0),  # share of lr that the warm-up starts from
    "optimizer.schedule": _one_of("cosine", "multistep"),  # after the warm-up
    "optimizer.final": _share(0.0),  # cosine: share of lr at the end
    "optimizer.milestones": _above_0(()),  # multistep: epochs; lr * optimizer.drop at each
    "optimizer.drop": _share(0.1),
    "optimizer.weight_decay": _from_0(0.0),
    "optimizer.weight_decay_end": Key(-1.0, low=-1),  # reached by a cosine; -1.0: constant
    # Parameters chosen by a component of their path: neither decayed nor adapted; at another rate,
    # as pairs (name, share of lr), of which the first match counts; at a constant lr.
    "optimizer.exclude": Key(("bias", "scale")),
    "optimizer.lr_factors": Key(()),
    "optimizer.lr_fixed": Key(()),
    # Of lr, per layer from the top: the blocks of a ResNet or a transformer.
    "optimizer.layer_decay": Key(1.0, low=0, high=1, low_open=True),
    "optimizer.clip_norm": _from_0(0.0),  # of the whole gradient, at most; 0.0: any
    "optimizer.clip_tensor": _from_0(0.0),  # of each parameter's gradient, at most; 0.0: any
    # Parameters left as they are at first, by name, and for how many epochs or steps.
    "optimizer.hold": Key(()),
    "optimizer.hold_epochs": _from_0(0.0),
    "optimizer.hold_steps": _count(0, low=0),
    "optimizer.accumulate": _count(1),  # micro-batches per step
    "collapse.threshold": _from_0(0.1),  # warn if the features' std is below this x 1/sqrt(d)
    "collapse.stop": Key(False),  # stop instead of warning
    "eval.batch_size": _count(256),
    "eval.resize": _count(0, low=0),  # px of the shorter side before the crop; 0: 8/7 from 64 px on
    # Resize as Pillow, torchvision and timm do; false: as training crops are, and byol_jax 0.1 did.
    "eval.antialias": Key(True),
    # Training images at most, for knn, fewshot, transfer, suite, stages and lowshot; 0: all.
    "eval.train_examples": _count(0, low=0),
    # Judge raw pixels as well, up to 64 px (fewshot, lowshot, transfer, suite, robust, retrieval)
    # or of any size (patches).
    "eval.pixels": Key(True),
    # GiB of features that are kept in the run folder, for all protocols that judge frozen pooled
    # features: the same encoder and images are then read once. 0.0: none.
    "eval.cache": _from_0(2.0),
    "eval.knn_k": _count(200),  # neighbours; at most 2% of the training images (20 of a small set)
    "eval.knn_temperature": _above_0(0.07),
    "eval.epochs": _count(80),  # linear, finetune, suite (with suite_finetune)
    # linear: swept, at batch 1024. The papers' five, and larger ones, which cost nothing extra and
    # suit small features (those of an untrained encoder).
    "eval.lrs": _above_0((100.0, 30.0, 10.0, 3.0, 1.0, 0.4, 0.3, 0.2, 0.1, 0.05)),
    # linear: batch norm without scale and bias before the classifier, as for MAE
    "eval.linear_norm": Key(False),
    # suite: fine-tune on each set as well, and train from scratch, as finetune does, on all labels.
    "eval.suite_finetune": Key(False),
    "eval.finetune_lrs": _above_0((0.4, 0.1, 0.03)),  # swept, at batch 1024
    "eval.finetune_epochs": _count(()),  # swept too; (): eval.epochs
    # finetune: where the classifier is put, on the encoder or (SimCLR v2) on the first layer of the
    # projector, which is trained on.
    "eval.finetune_from": _one_of("encoder", "head1"),
    "eval.train_batch": _count(1024),  # linear, finetune, suite
    # Share of the training set held out to choose the learning rate (linear, finetune), the penalty
    # (transfer, suite, stages) or the SVM's C (lowshot).
    "eval.validation": Key(0.1, low=0, high=1, low_open=True, high_open=True),
    "eval.label_fraction": Key(0.1, low=0, high=1, low_open=True),  # finetune: labels used
    "eval.label_balance": Key(False),  # finetune: equally many labels of each class
    "eval.shots": _count((1, 5, 10)),  # fewshot: labels per class
    "eval.draws": _count(10),  # fewshot: random draws of the labelled images
    # Passes over the test part in which a pretext task asks its questions, at evaluations; 0: none.
    # Refused where there are none: of methods without a task, and exemplars (training images).
    "eval.task": _count(0, low=0),
    # fewshot, lowshot: inverse regularisation of logistic regression
    "eval.fewshot_c": _above_0(100.0),
    # transfer, suite, stages: penalties of logistic regression that are tried, from 1e5 to 1e-6
    "eval.penalties": _count(45),
    # stages: about how many numbers per image a stage's maps are pooled to, beside their global
    # mean; 0: the mean alone
    "eval.stage_numbers": _count(0, low=0),
    "eval.lowshot_shots": _count((1, 2, 4, 8, 16, 32, 64, 96)),  # lowshot: labels per class
    "eval.lowshot_draws": _count(5),  # lowshot: random draws of the labelled images
    "eval.svm_cs": _above_0(
        (0.01, 0.1, 1.0, 10.0, 100.0)
    ),  # lowshot: inverse regularisation, swept
    # segment, depth: whether the encoder stays as it is, or is trained with the head.
    "eval.patches_images": _count(256, low=2),  # patches: test images that are compared
    # patches: px, side of the images that the encoder sees; 0: that of training.
    "eval.patches_size": _count(0, low=0),
    "eval.dense_encoder": _one_of("frozen", "finetuned"),
    # px of the image per position of the encoder's last map; 0: 16 where that is possible (ResNets
    # with the imagenet stem), else its own
    "eval.output_stride": _count(0, low=0),
    "eval.dense_side": _count(0, low=0),  # px, shorter side of all images; 0: as stored
    "eval.dense_crop": _count(513),  # px, side of the training crops
    "eval.dense_scales": _above_0((0.5, 2.0)),  # smallest and largest factor on a training image
    "eval.dense_flip": _share(0.5),  # probability of mirroring a training image
    "eval.dense_steps": _count(30_000),
    "eval.dense_batch": _count(16),
    "eval.dense_lrs": _above_0((0.1, 0.03, 0.01)),  # swept, for this batch
    "eval.dense_decay": _from_0(1e-4),  # weight decay
    "eval.dense_width": _count(256),  # channels of the head
    "eval.dense_taps": _count(6),  # positions from one tap of its convolutions to the next
    "eval.void": _count((255,), low=0),  # segment: numbers in masks that do not count
    "eval.depth_unit": _above_0(0.001),  # depth: metres per stored number
}

_STATISTICS = {
    # What batch-norm statistics are computed over: each view separately, or all views together; and
    # in how many groups of contiguous rows (1: the global batch, or micro-batch).
    "bn": _one_of("per_view", "joint"),
    "bn_groups": _count(1),
}
_NEGATIVES = {
    "beta": _from_0(0.0),  # weight of the negatives; 0.0: plain regression
    "temperature": _above_0(0.1),  # of the negatives
}
_HEADS = {
    "hidden": _count(4096),  # width of the hidden layers of projector and predictor
    "out": _count(256),  # width of the embedding
}
_CLASSIFIER = {
    "hidden": _count(4096),
    "layers": _count(1),  # of the classifier: 1 linear
    "bn": _one_of("joint", "per_view"),
    "bn_groups": _count(1),
}

# choice -> its values with their own keys -> those keys. All encoders called resnetN share
# the group "resnet".
GROUPS: dict[str, dict[str, dict[str, Key]]] = {
    "method.name": {
        "byol": {
            **_HEADS,
            "predictor": Key(True),
            "tau": _share(0.99),  # decay of the target at step 0
            "tau_schedule": _one_of("cosine", "constant"),  # cosine: to 1 at the end
            **_NEGATIVES,
            **_STATISTICS,
        },
        "siamese": {
            **_HEADS,
            "predictor": Key(True),
            "stop_gradient": Key(True),  # on the projections used as targets
            **_NEGATIVES,
            **_STATISTICS,
        },
        "simclr": {
            "hidden": _count(2048),
            "out": _count(128),
            "layers": _count(2, low=0),  # of the projector: 2 (v1), 3 (v2), 1 linear, 0 none
            "norm": Key(True),  # batch norm after each of them; without it they have biases
            "loss": _one_of(
                "nt_xent",
                "nt_logistic",
                "nt_logistic_semi_hard",
                "triplet",
                "triplet_semi_hard",
                "n_pair",
            ),
            "temperature": _above_0(0.1),  # of nt_xent and nt_logistic
            "margin": _from_0(0.8),  # of triplet
            "l2": _from_0(0.002),  # of n_pair: weight of the squared norms
            "bn": _one_of("joint", "per_view"),
            "bn_groups": _count(1),
        },
        "supcon": {
            "hidden": _count(2048),
            "out": _count(128),
            "layers": _count(2, low=0),  # of the projector, as for simclr
            "norm": Key(True),
            "temperature": _above_0(0.1),
            "base_temperature": _from_0(0.0),  # the loss is times temperature / this; 0.0: unscaled
            "mean": _one_of("outside", "inside"),  # over the positives, of the logarithm
            "bn": _one_of("joint", "per_view"),
            "bn_groups": _count(1),
        },
        "barlow": {
            "hidden": _count(8192),
            "out": _count(8192),
            "layers": _count(3),  # of the projector
            "off_diagonal": _from_0(0.0051),  # lambda, weight of the redundancy
            "scale": _above_0(1.0),  # of the loss
            **_STATISTICS,
        },
        "vicreg": {
            "hidden": _count(8192),
            "out": _count(8192),
            "layers": _count(3),  # of the expander
            "invariance": _from_0(25.0),  # weights of the three terms
            "variance": _from_0(25.0),  # of the mean of both views (of their sum: half of this)
            "covariance": _from_0(1.0),
            **_STATISTICS,
        },
        "supervised": {
            "bn_groups": _count(1),
            # Blocks of a transformer, or stages, that are trained from the last one down: 0: none,
            # a linear probe; -1: everything.
            "last": Key(-1, low=-1, high=2**31 - 1),
            "norm": Key(False),  # batch norm without scale and bias before the classifier
            "head_std": _from_0(0.0),  # of the classifier's first weights; 0.0: 1 / sqrt(width)
            "mixup": _from_0(0.0),  # a of Beta(a, a); 0.0: none
            "cutmix": _from_0(0.0),
            "mix_prob": _share(1.0),  # of mixing a batch at all
            "switch_prob": _share(0.5),  # of cutmix, where there are both
            "smoothing": _below_1(0.0),  # of the labels
        },
        "moco": {
            "hidden": _count(2048),
            "out": _count(128),
            "layers": _count(2),  # of the projector: 1 (v1), 2 (v2)
            "queue": _count(65536),  # keys; a multiple of the keys of a (micro-)batch
            "tau": _share(0.999),  # decay of the key network at step 0
            "tau_schedule": _one_of("cosine", "constant"),
            "temperature": _above_0(0.07),
            "symmetric": Key(False),  # both directions, added; the keys of both views are queued
            "shuffle": Key(True),  # the keys' rows before they are divided into bn_groups
            "bn_groups": _count(1),
        },
        "mocov3": {
            **_HEADS,
            "layers": _count(2),  # of the projector: 2 for ResNets, 3 for ViTs
            "predictor_norm": Key(False),  # batch norm at the predictor's end, as for ViTs
            "tau": _share(0.99),  # decay of the target at step 0
            "tau_schedule": _one_of("cosine", "constant"),
            "temperature": _above_0(1.0),
            **_STATISTICS,
        },
        "simsiam": {
            "hidden": _count(2048),
            "out": _count(2048),
            "layers": _count(3),  # of the projector
            "predictor_hidden": _count(512),
            **_STATISTICS,
        },
        "nnclr": {
            "hidden": _count(2048),
            "out": _count(256),
            "predictor_hidden": _count(4096),
            "queue": _count(65536),  # projections; a multiple of the (micro-)batch
            "temperature": _above_0(0.1),
            **_STATISTICS,
        },
        "swav": {
            "hidden": _count(2048),
            "out": _count(128),
            "prototypes": _count(3000),
            "temperature": _above_0(0.1),
            "epsilon": _above_0(0.05),  # entropy of the codes
            "iterations": _count(3),  # of Sinkhorn and Knopp
            "queue": _count(0, low=0),  # embeddings per large view; 0: none
            "queue_epoch": _from_0(15.0),  # from which it is filled
            "bn": _one_of("joint", "per_view"),  # the views of one size, and all in the projector
            "bn_groups": _count(1),
        },
        "dino": {
            "hidden": _count(2048),
            "layers": _count(3),  # of the head, up to the bottleneck
            "out": _count(256),  # width of the bottleneck
            "prototypes": _count(65536),  # outputs of the last layer
            "tau": _share(0.996),  # decay of the teacher at step 0
            "tau_schedule": _one_of("cosine", "constant"),
            "temperature": _above_0(0.1),  # of the student
            "teacher_start": _above_0(0.04),  # of the teacher, in its first epoch
            "teacher_temperature": _above_0(0.04),  # after teacher_epochs
            "teacher_epochs": _count(0, low=0),
            "centre_momentum": _share(0.9),
            "bn": _one_of("joint", "per_view"),  # the views of one size
            "bn_groups": _count(1),
        },
        "npid": {
            "out": _count(128),
            "negatives": _count(4096, low=0),  # K, drawn for each example; 0: the full softmax
            "temperature": _above_0(0.07),
            "momentum": _share(0.5),  # of the rows of the memory bank
            "bn_groups": _count(1),
        },
        "distill": {
            "teacher": Key(""),  # folder of a classifier, from evaluate --save
            "temperature": _above_0(1.0),  # of teacher and student
            "alpha": _share(1.0),  # weight of the teacher; labels have the rest
            "bn_groups": _count(1),
        },
        "mae": {
            "mask": Key(0.75, low=0, high=1, low_open=True, high_open=True),  # share hidden
            "dim": _count(512),  # of the decoder: width, blocks, heads
            "depth": _count(8),
            "heads": _count(16),
            "normalised": Key(True),  # each patch's pixels by their own mean and deviation
            "mask_tokens": Key(False),  # in the encoder, which then sees all patches
        },
        "rotation": {
            "turns": Key(4, low=2, high=4),  # 4: quarters; 2: halves
            "every": Key(True),  # each image in every rotation; otherwise in one that is drawn
            **_CLASSIFIER,
        },
        "jigsaw": {
            "permutations": _count(100, low=2),  # of the set, chosen greedily
            "grid": Key(3, low=2, high=3),  # tiles along a side
            "tile": _count(64),  # px; with jitter and shift at most image_size // grid
            "jitter": _count(19, low=0),  # px, of the tiles in their cells
            "shift": _count(2, low=0),  # px, of the channels of a tile, at most
            "normalise": Key(True),  # each channel of each tile by its own mean and deviation
            "project": _share(0.0),  # probability of the projection of colours
            "out": _count(1000),  # width of the embedding of a tile
            **_CLASSIFIER,
        },
        "relative": {
            "pairs": Key(8, low=1, high=8),  # neighbours of the centre that are asked for
            "tile": _count(64),  # px; with jitter at most image_size // 3
            "jitter": _count(21, low=0),  # px, of the tiles in their cells
            "drop": Key(False),  # keep one channel of each tile, noise in the others
            "project": _share(0.0),  # probability of the projection of colours
            **_CLASSIFIER,
        },
        "inpainting": {
            "region": _one_of("centre", "random"),  # a square, or blobs
            "size": Key(0.5, low=0, high=1, low_open=True, high_open=True),  # of its side
            "band": _count(4, low=0),  # px of the square that are shown and predicted
            "band_weight": _above_0(10.0),  # of their error
            "area": Key(0.25, low=0, high=1, low_open=True, high_open=True),  # of the blobs
            "bottleneck": _count(4000),  # of the decoder: the layer that sees the whole map
            "width": _count(512),  # and its channels before the first doubling
            "bn_groups": _count(1),
        },
        "colorization": {
            "sample": _count(4),  # px; the colour of every so many pixels is asked for
            "images": _count(10_000),  # of the data, in which colours are counted at the start
            "neighbours": Key(5, low=1, high=20),  # nearest bins that a target is spread over
            "sigma": _above_0(5.0),  # of the Gaussian that it is spread by, in a and b
            "rebalance": _share(0.5),  # lambda; 1.0: rare colours weigh as others do
            "temperature": _above_0(0.38),  # of the decoding in pictures
            "width": _count(256),  # of the decoder, before the first doubling
            "bn_groups": _count(1),
        },
        "exemplar": {
            "seeds": _count(0, low=0),  # classes: the first images of the data set; 0: all of them
            "patch": _count(32),  # px
            "shift": _share(0.2),  # of the patch, along each axis, at most
            "scale": _above_0((0.7, 1.4)),  # lowest and highest
            "rotate": Key(20.0, low=0, high=180),  # degrees to either side, at most
            "contrast": Key(2.0, low=1),  # largest factor along each direction of colours
            "power": Key(4.0, low=1),  # largest, of saturation and value
            "hue": Key(0.1, low=0, high=0.5),  # turns to either side, at most
            **{k: key for k, key in _CLASSIFIER.items() if k != "bn"},  # of its one view
        },
        "shuffle": {
            "span": _count(4, low=2),  # frames from the first of the three to the last
            "apart": _count(1),  # frames from the ends to those that do not lie between them
            "positive": Key(0.25, low=0, high=1, low_open=True, high_open=True),  # share in order
            # Classify by how each frame's features deviate from the mean of the three, normalised.
            "deviations": Key(False),
            **_CLASSIFIER,
        },
        "avc": {
            "fft": _count(512),  # of a spectrogram: samples of a transform, of a window, and from
            "window": _count(480),  # one window to the next
            "hop": _count(240),
            "dynamic": _above_0(80.0),  # dB below the loudest, at which values are cut
            "positive": Key(0.5, low=0, high=1, low_open=True, high_open=True),  # share of one clip
            "hidden": _count(128),
            "layers": _count(2),  # of the classifier: 1 linear
            "bn_groups": _count(1),
        },
        # Each task with the keys of its own group; how many steps in turn are of each.
        "several": {
            "tasks": Key("relative,colorization"),
            "turns": _count((1,)),  # one number: of all
        },
    },
    "optimizer.name": {
        "lars": {
            "momentum": _below_1(0.9),
            "nesterov": Key(False),
            "eta": _above_0(1e-3),
            "lr_inside": Key(False),  # lr inside the momentum buffer (SimCLR)
            "clip": Key(False),  # limit the adapted rate to lr (solo-learn)
            "larc": Key(False),  # Apex's LARC without its clip (SwAV)
        },
        "sgd": {"momentum": _below_1(0.9), "nesterov": Key(False)},
        "adamw": {"b1": _below_1(0.9), "b2": _below_1(0.999), "eps": _above_0(1e-8)},
    },
    "encoder.name": {
        # Of two 3x3 convolutions each; the fourth and later ones are as wide as the third.
        "tiny": {"stages": Key(3, low=3, high=6)},
        "resnet": {
            "stem": _one_of("imagenet", "cifar"),  # 7x7 stride 2 and pool; 3x3 stride 1
            "zero_init_last": Key(False),  # the last norm of each block starts with scale 0
            "project_first": Key(False),  # R18, R34: a projection shortcut in the first stage
            "space_to_depth": Key(False),  # imagenet stem on 2x2 px blocks: same results
            # SimCLR v2's network: inner width of selective kernels, a share; 0.0: a plain ResNet
            "sk_ratio": _share(0.0),
        },
        "vit": {
            "patch": _count(16),  # px; image_size is a multiple of it
            "dim": _count(0, low=0),  # width, blocks, heads per block; 0: by name
            "depth": _count(0, low=0),
            "heads": _count(0, low=0),
            # Features: the class token; the mean of the patches before or after the last norm.
            "pool": _one_of("token", "mean", "normed_mean"),
            "class_token": Key(True),
            "registers": _count(0, low=0),  # tokens that are no feature
            "positions": _one_of("sincos", "learned"),  # sincos: fixed
            "layer_scale": _from_0(0.0),  # initial factor on each branch of a block; 0.0: none
            "init": _one_of("mae", "mocov3", "dino"),  # whose initial weights
            "maps": _count(4),  # blocks whose patch tokens are the feature maps
        },
    },
    "views.recipe": {
        "multi_crop": {
            "small": _count(96),  # px, side of the local views
            "count": _count(6),  # local views
            # Whose colours: the large views are those of this recipe, the local ones as its first.
            "colours": _one_of("byol", "simclr"),
            "large_area": Key((0.25, 1.0), low=0, high=1, low_open=True),  # of the image
            "small_area": Key((0.05, 0.25), low=0, high=1, low_open=True),
            "small_blur": _share(1.0),  # probability
        },
    },
}
