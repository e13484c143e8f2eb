"""Audio-visual correspondence on videos with ResNet-18 on one GPU: L3-Net's numbers.

    python -m byol_jax.train --config configs/avc_audioset_r18.py --workdir runs/avc \\
        --config.data.dir=/path/to/videos     # train/ and test/, of different videos

Paper: Arandjelovic and Zisserman 2017. Numbers: marl/l3embedding at 3ac6394,
l3embedding/audio_model.py (spectrogram: 48 kHz, 512, 480, 240, in decibels, 257 x 199), model.py
(128 hidden, 2 outputs) and train.py (Adam, 1e-4, batch 64, 512 x 150 steps, half the pairs of other
clips). Published accuracy: 78 (Flickr) and 74 (Kinetics), second-hand.
What differs: both encoders are ResNet-18, of mean-pooled features (there: four blocks of two 3x3
convolutions, maximum-pooled); a batch norm in the classifier; no weight decay (there: 1e-5, of the
loss); no gain and no colours are drawn. The epochs are 4.9 million pairs if there are 290,000
videos.
Hardware, hours and accuracy of this code: not yet run here.
"""

from ml_collections import ConfigDict

from byol_jax.config import default_config


def get_config() -> ConfigDict:
    """The config."""
    c = default_config()
    c.batch_size = 64
    c.epochs = 17
    c.image_size = 224
    c.checkpoint_every = 2000
    c.eval.task = 1

    c.data.name = "clips"
    c.data.sound = 1.0
    c.data.rate = 48_000
    c.views.recipe = "crop_flip"
    c.views.placement = "device"
    c.views.overrides.update(area=(0.5, 1.0))

    c.encoder.name = "resnet18"
    c.encoder.width = 1.0
    c.encoder.padding = "torch"
    c.encoder.dtype = "bfloat16"
    c.resnet.stem = "imagenet"
    c.resnet.zero_init_last = False
    c.resnet.project_first = False
    c.resnet.sk_ratio = 0.0

    c.method.name = "avc"
    c.method.probe = False
    c.avc.fft = 512
    c.avc.window = 480
    c.avc.hop = 240
    c.avc.dynamic = 80.0
    c.avc.positive = 0.5
    c.avc.hidden = 128
    c.avc.layers = 2
    c.avc.bn_groups = 1

    c.optimizer.name = "adamw"
    c.optimizer.lr = 1e-4
    c.optimizer.lr_scaling = "none"
    c.optimizer.warmup_epochs = 0.0
    c.optimizer.warmup_start = 0.0
    c.optimizer.schedule = "multistep"
    c.optimizer.milestones = ()
    c.optimizer.weight_decay = 0.0
    c.optimizer.accumulate = 1
    c.adamw.b1 = 0.9
    c.adamw.b2 = 0.999
    c.adamw.eps = 1e-8
    return c
