"""Interventions: what a model does once a filter in it is changed.

A picture of a filter says where a model looks, not whether that matters. These functions ask.
"""

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jattn.decode.protocol import as_inspectable
from jattn.drawing.html_table import as_html
from jattn.drawing.plain import percent
from jattn.engine.compiling import compiled
from jattn.filters.filter import AttentionFilter
from jattn.filters.names import in_order
from jattn.rules import edits as edits_of_filters
from jattn.rules.edits import Edit, EditLike, as_edit
from jattn.rules.grids import Grid, static
from jattn.rules.mask import Mask, MaskLike, as_mask
from jattn.rules.rule import rule
from jattn.rules.trees import as_pytree
from jattn.tasks.answers import cross_entropy, is_correct
from jattn.tasks.layouts import Batch


def apply_with_edits(
    module: Any, variables: Mapping[str, Any], *args: Any, edits: Mapping[str, EditLike], **kwargs: Any
) -> Any:
    """Applies a flax module while the filters of some attention layers are edited.

    Flax's ``scan`` over layers must pass the collection ``edits`` on: with ``variable_broadcast="edits"`` all layers
    get the same edit, with ``variable_axes={"edits": 0}`` each gets its part of the edit's arrays.

    Args:
      module: any linen module that contains `jattn.MultiHeadAttention` layers.
      variables: its variables.
      *args: what ``module.apply`` takes further.
      edits: what is done in which layer, by the names of `capture_filters`; see `jattn.edits`.
      **kwargs: what ``module.apply`` takes further.

    Returns:
      What ``module.apply`` returns.

    Raises:
      ValueError: if there is no such layer, or an edit does not fit its filter or does not reach it.
      TypeError: if an edit is nothing of that kind.

    Example: attend in one sentence as in another.
      >>> import jax, jax.numpy as jnp
      >>> import jattn
      >>> from jattn import edits
      >>> model, tokens, other = jattn.Encoder(vocabulary=10), jnp.array([[1, 2, 3]]), jnp.array([[4, 5, 6]])
      >>> variables = jax.jit(model.init)(jax.random.key(0), tokens)
      >>> _, filters = jattn.capture_filters(model, variables, other)
      >>> swapped = edits.swap(filters["block_0/attention"])
      >>> jattn.apply_with_edits(model, variables, tokens, edits={"block_0/attention": swapped}).shape
      (1, 3, 10)
    """
    _check_edits(module, variables, *args, edits=edits, **kwargs)
    return _apply(module, variables, *args, edits=edits, **kwargs)


Loss = Callable[[Any, Any], Float[Array, ""]]
"""Takes what a model returns for a batch, and the batch; returns one number, the less the better."""


@as_pytree
@dataclasses.dataclass(frozen=True)
class Judgement:
    """How right a model's answers are.

    Attributes:
      loss: of a batch of `jattn.tasks`, the mean of ``-ln p(target)`` over the scored queries, in nats; else the loss
        given.
      token_accuracy: the share of right answers; None with a loss of one's own.
      exact_accuracy: the share of examples with no wrong answer; None with a loss of one's own.
    """

    loss: Float[Array, "..."]
    token_accuracy: Float[Array, "..."] | None = None
    exact_accuracy: Float[Array, "..."] | None = None


def judge(
    module: Any,
    variables: Mapping[str, Any],
    batch: Any,
    *,
    loss: Loss | None = None,
    edits: Mapping[str, EditLike] | None = None,
) -> Judgement:
    """Judges a model's answers to a batch, with its filters as they are or edited; see `apply_with_edits`.

    Args:
      module: a linen module.
      variables: its variables.
      batch: a batch of `jattn.tasks`, or a pytree of one's own whose attribute or key ``inputs`` holds the module's
        arguments by name.
      loss: a function of what the module returns and the batch; returns a number. Needed for a batch of one's own. It
        is compared by identity: made once, it is compiled once.
      edits: what is done in which layer.

    Raises:
      ValueError, TypeError: as `apply_with_edits` does.
      TypeError: if the batch has no inputs, or has no loss.

    Example: a batch and a loss of one's own.
      >>> import jax, jax.numpy as jnp
      >>> import jattn
      >>> batch = {"inputs": {"tokens": jnp.array([[1, 2, 3]])}, "labels": jnp.array([[2, 3, 4]])}
      >>> def loss(logits, batch):
      ...     likely = jnp.take_along_axis(jax.nn.log_softmax(logits), batch["labels"][..., None], axis=-1)
      ...     return -jnp.mean(likely)
      >>> model = jattn.Encoder(vocabulary=10)
      >>> variables = jax.jit(model.init)(jax.random.key(0), **batch["inputs"])
      >>> bool(jattn.judge(model, variables, batch, loss=loss).loss > 0)
      True
    """
    inputs = _inputs(batch, loss)
    if edits:
        _check_edits(module, variables, edits=edits, **inputs)
    edits = {name: as_edit(edit) for name, edit in (edits or {}).items()}
    return compiled(_judge)(_Question(module, loss), variables, batch, edits)


