"""Load an export in either form: as its parts, or as a function from images to features.

Shape key: B images, H W C image, D features.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from byol_jax.convert import native, timm
from byol_jax.convert.info import EncoderInfo
from byol_jax.core import Encoder, Tree
from byol_jax.models import make_encoder
from byol_jax.untrusted import link_out

RANGE_SLACK = 1e-6  # how far a float pixel may be outside 0..1: rounding of a resize


def read_encoder(path: str | Path) -> tuple[Encoder, Tree, Tree, EncoderInfo]:
    """Read an export made by byol_jax, in its own form or timm's.

    Args:
      path: the folder.

    Returns:
      The encoder as it was trained, its parameters and statistics (NumPy, float32) and its
      description.

    Raises:
      ValueError: no such folder, not an export, another version, damaged, a link out of the folder,
        or arrays that do not match the encoder's (all are listed).
    """
    folder = Path(path).expanduser()
    if folder.name in (timm.WEIGHTS_FILE, timm.CONFIG_FILE, native.INFO_FILE) and folder.is_file():
        raise ValueError(f"{folder} is a file of an export; give its folder, {folder.parent}.")
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; give the --out of byol_jax.export.")
    link = link_out(folder)
    if link:
        raise ValueError(
            f"{folder / link} is a link that leads out of the folder; replace it by a copy of its "
            "target (cp -RL copies a folder that way)."
        )
    if (folder / native.INFO_FILE).is_file():
        return native.read_native(folder)
    if (folder / timm.CONFIG_FILE).is_file() and (folder / timm.WEIGHTS_FILE).is_file():
        return timm.read_timm(folder)
    if (folder / "checkpoints").is_dir():
        raise ValueError(
            f"{folder} is a run, not an export; export its encoder first: "
            f"python -m byol_jax.export --workdir {folder} --out FOLDER."
        )
    raise ValueError(
        f"{folder} is not an encoder export: it has neither {native.INFO_FILE} nor "
        f"{timm.CONFIG_FILE} with {timm.WEIGHTS_FILE}. Make one with python -m byol_jax.export."
    )


class LoadedEncoder:
    """A trained encoder as a function: images -> features. Made by `load_encoder`.

    dim: features D. info: its description. encoder, params, stats: its parts, with arrays on the
    device.
    """

    def __init__(
        self, encoder: Encoder, params: Tree, stats: Tree, info: EncoderInfo, batch_size: int
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; expected at least 1.")
        self.encoder, self.info, self.dim = encoder, info, encoder.dim
        self.params, self.stats = jax.device_put((params, stats))
        self._batch_size = batch_size
        self._forward = jax.jit(self._features)

    def __repr__(self) -> str:
        i = self.info
        return (
            f"<{i.encoder['name']}, {self.dim} features, for {i.image_size} px: {i.method or '?'} "
            f"on {i.source or '?'}, step {i.step:,}>"
        )

    def _features(self, params: Tree, stats: Tree, images_BHWC: jax.Array) -> jax.Array:
        x = images_BHWC.astype(jnp.float32)
        if images_BHWC.dtype == jnp.uint8:
            x = x / 255
        mean = jnp.asarray(self.info.mean, jnp.float32).reshape(1, 1, 1, -1)
        std = jnp.asarray(self.info.std, jnp.float32).reshape(1, 1, 1, -1)
        x = (x - mean) / std
        features, _ = self.encoder.apply(params, stats, x[:, None], False)
        return features.pooled[:, 0].astype(jnp.float32)

    def prepare(self, image: Any) -> np.ndarray:
        """One picture as the encoder is evaluated on it: resized, and the centre cut out.

        The same pixels as from timm's and torchvision's transforms (`info.transform`), before they
        are normalised. The rotation in EXIF data is not applied: see `PIL.ImageOps.exif_transpose`.

        Args:
          image: a Pillow image, or uint8 [H, W, C] or [H, W].

        Returns:
          uint8 [S, S, C], S being `info.image_size`.

        Raises:
          ValueError: it is no image, or not of 8 bits per channel.
        """
        from PIL import Image

        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or image.ndim not in (2, 3) or 0 in image.shape:
                raise ValueError(
                    f"The image is {image.dtype} {list(image.shape)}; expected uint8 [H, W, C] or "
                    "[H, W], 0 to 255."
                )
            if image.shape[2:] not in ((), (1,), (3,), (4,)):
                raise ValueError(f"The image is {list(image.shape)}; expected 1, 3 or 4 channels.")
            image = Image.fromarray(image[..., 0] if image.shape[2:] == (1,) else image)
        if not isinstance(image, Image.Image):
            raise ValueError(
                f"The image is a {type(image).__name__}; expected a Pillow image "
                "(PIL.Image.open(file)) or uint8 [H, W, C]."
            )
        if image.mode[0] in "IF":
            raise ValueError(f"The image has Pillow's mode {image.mode!r}; convert it to 8 bits.")
        size, resize = self.info.image_size, self.info.shorter_side
        image = image.convert("L" if self.encoder.channels == 1 else "RGB")
        sides = [side * resize // min(image.size) for side in image.size]
        image = image.resize(sides, Image.Resampling.BICUBIC)
        left, top = (round((side - size) / 2) for side in sides)
        pixels = np.asarray(image.crop((left, top, left + size, top + size)))
        return pixels.reshape(size, size, self.encoder.channels)

    def __call__(self, images: Any) -> np.ndarray:
        """Features of images, normalised as in training, without resizing or cropping.

        Args:
          images: [B, H, W, C], uint8 (0 to 255) or floats in 0..1; any B, H and W.

        Returns:
          [B, D] float32.

        Raises:
          ValueError: another rank, type, range or number of channels; says what to do.
        """
        try:
            array = np.asarray(images)
        except ValueError as error:  # of a list
            raise ValueError(
                "The images differ in size; bring them to one, e.g. "
                "np.stack([encoder.prepare(image) for image in images])."
            ) from error
        images = _checked(array, self.encoder.channels)
        size, out = self._batch_size, [np.zeros((0, self.dim), np.float32)]
        for start in range(0, len(images), size):
            chunk = images[start : start + size]
            # The last chunk is padded, so that each image size compiles once.
            filled = np.zeros((size, *chunk.shape[1:]), chunk.dtype)
            filled[: len(chunk)] = chunk
            # Without this, GPUs and TPUs round float32 products to about three digits.
            with jax.default_matmul_precision("float32"):
                features = self._forward(self.params, self.stats, filled)
            out.append(np.asarray(features)[: len(chunk)])
        return np.concatenate(out)


def _checked(images: np.ndarray, channels: int) -> np.ndarray:
    """Images as uint8 or float32 [B, H, W, channels]; raises a ValueError that says what to do."""
    shape = images.shape
    expected = f"images are {images.dtype} {list(shape)}; expected [B, H, W, {channels}]"
    if len(shape) == 3 and shape[-1] == channels:
        raise ValueError(f"One image was given, {list(shape)}; pass images[None].")
    if channels == 3 and (len(shape) == 3 or (len(shape) == 4 and shape[-1] == 1)):
        repeat = "images" if len(shape) == 4 else "images[..., None]"
        raise ValueError(
            f"Grey {expected}. Repeat the channel if intended: np.repeat({repeat}, 3, -1)."
        )
    if len(shape) == 4 and shape[1] == channels != shape[-1]:
        raise ValueError(f"Channels come first: {expected}. Pass images.transpose(0, 2, 3, 1).")
    if len(shape) != 4 or shape[-1] != channels or 0 in shape[1:]:
        raise ValueError(f"Wrong shape: {expected}.")
    if images.dtype == np.uint8:
        return images
    if not jnp.issubdtype(images.dtype, np.floating):
        raise ValueError(
            f"Wrong type: {expected} of uint8 or floats in 0..1. For integers in 0..255 pass "
            "images.astype(np.uint8)."
        )
    if images.size:
        low, high = float(images.min()), float(images.max())
        if not (low >= -RANGE_SLACK and high <= 1 + RANGE_SLACK):  # written so that NaN fails too
            raise ValueError(
                f"Float images range from {low:g} to {high:g}; expected 0..1, not yet normalised "
                "and without NaN. For pixels in 0..255 pass uint8 or divide by 255."
            )
    return images.astype(np.float32)


def load_encoder(
    path: str | Path, *, batch_size: int = 32, dtype: str = "float32"
) -> LoadedEncoder:
    """Load an export as a function: `features = load_encoder(path)(images)`.

    Args:
      path: a folder made by byol_jax.export, in its own form or timm's.
      batch_size: images computed at a time; smaller batches are padded to it.
      dtype: of the computation: "float32" (whatever it was trained in) or "bfloat16".

    Returns:
      The function [B, H, W, C] -> [B, D]; see also its attributes.

    Raises:
      ValueError: see `read_encoder`.
    """
    if dtype not in ("float32", "bfloat16"):
        raise ValueError(f"dtype is {dtype!r}; expected float32 or bfloat16.")
    encoder, params, stats, info = read_encoder(path)
    encoder = make_encoder(**{**encoder.config, "dtype": dtype})
    return LoadedEncoder(encoder, params, stats, info, batch_size)
