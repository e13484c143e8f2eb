"""A convolution that is right in half precision on a CPU, with gradients that are fast there.

XLA for CPUs passes a convolution to its matrix kernels only if the axes are in one order: images
NHWC, kernel HWIO. Gradients have other orders. Outside loops XLA seems to transpose them; in the
body of a loop (micro-batches, many steps in one scan) they ran 10 times slower for the images and
about 100 times slower for the kernel (jaxlib 0.10.2). Here the gradients are written in the fast
order. Programs for other devices use `lax`'s own gradients: see `compiling_for`.

In bfloat16 and float16 a convolution is computed in float32 and rounded once, as XLA for CPUs does
anyway. Here there is a barrier before the rounding: jaxlib 0.12.0 otherwise fuses several
convolutions, the rounding between them and a mean after them into one kernel, which returns NaN.

Shape key: N rows, H W positions, I O channels in and out, K kernel size.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

Pads = tuple[tuple[int, int], ...]  # (before, after) of H and of W
_ORDER = ("NHWC", "HWIO", "NHWC")
_platform = contextvars.ContextVar("platform", default="")


@contextlib.contextmanager
def compiling_for(platform: str) -> Iterator[None]:
    """Set the platform that the program traced inside is for, if not `jax.default_backend()`.

    A program compiled ahead of time for a TPU is traced on a CPU.

    Args:
      platform: as in `jax.Device.platform`: "cpu", "gpu", "tpu".
    """
    token = _platform.set(platform)
    try:
        yield
    finally:
        _platform.reset(token)


def conv(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] = (1, 1),
    rhs_dilation: Sequence[int] = (1, 1),
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: Any = None,
) -> Array:
    """`lax.conv_general_dilated` for `nn.Conv(conv_general_dilated=conv)`.

    Args:
      lhs: images [N, H, W, I].
      rhs: kernel [K, K, I, O].
      window_strides: of H and W.
      padding: "SAME", "VALID", or pixels before and after H and W.
      rhs_dilation: pixels from one tap of the kernel to the next, of H and W.
      lhs_dilation, dimension_numbers, feature_group_count, precision: what `nn.Conv` passes by
        default; anything else is refused.

    Returns:
      The map [N, H', W', O].

    Raises:
      NotImplementedError: dilated images, groups or a precision.
    """
    del dimension_numbers
    if {*lhs_dilation, feature_group_count} != {1} or precision is not None:
        raise NotImplementedError("conv does not support dilated images, groups or a precision.")
    steps = Steps(tuple(window_strides), tuple(rhs_dilation))
    if isinstance(padding, str):
        spans = _spans(rhs.shape, steps.holes)
        padding = lax.padtype_to_pads(lhs.shape[1:3], spans, steps.strides, padding)
    pads = tuple((before, after) for before, after in padding)
    ordered = (_platform.get() or jax.default_backend()) == "cpu"
    return (_ordered if ordered else _plain)(steps, pads, lhs, rhs)


class Steps(NamedTuple):
    """Strides of H and W, and pixels from one tap of the kernel to the next (`holes`)."""

    strides: tuple[int, ...]
    holes: tuple[int, ...]


def _spans(shape: tuple[int, ...], holes: tuple[int, ...]) -> tuple[int, ...]:
    """Pixels from the first to the last tap of a kernel [K, K, I, O], both included."""
    return tuple((k - 1) * d + 1 for k, d in zip(shape[:2], holes, strict=True))


def _plain(steps: Steps, pads: Pads, x: Array, kernel: Array) -> Array:
    return lax.conv_general_dilated(
        x, kernel, steps.strides, pads, rhs_dilation=steps.holes, dimension_numbers=_ORDER
    )


def _convolve(
    x: Array,
    kernel: Array,
    strides: tuple[int, ...],
    pads: Sequence[tuple[int, int]],
    spread: tuple[int, ...] = (1, 1),
    holes: tuple[int, ...] = (1, 1),
    few: bool = True,
) -> Array:
    """A convolution in the fast order, of images with `spread` and a kernel with `holes`.

    Images smaller than the kernel (3x3 on 2x2, the last stage of a ResNet-18 at 64 px) are computed
    as one matmul of patches, if the kernel has few taps: XLA runs plain loops for them, 100 times
    slower.
    """
    spans = _spans(kernel.shape, holes)
    if all(s >= k for s, k in zip(x.shape[1:3], spans, strict=True)) or not few:
        return lax.conv_general_dilated(
            x, kernel, strides, pads, spread, holes, dimension_numbers=_ORDER
        )
    around = [(before, after, s - 1) for (before, after), s in zip(pads, spread, strict=True)]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *around, (0, 0, 0)])
    height, width = x.shape[1] - spans[0] + 1, x.shape[2] - spans[1] + 1
    patches = [
        x[
            :,
            i * holes[0] : i * holes[0] + height : strides[0],
            j * holes[1] : j * holes[1] + width : strides[1],
        ]
        for i in range(kernel.shape[0])
        for j in range(kernel.shape[1])
    ]
    return jnp.concatenate(patches, -1) @ kernel.reshape(-1, kernel.shape[3])


def _rounded(compute: Callable[[Array, Array], Array], a: Array, b: Array) -> Array:
    """`compute` of two arrays: of half precision, in float32, and rounded behind a barrier."""
    if a.dtype.itemsize > 2:
        return compute(a, b)
    exact = compute(a.astype(jnp.float32), b.astype(jnp.float32))
    return lax.optimization_barrier(exact).astype(a.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _ordered(steps: Steps, pads: Pads, x: Array, kernel: Array) -> Array:
    def compute(x: Array, kernel: Array) -> Array:
        return _convolve(x, kernel, steps.strides, pads, holes=steps.holes)

    return _rounded(compute, x, kernel)


def _forward(
    steps: Steps, pads: Pads, x: Array, kernel: Array
) -> tuple[Array, tuple[Array, Array]]:
    return _ordered(steps, pads, x, kernel), (x, kernel)


def _backward(
    steps: Steps, pads: Pads, saved: tuple[Array, Array], dy: Array
) -> tuple[Array, Array]:
    x, kernel = saved
    of_image = functools.partial(_image_gradient, steps, pads, x.shape)
    of_kernel = functools.partial(_kernel_gradient, steps, pads, kernel.shape)
    return _rounded(of_image, kernel, dy), _rounded(of_kernel, x, dy)


_ordered.defvjp(_forward, _backward)


def _image_gradient(
    steps: Steps, pads: Pads, shape: tuple[int, ...], kernel: Array, dy: Array
) -> Array:
    """Convolve dy, spread by the strides, with the kernel rotated by 180 degrees and I, O swapped.

    Padding follows from the sizes: before, the kernel's span - 1 minus the forward pass's; after,
    up to `shape`.
    """
    spans = _spans(kernel.shape, steps.holes)
    sizes = zip(shape[1:3], spans, dy.shape[1:3], steps.strides, pads, strict=True)
    around = [
        (k - 1 - before, h + before - (h_out - 1) * s - 1) for h, k, h_out, s, (before, _) in sizes
    ]
    turned = lax.rev(kernel, (0, 1)).swapaxes(2, 3)
    return _convolve(dy, turned, (1, 1), around, spread=steps.strides, holes=steps.holes)


def _kernel_gradient(
    steps: Steps, pads: Pads, shape: tuple[int, ...], x: Array, dy: Array
) -> Array:
    """Convolve x with dy as the kernel and the rows N as channels; for 1x1 kernels, one matmul."""
    if shape[:2] == (1, 1) and not any(map(any, pads)):
        seen = x[:, :: steps.strides[0], :: steps.strides[1]]
        return jnp.einsum("nhwi,nhwo->io", seen, dy)[None, None]
    spans = _spans(shape, steps.holes)
    sizes = zip(x.shape[1:3], spans, dy.shape[1:3], steps.strides, pads, strict=True)
    around = [(before, k + (h_out - 1) * s - h - before) for h, k, h_out, s, (before, _) in sizes]
    gradient = _convolve(
        x.transpose(3, 1, 2, 0),
        dy.transpose(1, 2, 0, 3),
        steps.holes,
        around,
        holes=steps.strides,
        few=steps.strides == (1, 1) == steps.holes,
    )
    return gradient.transpose(1, 2, 0, 3)
