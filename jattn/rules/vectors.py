"""Vectors: what scores compute of queries and keys besides products, exact for large, small and distant ones."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from jattn.rules.meshes import varying_as
from jattn.rules.products import dot
from jattn.rules.ranks import any_rank


def wide(x: Array) -> Array:
    """Makes floats float32 or wider."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def finite(x: Float[Array, "... L D"]) -> tuple[Float[Array, "... L D"], Bool[Array, "... L"]]:
    """Puts zeros in place of NaN and inf; also says which vectors had any."""
    fine = jnp.isfinite(x)
    return jnp.where(fine, x, 0), ~jnp.all(fine, axis=-1)


def nan_if_broken(x: Float[Array, "... L H"]) -> Float[Array, "... L"]:
    """Returns NaN for a vector with NaN or inf in it, and zero for any other."""
    return jnp.where(finite(x)[1], jnp.nan, jnp.zeros((), jnp.promote_types(x.dtype, jnp.float32)))


def unit(x: Float[Array, "... H"]) -> Float[Array, "... H"]:
    """Divides vectors by their length, of whatever size it is; zero stays zero."""
    x = wide(x)
    # Of a vector that is divided by its largest component no square is too large or too small. The direction does not
    # depend on that number, so neither does its gradient. In two steps, because 1/largest may be too small itself.
    largest = lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True, initial=0))
    root = lax.rsqrt(jnp.where(largest >= jnp.finfo(x.dtype).tiny, largest, 1))
    x = x * root * root
    squared = jnp.sum(x * x, axis=-1, keepdims=True)
    return x * lax.rsqrt(jnp.where(squared > 0, squared, 1))


def shrink(x: Float[Array, "... L H"]) -> tuple[Float[Array, "... L H"], Float[Array, "... L"]]:
    """Divides vectors by powers of two, so that products with them cannot overflow; also returns these powers.

    Only vectors with a component beyond ``2³⁰`` are divided.
    """
    largest = lax.stop_gradient(wide(jnp.max(jnp.abs(x), axis=-1, initial=0)))
    power = jnp.where((largest > 2.0**30) & jnp.isfinite(largest), jnp.exp2(jnp.floor(jnp.log2(largest))), 1)
    return x / power[..., None].astype(x.dtype), power


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def nearness(query: Float[Array, "... R H"], key: Float[Array, "... S H"], precision: Any) -> Float[Array, "... R S"]:
    """Computes ``-|q - k|²``, one component of the vectors after the other."""

    def add(total: Array, component: tuple[Array, Array]) -> tuple[Array, None]:
        difference = component[0][..., :, None] - component[1][..., None, :]
        return total - difference * difference, None

    components = jnp.moveaxis(query, -1, 0), jnp.moveaxis(key, -1, 0)
    dtype = jnp.result_type(query, key)
    start = varying_as(jnp.zeros((*query.shape[:-1], key.shape[-2]), dtype), query, key)
    return lax.scan(add, start, components, unroll=8)[0]


@nearness.defjvp
@any_rank
def _nearness_jvp(precision: Any, primals: Any, tangents: Any) -> Any:
    (query, key), (query_change, key_change) = primals, tangents
    # Products compute the derivative -2 (q - k)·(dq - dk) at once. They see vectors from the smallest query, which
    # changes no difference, so that what cancels is small; a key that is forbidden, however large, has no say in it.
    smallest = jnp.argmin(jnp.max(jnp.abs(query), axis=-1, initial=0), axis=-1, keepdims=True)
    middle = lax.stop_gradient(jnp.take_along_axis(query, smallest[..., None], axis=-2)) if query.shape[-2] else 0.0
    from_query, from_key = query - middle, key - middle
    of_query = jnp.sum(from_query * query_change, axis=-1)[..., :, None]
    of_key = jnp.sum(from_key * key_change, axis=-1)[..., None, :]
    between = dot(query_change, from_key, precision) + dot(from_query, key_change, precision)
    return nearness(query, key, precision), 2 * (between - of_query - of_key)
