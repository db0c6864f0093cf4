"""Vision transformers as published: an image in patches, a vector of its own before them, and layers under one scan.

Glossary of shapes: ``Y`` and ``X`` rows and columns of pixels, ``C`` channels, ``P`` patches, ``T`` tokens: the first
vector, registers, patches; ``D`` width.
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jattn.linen.architecture import Architecture
from jattn.linen.language import LAYER, make_norm, run_layers
from jattn.linen.multi_head import Projection


class VisionModel(nn.Module):
    """Reads images and returns logits of classes, or hidden states where the architecture has no head.

    Args:
      architecture: what it is made of, as of a `jattn.linen.language.LanguageModel`; `vocabulary` counts the classes,
        and the head is ``"linear"`` or ``"none"``.
      image_size: rows of pixels, and columns.
      patch_size: those of a patch.
      channels: numbers of a pixel.
      reads: what the head reads: ``"first"``, the first vector, or ``"both"``, that and the mean of all patches.
      registers: how many learned vectors come between the first one and the patches (Darcet et al. 2024).
      mask_token: whether there is a vector that takes the place of patches that are not to be seen.
      dtype, param_dtype: of the computation, and of the parameters; logits are float32.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import jattn
      >>> from jattn.linen.architecture import Architecture
      >>> from jattn.linen.vision import VisionModel
      >>> sizes = {"vocabulary": 10, "num_layers": 2, "num_heads": 2, "width": 8, "hidden": 16}
      >>> its = Architecture(**sizes, causal=False, head="linear")
      >>> model, image = VisionModel(its, image_size=12, patch_size=4), jnp.zeros((12, 12, 3))
      >>> variables = jax.jit(model.init)(jax.random.key(0), image)
      >>> logits, filters = jax.jit(lambda variables: jattn.capture_filters(model, variables, image))(variables)
      >>> logits.shape, filters["layer_1/attention"]
      ((10,), AttentionFilter(shape=(2, 10, 10), dtype=float32))

    Source: Dosovitskiy et al. 2021, "An image is worth 16x16 words"; Oquab et al. 2023, "DINOv2"; Darcet et al. 2024,
    "Vision transformers need registers".
    """

    architecture: Architecture
    image_size: int
    patch_size: int
    channels: int = 3
    reads: str = "first"
    registers: int = 0
    mask_token: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @property
    def scanned_layers(self) -> dict[str, int]:
        """How many layers are scanned, by the name of the module; see `jattn.linen.scanned`."""
        return {LAYER: self.architecture.num_layers}

    @nn.compact
    def __call__(
        self, images: Float[Array, "*batch Y X C"], masked: Float[Array, "*batch P"] | None = None
    ) -> Float[Array, "..."]:
        """Reads images.

        Args:
          images: pixels, scaled as the model was trained.
          masked: for each patch, in reading order, whether the mask token takes its place; booleans.

        Returns:
          Logits ``[*batch, classes]``, or hidden states ``[*batch, T, D]``.

        Raises:
          ValueError: if the images have another size, or patches are masked and there is no mask token.
        """
        x = self._encode(images, masked)
        if self.architecture.pooler and self.is_initializing():
            self._pool(x)
        return self._read_out(x)

    @nn.compact
    def pooled(
        self, images: Float[Array, "*batch Y X C"], masked: Float[Array, "*batch P"] | None = None
    ) -> Float[Array, "*batch D"]:
        """Returns ViT's vector of an image, ``tanh(W h₀ + b)``; call it as ``model.apply(..., method="pooled")``."""
        if not self.architecture.pooler:
            raise ValueError("pooled: expected an architecture with a pooler, got one without")
        return self._pool(self._encode(images, masked))

    def _encode(self, images: Array, masked: Array | None) -> Float[Array, "*batch T D"]:
        its = self.architecture
        x = self._patches(images)
        if self.mask_token:
            token = self._vector("mask", (1, its.width))
            x = x if masked is None else jnp.where(masked[..., None], token, x)
        elif masked is not None:
            raise ValueError("masked: expected None for a model without a mask token, got an array")
        first = jnp.broadcast_to(self._vector("first", (1, 1, its.width))[0], (*x.shape[:-2], 1, its.width))
        x = jnp.concatenate([first.astype(x.dtype), x], axis=-2)
        x = (x + self._vector("positions", (1, x.shape[-2], its.width))[0]).astype(self.dtype)
        if self.registers:
            registers = self._vector("registers", (1, self.registers, its.width))[0].astype(self.dtype)
            registers = jnp.broadcast_to(registers, (*x.shape[:-2], *registers.shape))
            x = jnp.concatenate([x[..., :1, :], registers, x[..., 1:, :]], axis=-2)
        x, _ = run_layers(its, self.dtype, self.param_dtype, x)
        return make_norm(its, self.dtype, self.param_dtype, "last_norm")(x)

    def _pool(self, x: Float[Array, "*batch T D"]) -> Float[Array, "*batch D"]:
        options = {"dtype": self.dtype, "param_dtype": self.param_dtype, "name": "pooler"}
        return jnp.tanh(Projection((self.architecture.width,), **options)(x[..., 0, :]))

    def _patches(self, images: Array) -> Float[Array, "*batch P D"]:
        expected = (self.image_size, self.image_size, self.channels)
        if images.shape[-3:] != expected:
            raise ValueError(f"images: expected shape [*batch, {', '.join(map(str, expected))}], got {images.shape}")
        if self.image_size % self.patch_size:
            raise ValueError(f"patch_size: expected a divisor of {self.image_size} pixels, got {self.patch_size}")
        side, size = self.image_size // self.patch_size, self.patch_size
        x = images.reshape(*images.shape[:-3], side, size, side, size, self.channels)
        x = jnp.swapaxes(x, -4, -3).reshape(*images.shape[:-3], side * side, size, size, self.channels)
        options = {"in_axes": 3, "dtype": self.dtype, "param_dtype": self.param_dtype, "name": "patches"}
        return Projection((self.architecture.width,), **options)(x)

    def _read_out(self, x: Float[Array, "*batch T D"]) -> Float[Array, "..."]:
        if self.architecture.head == "none":
            return x
        read = x[..., 0, :]
        if self.reads == "both":
            read = jnp.concatenate([read, jnp.mean(x[..., 1 + self.registers :, :], axis=-2)], axis=-1)
        options = {"dtype": self.dtype, "param_dtype": self.param_dtype, "name": "classes"}
        return Projection((self.architecture.vocabulary,), **options)(read).astype(jnp.float32)

    def _vector(self, name: str, shape: tuple[int, ...]) -> Array:
        return self.param(name, nn.initializers.normal(0.02), shape, self.param_dtype)
