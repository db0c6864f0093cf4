import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from numpy.testing import assert_allclose, assert_array_equal

import jattn
from jattn import MultiHeadAttention, apply_with_edits, attention_filter, capture_filters, edits, masks, rollout, tasks
from jattn.study.interventions import Judgement, KnockOut
from tests.sampled import sampled
from tests.variants import drawn_like, inputs, rng

close = functools.partial(assert_allclose, rtol=1e-5, atol=1e-5)

X = jnp.asarray(rng(0).standard_normal((2, 5, 8)), jnp.float32)
LATER = masks.from_function(lambda query, key: key > query)

# Editing the filters of a model


@sampled("own", [None, edits.knock_out([1])], ids=["no edit of its own", "its own edit first"], keep=1)
def test_an_edit_from_outside_is_the_edit_of_the_layer(own):
    edit = edits.force(np.float32([0.5, 0, 0, 0.25, 0]), jnp.array([0.0, 1.0]))
    layer = MultiHeadAttention(num_heads=2, edit=own)
    variables = drawn_like(layer, X)
    expected = layer.clone(edit=edit if own is None else edits.in_turn(own, edit)).apply(variables, X, mask=LATER)
    found = apply_with_edits(layer, variables, X, edits={"attention": edit}, mask=LATER)
    assert_array_equal(found, expected)
    assert np.any(found != layer.apply(variables, X, mask=LATER))


class Model(nn.Module):
    """Layers in modules, one of which is called twice."""

    edit: Callable = None
    edit_of_shared: Callable = None

    @nn.compact
    def __call__(self, x, mask=None):
        shared = MultiHeadAttention(num_heads=2, name="shared", edit=self.edit_of_shared)
        x = shared(shared(x), mask=mask)
        return Inner(self.edit, name="inner")(x, mask)


class Inner(nn.Module):
    """A layer under remat, and one with an edit."""

    edit: Callable = None

    @nn.compact
    def __call__(self, x, mask):
        x = nn.remat(MultiHeadAttention)(num_heads=2, name="attention")(x, mask=mask)
        return MultiHeadAttention(num_heads=1, name="other", edit=self.edit)(x)


def test_edits_reach_the_layers_that_they_name_under_jit():
    """Nested ones, all calls of one, several at a time; what they hold is data."""
    # Halved, so that scores stay small and four layers do not magnify what rounding differs by.
    variables, traced = jax.tree.map(lambda x: x / 2, drawn_like(Model(), X)), []

    @jax.jit
    def look(shares):
        traced.append(shares)
        of_shared, of_other = edits.forbid(masks.prefix(2), shares), edits.knock_out(shares[:1])
        found = apply_with_edits(
            Model(), variables, X, masks.causal(), edits={"inner/other": of_other, "shared": of_shared}
        )
        return found, Model(of_other, of_shared).apply(variables, X, masks.causal())

    for shares in ([0.3, 1.0], [0.0, 0.0]):
        found, expected = look(jnp.array(shares))
        close(found, expected)
    assert len(traced) == 1
    close(found, Model().apply(variables, X, masks.causal()))


@pytest.mark.parametrize("name", ["attention", "cross_attention"])
def test_a_layer_named_attention_may_also_be_part_of_a_module(name):
    """A silent layer is one whose heads are joined with zeros."""
    block = jattn.Block(num_heads=2, hidden=4)
    variables = drawn_like(block, X, X)
    found = apply_with_edits(block, variables, X, X, edits={name: edits.knock_out()})
    zeroed = jax.tree_util.tree_map_with_path(
        lambda path, x: 0 * x if [p.key for p in path[1:]] == [name, "out", "kernel"] else x, variables
    )
    close(found, block.apply(zeroed, X, X))
    assert np.any(found != block.apply(variables, X, X))