@as_pytree
@dataclasses.dataclass(frozen=True)
class KnockOut:
    """What a model loses with one head, or with all of them; printed, it is a table.

    Attributes:
      before: the judgement of the whole model.
      alone: for each layer the judgements with one head knocked out, arrays ``[N]``.
      together: the judgement with all heads of all these layers knocked out.
    """

    before: Judgement
    alone: dict[str, Judgement]
    together: Judgement

    def __str__(self) -> str:
        rows = self._rows()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows
        )

    def _repr_html_(self) -> str:
        header, *rows = self._rows()
        return as_html(header, rows)

    def _rows(self) -> list[tuple[str, ...]]:
        measured = [name for name in _FORMS if getattr(self.before, name) is not None]
        rows = [("knocked out", *(name.replace("_", " ") for name in measured)), _row("nothing", measured, self.before)]
        for layer, judgements in self.alone.items():
            for head in range(judgements.loss.shape[0]):
                judgement = jax.tree.map(lambda x, head=head: x[head], judgements)
                rows.append(_row(f"{layer}, head {head}", measured, judgement, self.before))
        return [*rows, _row("all of these", measured, self.together, self.before)]


def knock_out(
    module: Any,
    variables: Mapping[str, Any],
    batch: Any,
    *,
    loss: Loss | None = None,
    keys: MaskLike | None = None,
    layers: Iterable[str] | None = None,
) -> KnockOut:
    """Knocks out one head after the other, and all together, and reports how accuracy and loss move.

    Args:
      module, variables, batch, loss: as `judge` takes them.
      keys: takes from each head only its weight on these keys (`edits.forbid`) instead of all of it
        (`edits.knock_out`). With the oracle, ``keys=batch.oracle[:, None]``, this is the causal check of a filter: does
        the model need what it looks at there?
      layers: names of attention layers, as `capture_filters` gives them; all by default.

    Raises:
      ValueError: if there is no such layer, or `keys` do not fit the filters of all these layers, or edits do not reach
        them.
      TypeError: if the batch has no inputs, or has no loss.

    Example: nothing is lost with a head that never learned anything.
      >>> import jax, jax.numpy as jnp
      >>> import jattn
      >>> from jattn import tasks
      >>> layout, lengths = tasks.LAYOUTS["encoder"], (8, 8)
      >>> batch = tasks.make_batch(tasks.reverse(10), layout, jax.random.key(0), jnp.arange(32), lengths, room=8)
      >>> model = jattn.Encoder(vocabulary=11, num_heads=2)
      >>> variables = jax.jit(model.init)(jax.random.key(1), **batch.inputs)
      >>> print(jattn.knock_out(model, variables, batch))
      knocked out                token accuracy ...
      nothing ...
      block_0/attention, head 0 ...
      block_0/attention, head 1 ...
      all of these ...
    """
    if isinstance(layers, str):
        raise TypeError(f"layers: expected a list of names, got {layers!r}")
    inputs = _inputs(batch, loss)
    known = _layers(module, variables, **inputs)
    chosen = list(known) if layers is None else list(layers)
    for name in chosen:
        _check_layer("layers", name, known)
    if not chosen:
        raise ValueError(f"layers: expected some of {', '.join(known)}, got none")
    sizes = {name: known[name].shape[-3] for name in chosen}
    keys = None if keys is None else as_mask(keys)
    every_head = {name: _knock_out(keys, jnp.ones(count)) for name, count in sizes.items()}
    _check_edits(module, variables, edits=every_head, **inputs)
    judged = compiled(_judge_all)(_Question(module, loss), variables, batch, keys, _gates(sizes))
    at = 1
    alone = {}
    for name, count in sizes.items():
        alone[name] = jax.tree.map(lambda x, at=at, count=count: x[at : at + count], judged)
        at += count
    return KnockOut(
        before=jax.tree.map(lambda x: x[0], judged), alone=alone, together=jax.tree.map(lambda x: x[-1], judged)
    )


@as_pytree
@dataclasses.dataclass(frozen=True)
class _Question:
    """Whom to judge, and by what; the same question is compiled once."""

    module: Any = static()
    loss: Loss | None = static()


@rule()
class _Placed(Edit):
    """An edit in a model's variables; a filter shows by it that the edit has reached the layer."""

    edit: Edit

    def __repr__(self) -> str:
        return repr(self.edit)

    def __call__(self, weights: Array, grid: Grid) -> Array:
        return self.edit(weights, grid)


