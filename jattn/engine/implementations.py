"""`explain_implementation`: which implementation a call of `attend` takes, and why not the others."""

import dataclasses
import functools
import math
from typing import Any

import jax
from jaxtyping import Float, PRNGKeyArray

from jattn.engine.attention import IMPLEMENTATIONS, check_value, choose_plan, filter_shape, repeat_batch
from jattn.engine.dropout import as_dropout
from jattn.engine.kernels import KERNELS, choose_kernel, unmet, unwise
from jattn.engine.plans import DENSE_WEIGHTS, LEAST_BY_ENTRIES, Plan
from jattn.engine.rows import row_program
from jattn.rules.biases import BiasLike
from jattn.rules.checks import ArrayOrShape
from jattn.rules.edits import EditLike
from jattn.rules.mask import MaskLike
from jattn.rules.normalizers import NormalizerLike, softmax
from jattn.rules.scores import ScoreLike, scaled_dot


@dataclasses.dataclass(frozen=True)
class Explanation:
    """Says which implementation a call takes; printed, it is a few lines of text.

    Args:
      chosen: ``"dense"``, ``"blocked"``, ``"cudnn"`` or ``"splash"``.
      reasons: why not, for each of the others.
      how: what the chosen one does, in words.
    """

    chosen: str
    reasons: dict[str, str]
    how: str

    def __str__(self) -> str:
        others = [f"  not {name}: {why}" for name, why in self.reasons.items()]
        return "\n".join([f"{self.chosen}: {self.how}", *others])


def explain_implementation(
    query: Float[ArrayOrShape, "*batch T N H"],
    key: Float[ArrayOrShape, "*batch S K H"],
    value: Float[ArrayOrShape, "*batch S K V"],
    *,
    score: ScoreLike = scaled_dot(),
    bias: BiasLike | None = None,
    mask: MaskLike | None = None,
    normalizer: NormalizerLike = softmax(),
    edit: EditLike | None = None,
    dropout_rate: float = 0.0,
    dropout_rng: PRNGKeyArray | None = None,
    broadcast_dropout: bool = False,
    implementation: str | None = None,
    block_size: int | None = None,
    precision: Any = None,
) -> Explanation:
    """Explains which implementation `attend` takes for a call, and why not the others. It computes nothing.

    Args:
      query: an array, or a `jax.ShapeDtypeStruct`.
      key: likewise.
      value: likewise.
      score, bias, mask, normalizer, edit, dropout_rate, dropout_rng, broadcast_dropout, implementation, block_size,
        precision: as in `attend`.

    Raises:
      ValueError, TypeError: what `attend` raises for the same call.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jattn import masks
      >>> from jattn.engine.implementations import explain_implementation
      >>> tokens = jax.ShapeDtypeStruct((8, 4096, 4, 64), jnp.float32)
      >>> explanation = explain_implementation(tokens, tokens, tokens, mask=masks.causal(), block_size=512)
      >>> print(explanation)
      blocked: 512 query rows a block, 56% of the 4096 x 4096 scores computed, ...
        not dense: needs block_size None, got 512
        not cudnn: needs a GPU, got backend cpu; float16 or bfloat16 inputs, got float32; block_size None, got 512
        not splash: needs a TPU, got backend cpu; block_size None, got 512
      >>> explanation.chosen
      'blocked'
    """
    shape = filter_shape(query, key)
    check_value(key, value)
    key, value = jax.eval_shape(repeat_batch, query, key, value)
    as_dropout(dropout_rate, dropout_rng, broadcast_dropout)
    program = jax.eval_shape(functools.partial(row_program, score, bias, mask, normalizer, edit, precision, shape))
    call = (query, key, value, program, dropout_rate, block_size)
    kernel = choose_kernel(implementation, *call)
    if kernel is not None:
        chosen, how = kernel, "one fused kernel, with reverse-mode first derivatives only"
    else:
        plan = choose_plan(shape, program, implementation, block_size, narrow=True, by_entries=True)
        chosen = implementation or ("dense" if plan.whole and block_size is None else "blocked")
        how = _describe(plan, shape, plan.narrowed and program.mask is not None and program.mask.depends_on_data)
    others = [name for name in IMPLEMENTATIONS if name != chosen]
    return Explanation(chosen, {name: _why_not(name, chosen, implementation, shape, call) for name in others}, how)


def _describe(plan: Plan, shape: tuple[int, ...], by_data: bool) -> str:
    num_rows, num_keys = shape[-2:]
    sizes = sorted({strip.block_size for strip in plan.strips})
    size = f"{sizes[0]} to {sizes[-1]}" if len(sizes) > 1 else f"{sizes[0]}"
    part = plan.num_weights / max(1, num_rows * num_keys)
    heads = "heads one at a time" if plan.walk_heads else "all heads at once"
    if plan.entries is not None:
        heads = f"all heads of {plan.entries} of the {shape[0]} batch entries at once"
    most = "at most " if by_data else ""
    return f"{size} query rows a block, {most}{part:.0%} of the {num_rows} x {num_keys} scores computed, {heads}"


def _why_not(name: str, chosen: str, implementation: str | None, shape: tuple[int, ...], call: tuple[Any, ...]) -> str:
    if name in KERNELS and (reasons := "; ".join(unmet(name, *call))):
        return f"needs {reasons}"
    if implementation is not None:
        return f"{chosen} was asked for"
    if chosen in KERNELS:
        return f"{chosen} can compute the call and goes first"
    if name in KERNELS:
        return f"needs {'; '.join(unwise(name))}"
    if call[-1] is not None:
        return f"needs block_size None, got {call[-1]}"
    weights = math.prod(shape)
    if chosen == "dense":
        return f"the filter has {weights} weights, no more than the {DENSE_WEIGHTS} that are computed at once"
    most = DENSE_WEIGHTS if weights > DENSE_WEIGHTS else LEAST_BY_ENTRIES
    return f"the filter has {weights} weights, more than the {most} that are computed at once"