@pytest.mark.exhaustive
def test_the_filter_of_another_input_may_be_swapped_in():
    """A model of one layer then attends in one sentence as in the other."""
    model = jattn.Encoder(vocabulary=10, width=8, hidden=4, num_heads=2)
    tokens, other = jnp.array([[1, 2, 3]]), jnp.array([[4, 5, 6]])
    variables = drawn_like(model, tokens)

    @jax.jit
    def look(variables):
        _, filters = capture_filters(model, variables, other)
        swap = {"block_0/attention": edits.swap(filters["block_0/attention"])}
        force = {"block_0/attention": edits.force(filters["block_0/attention"].weights())}
        return [apply_with_edits(model, variables, x, edits=e) for x in (tokens, other) for e in (swap, force)], [
            model.apply(variables, x) for x in (tokens, other)
        ]

    (swapped, forced, same, again), (plain, plain_other) = look(variables)
    close(swapped, forced)
    close(same, plain_other)
    close(again, plain_other)
    assert not np.allclose(swapped, plain, atol=1e-3)


class Stack(nn.Module):
    """Three layers, scanned over."""

    options: tuple = ()
    edits: tuple = (None, None, None)

    @nn.compact
    def __call__(self, x):
        if not self.options:
            for index, edit in enumerate(self.edits):
                x = MultiHeadAttention(num_heads=2, name=f"layer_{index}", edit=edit)(x)
            return x
        options = dict(self.options)
        axes = {"params": 0, "filters": 0} | dict(options.pop("variable_axes", ()))
        step = nn.remat(lambda layer, x, _: (layer(x), None))
        scan = nn.scan(step, variable_axes=axes, split_rngs={"params": True}, length=3, **options)
        return scan(MultiHeadAttention(num_heads=2, name="layers"), x, None)[0]


@pytest.mark.exhaustive
def test_edits_reach_scanned_layers_or_are_refused():
    """Flax's scan holds back collections that it is not told of: then nothing would be edited, and nobody be told."""
    unrolled = drawn_like(Stack(), X)
    layers = [unrolled["params"][f"layer_{index}"] for index in range(3)]
    variables = {"params": {"layers": jax.tree.map(lambda *x: jnp.stack(x), *layers)}}
    gates = jnp.array([[0.0, 1.0], [0.5, 0.0], [1.0, 1.0]])

    same = {"layers": edits.knock_out(gates[0])}
    expected = Stack(edits=(edits.knock_out(gates[0]),) * 3).apply(unrolled, X)
    found = apply_with_edits(Stack((("variable_broadcast", "edits"),)), variables, X, edits=same)
    close(found, expected)

    each = {"layers": edits.knock_out(gates)}
    expected = Stack(edits=tuple(map(edits.knock_out, gates))).apply(unrolled, X)
    found = apply_with_edits(Stack((("variable_axes", (("edits", 0),)),)), variables, X, edits=each)
    close(found, expected)

    model = Stack((("variable_axes", ()),))
    with pytest.raises(
        ValueError, match="edits: 'layers' does not read the collection 'edits'; expected flax's scan to"
    ):
        apply_with_edits(model, variables, X, edits=same)


WRONG_EDITS = {
    "no such layer": (
        {"inner/atention": edits.knock_out()},
        ValueError,
        "edits: expected attention layers among inner/attention, inner/other, shared, got 'inner/atention'; "
        "did you mean 'inner/attention'",
    ),
    "nothing like it": ({"zzz": edits.knock_out()}, ValueError, "among inner/attention, .* got 'zzz'$"),
    "a later call": ({"shared#1": edits.knock_out()}, ValueError, "got 'shared#1'; did you mean 'shared'"),
    "an edit without a layer": (edits.knock_out(), TypeError, "edits: expected a dict of an edit per layer, got"),
    "a layer without an edit": (
        {"shared": None},
        TypeError,
        r"edit: expected a jattn edit or .* got NoneType",
    ),
    "heads": ({"shared": edits.knock_out([2])}, ValueError, "heads: head index 2 is out of range for 2 heads"),
    "sizes": (
        {"shared": edits.swap(attention_filter(jnp.zeros((4, 2, 4)), jnp.zeros((4, 2, 4))))},
        ValueError,
        r"swap: expected a filter of shape \(2, 2, 5, 5\), got \(2, 4, 4\)",
    ),
}