def _apply(module: Any, variables: Any, *args: Any, edits: Mapping[str, EditLike], **kwargs: Any) -> Any:
    return as_inspectable(module).apply(_with_edits(module, variables, edits), *args, **kwargs)


def _with_edits(module: Any, variables: Any, edits: Mapping[str, EditLike]) -> Any:
    return as_inspectable(module).with_edits(variables, {name: _Placed(as_edit(edit)) for name, edit in edits.items()})


def _check_edits(module: Any, variables: Any, *args: Any, edits: Any, **kwargs: Any) -> None:
    if not isinstance(edits, Mapping):
        raise TypeError(f"edits: expected a dict of an edit per layer, got {type(edits).__name__}")
    layers = _layers(module, _with_edits(module, variables, edits), *args, **kwargs)
    for name in edits:
        _check_layer("edits", name, layers)
        if not _has_placed(layers[name].program.edit):
            raise ValueError(f"edits: {name!r} {as_inspectable(module).LOST_EDIT}")


def _has_placed(edit: Edit | None) -> bool:
    nodes = jax.tree.leaves(edit, is_leaf=lambda node: isinstance(node, _Placed))
    return any(isinstance(node, _Placed) for node in nodes)


def _inputs(batch: Any, loss: Loss | None) -> Mapping[str, Any]:
    """Returns the arguments that a batch has for a module."""
    inputs = batch.get("inputs") if isinstance(batch, Mapping) else getattr(batch, "inputs", None)
    if not isinstance(inputs, Mapping):
        raise TypeError(
            "batch: expected the module's arguments by name as its attribute or key `inputs`, "
            f"got {type(batch).__name__} with {type(inputs).__name__} there"
        )
    if loss is None and not isinstance(batch, Batch):
        raise TypeError(f"loss: expected a function of (outputs, batch) for a {type(batch).__name__}, got None")
    return inputs


def _knock_out(keys: Mask | None, gates: Float[Array, " N"]) -> Edit:
    return edits_of_filters.knock_out(gates) if keys is None else edits_of_filters.forbid(keys, gates)


def _judge_all(
    question: _Question, variables: Any, batch: Any, keys: Mask | None, gates: dict[str, Float[Array, "cases N"]]
) -> Judgement:
    """Judges every case with one program: which head is out is data."""

    def case(gates: dict[str, Float[Array, " N"]]) -> Judgement:
        return _judge(question, variables, batch, {name: _knock_out(keys, one) for name, one in gates.items()})

    return lax.map(case, gates)


def _judge(question: _Question, variables: Any, batch: Any, edits: Mapping[str, Edit]) -> Judgement:
    answers = _apply(question.module, variables, edits=edits, **_inputs(batch, question.loss))
    if question.loss is not None:
        return Judgement(jnp.asarray(question.loss(answers, batch)))
    right, scored = is_correct(answers, batch), jnp.sum(batch.scored)
    return Judgement(
        loss=jnp.sum(cross_entropy(answers, batch)) / scored,
        token_accuracy=jnp.sum(right & batch.scored) / scored,
        exact_accuracy=jnp.mean(jnp.all(right, axis=-1)),
    )


def _layers(module: Any, variables: Any, *args: Any, **kwargs: Any) -> dict[str, AttentionFilter]:
    """Finds the attention layers of a module; nothing is computed."""
    captured = jax.eval_shape(lambda: as_inspectable(module).capture(variables, *args, **kwargs)[1])
    return in_order({name: filter for name, filter in captured.items() if "#" not in name})


def _check_layer(argument: str, name: str, known: Mapping[str, Any]) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{argument}: expected attention layers among {', '.join(known)}, got {name!r}{hint}")


def _gates(sizes: Mapping[str, int]) -> dict[str, Float[Array, "cases N"]]:
    """Lists the cases: nothing knocked out, each head alone, all together."""
    cases, at, gates = 2 + sum(sizes.values()), 1, {}
    for name, count in sizes.items():
        gates[name] = jnp.zeros((cases, count)).at[at + jnp.arange(count), jnp.arange(count)].set(1).at[-1].set(1)
        at += count
    return gates


_FORMS = {"token_accuracy": ".1%", "exact_accuracy": ".1%", "loss": ".3f"}
"""How the numbers of a judgement are printed."""


def _row(name: str, measured: list[str], judgement: Judgement, before: Judgement | None = None) -> tuple[str, ...]:
    cells = [name]
    for key in measured:
        now = getattr(judgement, key)
        moved = "" if before is None else f" ({float(now - getattr(before, key)):+{_FORMS[key]}})"
        said = f" {percent(float(now), 1)}%" if "%" in _FORMS[key] else f"{float(now): {_FORMS[key]}}"
        cells.append(said + moved)
    return tuple(cells)
