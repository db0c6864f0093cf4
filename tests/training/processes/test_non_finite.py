"""Ways to become non-finite: the run ends with a line, and no checkpoint holds what is not finite."""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import linen as nn

from tests.training.processes.commands import Command, run

CASES = 3
"""How many ways one test tries."""


def breaking(where, value, at):
    """An own optimizer that makes an update, or what it remembers itself, non-finite at one step."""

    def init(params):
        return jnp.int32(0), jnp.float32(1)

    def update(updates, state, params=None):
        count, kept = state
        spoilt = jnp.where(count == at, value, 1.0)
        if where == "state":
            return updates, (count + 1, kept * spoilt)
        leaves, tree = jax.tree.flatten(updates)
        return tree.unflatten([leaves[0] * spoilt, *leaves[1:]]), (count + 1, kept)

    return {"optimizer": optax.chain(optax.sgd(0.01), optax.GradientTransformation(init, update))}


class Model(nn.Module):
    """Looks tokens up; its parameters, its logits or its gradients are not finite."""

    where: str

    @nn.compact
    def __call__(self, tokens, lengths=None, *, deterministic=True):
        init = nn.initializers.constant(jnp.inf) if self.where == "parameters" else nn.initializers.normal()
        logits = nn.Embed(5, 5, embedding_init=init)(tokens)
        if self.where == "logits":
            logits = logits.at[..., 0].set(jnp.nan)
        if self.where == "one logit":
            logits = logits.at[..., 0].set(jnp.inf)
        if self.where == "gradients":
            logits = logits + jnp.sqrt(logits - logits)
        return logits


def model(where):
    return {"model": Model(where)}


HUGE = ("--training.learning-rate", "1e38", "--training.warmup-steps", "0", "--training.clip-norm", "1e38")
VALUES = {"nan": jnp.nan, "inf": jnp.inf, "-inf": -jnp.inf}
WAYS = {
    **{
        f"an update, {value}, {at}": ((), functools.partial(breaking, "update", VALUES[value], at), at)
        for value, at in itertools.product(VALUES, (0, 2, 3, 11))
    },
    **{
        f"the optimizer's state, {at}": ((), functools.partial(breaking, "state", jnp.nan, at), at)
        for at in (0, 5, 6, 11)
    },
    **{
        f"the model's {where}": ((), functools.partial(model, where), 0)
        for where in ("parameters", "logits", "one logit", "gradients")
    },
    "rate": (HUGE, dict, None),
    "rate of sgd": ((*HUGE, "--training.optimizer", "sgd"), dict, None),
    "decay": ((*HUGE, "--training.weight-decay", "1e38"), dict, None),
    "two seeds": ((*HUGE, "--training.replicates", "2"), dict, None),
}
"""Options, own parts, and the step whose update breaks, where it is known."""


def test_there_are_24_ways():
    assert len(WAYS) == 24


@pytest.mark.exhaustive
@pytest.mark.parametrize("part", range(len(WAYS) // CASES))
def test_non_finite(part, tmp_path):
    ways = list(WAYS)[part :: len(WAYS) // CASES]
    commands = [Command(tmp_path / str(number), WAYS[way][0], parts=WAYS[way][1]) for number, way in enumerate(ways)]
    ended, again = run(*commands), run(*commands)
    for way, one, other in zip(ways, ended, again, strict=True):
        at = WAYS[way][2]
        case = f"{way}: {one} {other}"
        assert one.status == other.status == 1, case
        assert re.fullmatch(r"the (loss|state of training)( of seed \d)? is not finite at step \d+; .*\n", one.err), (
            case
        )
        assert one.err == other.err, case
        assert one.finite, case
        assert other.states == one.states, case
        if at is not None:
            assert max(one.states, default=0) == at // 3 * 3, case