@pytest.mark.parametrize("name", WRONG_EDITS)
def test_edits_of_a_model_say_what_is_wrong(name):
    wrong, error, text = WRONG_EDITS[name]
    with pytest.raises(error, match=text):
        apply_with_edits(Model(), drawn_like(Model(), X), X, edits=wrong)


@pytest.mark.exhaustive
def test_layers_are_listed_by_number():
    model = jattn.Encoder(vocabulary=5, num_layers=11, width=4, hidden=4)
    tokens = jnp.zeros((1, 3), jnp.int32)
    with pytest.raises(ValueError, match=r"block_2/attention, .*, block_10/attention, got 'block_11/attention'"):
        apply_with_edits(model, drawn_like(model, tokens), tokens, edits={"block_11/attention": edits.knock_out()})


# Judging


class Answers(nn.Module):
    """Returns the logits that it was given."""

    @nn.compact
    def __call__(self, logits):
        return logits


def test_a_judgement_is_restated():
    logits = rng(1).standard_normal((4, 3, 5)).astype(np.float32)
    targets, scored = logits.argmax(axis=-1), np.ones((4, 3), bool)
    targets[0, 1] += 1  # one wrong answer
    targets[1, 2] += 1  # a wrong answer where none is asked for
    scored[1, 1:], scored[2, 0] = False, False
    targets %= 5
    batch = tasks.Batch({"logits": logits}, targets, scored, np.zeros((4, 3, 3), bool))
    judged = jax.jit(lambda batch: jattn.judge(Answers(), {}, batch))(batch)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    losses = -np.log(np.take_along_axis(probabilities, targets[..., None], axis=-1))[..., 0]
    close(judged.loss, losses[scored].mean())
    close(judged.token_accuracy, 8 / 9)
    close(judged.exact_accuracy, 3 / 4)


def squared(out, batch):
    return jnp.mean((out - batch["wanted"]) ** 2)


OWN = {"inputs": {"inputs_q": X}, "wanted": jnp.sin(X)}


def test_a_batch_and_a_loss_of_ones_own_are_judged():
    layer = MultiHeadAttention(num_heads=2)
    variables = drawn_like(layer, X)
    found = jattn.knock_out(layer, variables, OWN, loss=squared)
    close(found.before.loss, squared(layer.apply(variables, X), OWN))
    for head, alone in enumerate(found.alone["attention"].loss):
        out = apply_with_edits(layer, variables, X, edits={"attention": edits.knock_out([head])})
        close(alone, squared(out, OWN))
        of_one = jattn.judge(layer, variables, OWN, loss=squared, edits={"attention": edits.knock_out([head])})
        close(of_one.loss, alone)
    assert (found.before.token_accuracy, of_one.exact_accuracy) == (None, None)
    lines = str(found).splitlines()
    assert lines[0].split() == ["knocked", "out", "loss"]
    assert len(lines) == 5


@pytest.mark.parametrize(
    ("batch", "text"),
    [
        (OWN, r"loss: expected a function of \(outputs, batch\) for a dict, got None"),
        ({"wanted": X}, "batch: expected the module's arguments by name as its attribute or key `inputs`, got dict"),
        ([X], "batch: expected the module's arguments by name as its attribute or key `inputs`, got list"),
    ],
)
def test_a_batch_that_cannot_be_judged_is_refused(batch, text):
    layer = MultiHeadAttention(num_heads=2)
    with pytest.raises(TypeError, match=text):
        jattn.judge(layer, drawn_like(layer, X), batch)


def test_a_loss_may_close_over_what_is_differentiated():
    layer = MultiHeadAttention(num_heads=2)
    variables = drawn_like(layer, X)

    def loss(scale):
        return jattn.judge(layer, variables, OWN, loss=lambda out, batch: scale * squared(out, batch)).loss

    close(jax.grad(loss)(2.0), squared(layer.apply(variables, X), OWN))


def test_a_knock_out_prints_as_a_table():
    before, alone = Judgement(jnp.array(0.5), jnp.array(0.75), jnp.array(1.0)), jnp.array([[0.25, 1.5]])
    shown = KnockOut(before, {"block_0/attention": jax.tree.map(jnp.squeeze, Judgement(alone, alone, alone))}, before)
    assert str(shown).splitlines() == [
        "knocked out                  token accuracy    exact accuracy             loss",
        "nothing                               75.0%            100.0%            0.500",
        "block_0/attention, head 0    25.0% (-50.0%)    25.0% (-75.0%)   0.250 (-0.250)",
        "block_0/attention, head 1   150.0% (+75.0%)   150.0% (+50.0%)   1.500 (+1.000)",
        "all of these                  75.0% (+0.0%)    100.0% (+0.0%)   0.500 (+0.000)",
    ]
    html = shown._repr_html_()
    assert html.count("<tr>") == 5
    assert ">block_0/attention, head 1</td>" in html
    assert ">150.0% (+75.0%)</td>" in html


# Knocking out


@functools.cache
def solver():
    """Trains a model that says its input backwards, and never heard its second head, which goes on whispering."""
    model = jattn.Encoder(vocabulary=11, num_heads=2, width=16, hidden=32)
    layout, lengths = tasks.LAYOUTS["encoder"], (6, 6)
    make = functools.partial(tasks.make_batch, tasks.reverse(10), layout, lengths=lengths, room=6)
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, 200))
    second = {"block_0/attention": edits.knock_out([1])}

    @jax.jit
    def train(rng):
        params = model.init(rng, **make(rng, jnp.arange(64)).inputs)["params"]
        kernel = params["block_0"]["attention"]["out"]["kernel"]
        params["block_0"]["attention"]["out"]["kernel"] = kernel.at[1].multiply(0.1)

        def step(index, state):
            params, optimizer_state = state
            batch = make(rng, 64 * index + jnp.arange(64))
            gradients = jax.grad(lambda p: jattn.judge(model, {"params": p}, batch, edits=second).loss)(params)
            updates, optimizer_state = optimizer.update(gradients, optimizer_state)
            return optax.apply_updates(params, updates), optimizer_state

        return jax.lax.fori_loop(0, 200, step, (params, optimizer.init(params)))[0]

    return model, {"params": train(jax.random.key(0))}, jax.jit(make)(jax.random.key(1), jnp.arange(128))


def judged(model, batch):
    """Compiles a judgement with some shares of some heads knocked out."""

    @jax.jit
    def judge(variables, shares):
        edited = {layer: edits.knock_out(share) for layer, share in shares.items()}
        return jattn.judge(model, variables, batch, edits=edited)

    return judge


@pytest.mark.exhaustive
def test_a_solver_needs_the_head_that_found_the_oracle_and_not_the_other():
    model, variables, batch = solver()

    @jax.jit
    def filter_score(variables):
        _, filters = capture_filters(model, variables, **batch.inputs)
        return filters["block_0/attention"].mass(batch.oracle[:, None]).mean(axis=(0, 2))

    scores = filter_score(variables)
    assert scores[0] > 0.8 > 0.4 > scores[1]
    found = jattn.knock_out(model, variables, batch)
    alone, judge = found.alone["block_0/attention"], judged(model, batch)
    assert found.before.exact_accuracy > 0.95
    assert alone.token_accuracy[0] < 0.4
    assert alone.exact_accuracy[0] < 0.05
    assert alone.loss[0] > found.before.loss + 1
    assert alone.exact_accuracy[1] > 0.95
    assert alone.loss[1] != found.before.loss
    assert found.together.token_accuracy < 0.4
    cases = [found.before, *(jax.tree.map(lambda x, head=head: x[head], alone) for head in (0, 1)), found.together]
    for case, shares in zip(cases, ([0, 0], [1, 0], [0, 1], [1, 1]), strict=True):
        jax.tree.map(close, case, judge(variables, {"block_0/attention": jnp.array(shares, jnp.float32)}))
    lines = str(found).splitlines()
    assert len(lines) == 5
    assert lines[2].startswith("block_0/attention, head 0")
    assert f"{alone.token_accuracy[0]:.1%}" in lines[2]


def test_a_solver_needs_the_keys_of_the_oracle_and_no_others():
    model, variables, batch = solver()
    for keys, needed in [(batch.oracle, True), (jnp.roll(batch.oracle, 1, axis=-1), False)]:
        found = jattn.knock_out(model, variables, batch, keys=keys[:, None])
        assert found.before.exact_accuracy > 0.95
        for case in (jax.tree.map(lambda x: x[0], found.alone["block_0/attention"]), found.together):
            assert (case.token_accuracy < 0.5) == needed
            assert (case.exact_accuracy > 0.95) != needed


@pytest.mark.exhaustive
def test_layers_are_knocked_out_in_the_order_in_which_they_are_named():
    model = jattn.Encoder(vocabulary=5, num_layers=2, num_heads=2, width=8, hidden=4)
    batch = tasks.make_batch(tasks.reverse(4), tasks.LAYOUTS["encoder"], jax.random.key(0), jnp.arange(4), (2, 3), 3)
    variables = drawn_like(model, **batch.inputs)
    layers = ["block_1/attention", "block_0/attention"]
    found, judge = jattn.knock_out(model, variables, batch, layers=layers), judged(model, batch)
    assert list(found.alone) == layers
    none = dict.fromkeys(layers, jnp.zeros(2))
    for layer in layers:
        for head in range(2):
            case = jax.tree.map(lambda x, head=head: x[head], found.alone[layer])
            jax.tree.map(close, case, judge(variables, none | {layer: jnp.zeros(2).at[head].set(1)}))
    jax.tree.map(close, found.together, judge(variables, dict.fromkeys(layers, jnp.ones(2))))
    assert found.alone[layers[0]].loss[0] != found.before.loss != found.alone[layers[1]].loss[1]
    for wrong, text in [
        (
            {"layers": ["block_0/atention"]},
            "layers: expected .* got 'block_0/atention'; did you mean 'block_0/attention'",
        ),
        ({"layers": []}, "layers: expected some of block_0/attention, block_1/attention, got none"),
        ({"keys": jnp.ones(4, bool)}, r"forbid: keys: expected a shape .* got \(4,\)"),
    ]:
        with pytest.raises(ValueError, match=text):
            jattn.knock_out(model, variables, batch, **wrong)
    with pytest.raises(ValueError, match=r"edits: expected .* got 'encoder'"):
        jattn.judge(model, variables, batch, edits={"encoder": edits.knock_out()})


# Rollout


def chain(**sizes):
    """Makes three filters over the same tokens, two of them causal, of two heads each but for the last."""
    made = [inputs(6, 6, heads=2, kv_heads=1, seed=seed, **sizes)[:2] for seed in (1, 2)]
    made.append(inputs(6, 6, heads=3, kv_heads=3, seed=3, **sizes)[:2])
    rules = (None, masks.causal(), masks.causal())
    return [attention_filter(*sides, mask=mask, block_size=4) for sides, mask in zip(made, rules, strict=True)]


def rolled(weights, residual):
    """Multiplies whole matrices."""
    product = np.eye(6)
    for layer in weights:
        layer = np.asarray(layer, np.float64).mean(axis=-3)
        product = (residual * np.eye(6) + (1 - residual) * layer) @ product
    return product


def test_a_rollout_is_a_product_of_matrices():
    filters = chain()

    @jax.jit
    def look(filters):
        weights = [filter.weights() for filter in filters]
        some = rollout(filters, [4, -6, 4], residual=0.5)
        return weights, [rollout(filters, residual=residual) for residual in (0, 0.5, 1.0)], some

    weights, found, some = look(filters)
    for residual, product in zip((0, 0.5, 1), found, strict=True):
        expected = np.broadcast_to(rolled(weights, residual), (2, 6, 6))
        close(product, expected)
        close(product.sum(axis=-1), np.ones((2, 6)))
    close(some, found[1][:, [4, 0, 4]])
    assert not np.allclose(found[0], rolled(weights[::-1], 0), atol=1e-3)


@pytest.mark.exhaustive
def test_the_filters_of_a_model_are_rolled_out_in_the_order_of_its_layers():
    """Also if they come out of jit, which sorts them as text."""
    filters = {f"block_{number}/attention": filter for number, filter in zip((2, 9, 10), chain(batch=()), strict=True)}
    expected = rolled([filter.weights() for filter in filters.values()], 0.25)
    through_jit = jax.jit(lambda filters: filters)(filters)
    assert next(iter(through_jit)) == "block_10/attention"
    close(rollout(through_jit, residual=0.25), expected)
    close(rollout(list(filters.values()), residual=0.25), expected)
    assert rollout(filters, []).shape == (0, 6)


@pytest.mark.exhaustive
def test_a_rollout_has_finite_gradients():
    """Those of finite differences."""
    filters = chain(batch=())
    target = jnp.asarray(rng(5).standard_normal(6), jnp.float32)

    @jax.jit
    @jax.value_and_grad
    def loss(query):
        first = attention_filter(query, filters[0].key)
        return rollout([first, *filters[1:]], [5])[0] @ target

    query, along = filters[0].query, jnp.asarray(rng(6).standard_normal(filters[0].query.shape), jnp.float32)
    _, gradient = loss(query)
    assert np.isfinite(gradient).all()
    change = (loss(query + 1e-2 * along)[0] - loss(query - 1e-2 * along)[0]) / 2e-2
    assert_allclose(jnp.sum(gradient * along), change, rtol=2e-2)


SQUARE = attention_filter(jnp.zeros((4, 1, 2)), jnp.zeros((4, 1, 2)))
WRONG_ROLLOUTS = {
    "none": (([],), {}, ValueError, "filters: expected at least one, got none"),
    "one alone": (
        (SQUARE,),
        {},
        TypeError,
        "filters: expected a list or a dict of AttentionFilter, got AttentionFilter",
    ),
    "an array": (([jnp.eye(4)],), {}, TypeError, "filters: expected a list or a dict of AttentionFilter, got one "),
    "a number": ((3,), {}, TypeError, "filters: expected a list or a dict of AttentionFilter, got int"),
    "not square": (
        ([attention_filter(jnp.zeros((4, 1, 2)), jnp.zeros((5, 1, 2)))],),
        {},
        ValueError,
        r"filters: expected square ones over the same tokens, got \[\(1, 4, 5\)\]",
    ),
    "other tokens": (
        ([SQUARE, attention_filter(jnp.zeros((5, 1, 2)), jnp.zeros((5, 1, 2)))],),
        {},
        ValueError,
        r"filters: expected .* got \[\(1, 4, 4\), \(1, 5, 5\)\]",
    ),
    "residual above 1": (
        ([SQUARE],),
        {"residual": 1.5},
        ValueError,
        r"residual: expected a number in \[0, 1\], got 1.5",
    ),
    "residual, text": (([SQUARE],), {"residual": "half"}, ValueError, "residual: expected .* got 'half'"),
    "queries, one": (([SQUARE], 3), {}, TypeError, "queries: expected a list of positions or None, got 3"),
    "queries, floats": (
        ([SQUARE], [0.5]),
        {},
        TypeError,
        r"queries: expected a list of positions or None, got \[0.5\]",
    ),
    "queries, out of range": (([SQUARE], [0, 4]), {}, ValueError, "queries: index 4 is out of range for 4 tokens"),
}


@pytest.mark.parametrize("name", WRONG_ROLLOUTS)
def test_rollouts_say_what_is_wrong(name):
    arguments, options, error, text = WRONG_ROLLOUTS[name]
    with pytest.raises(error, match=text):
        rollout(*arguments, **options)
