import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis.extra import numpy as arrays
from jax.test_util import check_grads
from numpy.testing import assert_allclose, assert_array_equal

from jattn import attend, attention_filter, masks, normalizers
from jattn.rules.grids import whole_grid
from tests import reference
from tests.sampled import sampled
from tests.variants import HEADS, SCALES, inputs

# What each normalizer does to rows of one head, as the library and as the reference write it.
ROWS = {
    "softmax": (normalizers.softmax(), reference.softmax),
    "softmax_plus_one": (normalizers.softmax_plus_one(0.5), reference.softmax_plus_one([0.5])),
    "sigmoid": (normalizers.sigmoid(-1.0), reference.sigmoid([-1.0])),
    "sparsemax": (normalizers.sparsemax(), reference.entmax(2)),
    "entmax15": (normalizers.entmax15(), reference.entmax(1.5)),
    "top_k": (normalizers.top_k(2), reference.top_k(2)),
}
SUM_TO_ONE = ["softmax", "sparsemax", "entmax15", "top_k"]


def evaluate(normalizer, scores, allowed=None):
    """Normalizes rows of one head."""
    scores = jnp.asarray(scores, jnp.result_type(float))[None]
    grid = whole_grid(scores.shape)
    return normalizer.fit(scores.shape).evaluate(scores, None if allowed is None else jnp.asarray(allowed), grid)[0]


JITTED = {name: jax.jit(functools.partial(evaluate, normalizer)) for name, (normalizer, _) in ROWS.items()}
GRADIENTS = {
    name: jax.jit(jax.grad(lambda scores, allowed, weights=weights: jnp.sum(jnp.cos(weights(scores, allowed)))))
    for name, weights in JITTED.items()
}
softmax, sparsemax, entmax15 = JITTED["softmax"], JITTED["sparsemax"], JITTED["entmax15"]
NORMAL = {"allow_subnormal": False}  # to XLA on a CPU, subnormal numbers are zero
given_scores = hypothesis.given(
    arrays.arrays(np.float32, (3, 5), elements={"min_value": -100, "max_value": 100} | NORMAL)
    | arrays.arrays(np.float32, (3, 5), elements={"min_value": -2, "max_value": 2} | NORMAL),
    arrays.arrays(bool, (3, 5)),
)
hundred_cases = hypothesis.settings(deadline=None, derandomize=True, database=None, max_examples=100)


@pytest.mark.parametrize("name", ROWS)
def test_every_normalizer_is_the_reference(name):
    @hundred_cases
    @given_scores
    def check(scores, allowed):
        expected = [ROWS[name][1](*row) for row in zip(scores.astype(np.float64), allowed, strict=True)]
        assert_allclose(JITTED[name](scores, allowed), expected, rtol=1e-4, atol=2e-6)

    check()


@sampled("name", ROWS, keep=3)
def test_weights_lie_in_the_simplex_or_below_it(name):
    @hundred_cases
    @given_scores
    def check(scores, allowed):
        weights = np.asarray(JITTED[name](scores, allowed))
        assert ((weights >= 0) & (weights <= 1)).all()
        assert_array_equal(weights[~allowed], 0)
        if name in SUM_TO_ONE:
            assert_allclose(weights.sum(axis=-1), allowed.any(axis=-1), atol=1e-6)
        elif name == "softmax_plus_one":
            assert (weights.sum(axis=-1) <= 1 + 1e-6).all()

    check()


@pytest.mark.parametrize("name", ["sparsemax", "entmax15"])
def test_sparse_weights_are_the_optimum(name):
    """Of ``w·s - Ω(w)`` over the simplex: the gradient is the same on the support, and nowhere else larger."""
    alpha = {"sparsemax": 2, "entmax15": 1.5}[name]

    @hundred_cases
    @given_scores
    def check(scores, allowed):
        weights = np.asarray(JITTED[name](scores, allowed), np.float64)
        gradient = scores.astype(np.float64) - weights ** (alpha - 1) / (alpha - 1)
        for row, support, seen in zip(gradient, weights > 0, allowed, strict=True):
            if seen.any():
                assert np.ptp(row[support]) < 2e-5
                assert row[seen].max() < row[support].min() + 2e-5

    check()


@sampled("name", ROWS, keep=4)
def test_a_row_without_its_forbidden_keys_has_the_same_weights(name):
    rng = np.random.default_rng(0)
    allowed = np.array([1, 0, 0, 1, 1, 0, 1, 0, 1], bool)
    scores = 2 * rng.standard_normal((20, 9)).astype(np.float32)
    scores[:5] = scores[:5].round()
    whole = np.asarray(JITTED[name](scores, allowed))
    assert_allclose(whole[:, allowed], JITTED[name](scores[:, allowed]), rtol=1e-6)
    assert_array_equal(whole[:, allowed] > 0, JITTED[name](scores[:, allowed]) > 0)
    assert not ROWS[name][0].needs_whole_rows


def test_a_function_is_given_whole_rows():
    assert normalizers.as_normalizer(relu).needs_whole_rows


@sampled("name", ROWS, keep=2)
def test_weights_move_with_their_keys(name):
    scores = np.random.default_rng(1).standard_normal((4, 6))
    order = np.array([3, 1, 5, 0, 2, 4])
    assert_allclose(JITTED[name](scores[:, order]), JITTED[name](scores)[:, order], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", SUM_TO_ONE)
def test_weights_that_sum_to_one_depend_on_differences_of_scores_only(name):
    scores = np.random.default_rng(1).integers(-8, 8, (4, 6)) / 4
    assert_array_equal(JITTED[name](scores + 1000), JITTED[name](scores))


@sampled("name", ROWS, keep=2)
def test_float64_scores_have_float64_weights(name):
    with jax.enable_x64(True):
        scores = 2 * np.random.default_rng(2).standard_normal((5, 7))
        weights = evaluate(ROWS[name][0], scores)
        assert weights.dtype == jnp.float64
        expected = [ROWS[name][1](row, np.ones(7, bool)) for row in scores]
        assert_allclose(weights, expected, rtol=1e-12, atol=1e-14)


def test_softmax_of_hand_computed_rows():
    assert_allclose(softmax(np.log([[1.0, 3.0, 4.0]]), [[True, True, False]]), [[0.25, 0.75, 0]], rtol=1e-6)
    assert_allclose(softmax(np.log([[1.0, 3.0, 4.0]])), [[1 / 8, 3 / 8, 1 / 2]], rtol=1e-6)


def test_a_sink_takes_its_share():
    scores = np.log([[1.0, 2.0, 4.0]])
    assert_allclose(evaluate(normalizers.softmax_plus_one(), scores), [[1 / 8, 2 / 8, 4 / 8]], rtol=1e-6)
    assert_allclose(evaluate(normalizers.softmax_plus_one(np.log(9)), scores), [[1 / 16, 2 / 16, 4 / 16]], rtol=1e-6)
    assert_allclose(evaluate(normalizers.softmax_plus_one(-np.inf), scores), softmax(scores), rtol=1e-6)
    assert_array_equal(evaluate(normalizers.softmax_plus_one(-np.inf), scores, False), [[0, 0, 0]])


def test_sigmoid_of_hand_computed_rows():
    assert_allclose(evaluate(normalizers.sigmoid(), np.log([[1, 3, 1 / 4]])), [[1 / 2, 3 / 4, 1 / 5]], rtol=1e-6)
    assert_allclose(evaluate(normalizers.sigmoid(np.log(2)), np.log([[1, 3]])), [[2 / 3, 6 / 7]], rtol=1e-6)


def test_sigmoid_with_its_recommended_bias_sums_to_about_one():
    keys = 10_000
    assert_allclose(evaluate(normalizers.sigmoid(-np.log(keys)), np.zeros((1, keys))).sum(), 1, rtol=1e-3)


def test_sparsemax_of_hand_computed_rows():
    assert_allclose(sparsemax([[0.2, 0.0, -0.4]]), [[0.6, 0.4, 0]], rtol=1e-5)
    assert_allclose(sparsemax([[1.5, 0.4, 0.5]]), [[1, 0, 0]])
    assert_allclose(sparsemax([[0.5, 0.2, 0.2]]), [[1 / 3 + 0.2, 1 / 3 - 0.1, 1 / 3 - 0.1]], rtol=1e-5)


def test_entmax15_of_hand_computed_rows():
    assert_allclose(entmax15([[1.2, 0.8, -0.4]]), [[0.64, 0.36, 0]], rtol=1e-5)  # 0.8², 0.6², threshold -0.2
    assert_allclose(entmax15([[2, 0, -1]]), [[1, 0, 0]])
    two_thirds, third = 2 / 3, 1 / 3  # (2/3)² + (2/3)² + (1/3)² = 1
    assert_allclose(entmax15([[1, 1, 1 / 3]]), [[two_thirds**2, two_thirds**2, third**2]], rtol=1e-5)


@sampled("name", ["softmax", "sparsemax", "entmax15"], keep=2)
@pytest.mark.parametrize("keys", [1, 2, 3, 100_003])
def test_equal_scores_have_equal_weights(name, keys):
    weights = evaluate(ROWS[name][0], np.full((1, keys), 7.3))
    assert_allclose(weights, np.full((1, keys), 1 / keys), rtol=2e-6)


@pytest.mark.parametrize("name", ["sparsemax", "entmax15"])
@pytest.mark.parametrize("spread", [1e-4, 1e-2, 1, 100])
def test_long_rows_are_the_reference(name, spread):
    scores = (spread * np.random.default_rng(3).standard_normal((1, 20_000))).astype(np.float32)
    weights = np.asarray(JITTED[name](scores))
    assert_allclose(weights, [ROWS[name][1](scores[0].astype(np.float64), np.ones(20_000, bool))], atol=1e-6, rtol=1e-2)
    assert_allclose(np.sum(weights, dtype=np.float64), 1, rtol=1e-5)


@pytest.mark.exhaustive
def test_of_equal_scores_the_first_are_among_the_largest():
    scores = [[1.0, 2.0, 1.0, 1.0, 0.0]]
    third = 1 / (1 + np.e)
    assert_allclose(evaluate(normalizers.top_k(2), scores), [[third, 1 - third, 0, 0, 0]], rtol=1e-6)
    assert_array_equal(evaluate(normalizers.top_k(2), scores, np.arange(5) >= 2) > 0, [[0, 0, 1, 1, 0]])
    assert_array_equal(evaluate(normalizers.top_k(2), np.zeros((1, 4))), [[0.5, 0.5, 0, 0]])


@pytest.mark.parametrize("row", [[-0.0, 0.0, -0.0], [0.0, -0.0, 0.0]])
def test_zero_and_minus_zero_are_equal_scores(row):
    top_1 = normalizers.top_k(1)
    assert_array_equal(evaluate(top_1, [row]), [[1, 0, 0]])
    assert_array_equal(jax.jit(functools.partial(evaluate, top_1))(jnp.array([row])), [[1, 0, 0]])


@pytest.mark.exhaustive
def test_top_k_of_more_keys_than_there_are_is_the_softmax():
    scores, allowed = np.random.default_rng(0).standard_normal((3, 4)), np.array([True, False, True, True])
    for k in (3, 4, 99):
        assert_allclose(evaluate(normalizers.top_k(k), scores, allowed), softmax(scores, allowed), rtol=1e-6)


@sampled("name", ROWS, keep=3)
@pytest.mark.parametrize("size", [1e4, 1e30, 3e38])
def test_scores_of_any_size_have_finite_weights_and_gradients(name, size):
    scores = jnp.array([[size, 0.0, -size], [-size, -size, -size], [size, size, 0.0], [0.0, 1.0, -size]])
    allowed = jnp.array([[True] * 3, [True] * 3, [False, True, True], [True, True, False]])
    for mask in (jnp.full((4, 3), True), allowed):
        weights = JITTED[name](scores, mask)
        assert np.isfinite(weights).all()
        assert_array_equal(weights[0, 0], 1)
        if name in SUM_TO_ONE:
            assert_allclose(weights.sum(axis=-1), 1, rtol=1e-6)
        assert np.isfinite(GRADIENTS[name](scores, mask)).all()


@sampled("name", ROWS, keep=2)
@pytest.mark.parametrize("shape", [(1, 2, 0, 5), (1, 2, 3, 0), (0, 2, 3, 5), (1, 2, 3, 1)])
def test_no_rows_no_keys_or_one(name, shape):
    normalizer, rule = ROWS[name]

    @jax.jit
    def look(scores):
        def of(allowed):
            weights, pull = jax.vjp(lambda x: normalizer.evaluate(x, allowed, whole_grid(shape)), scores)
            return weights, pull(weights)[0]

        return of(None), of(jnp.array(False))

    expected = rule(np.full(shape[-1], np.float32(0.7)), np.ones(shape[-1], bool))
    for (weights, gradient), share in zip(look(np.full(shape, np.float32(0.7))), (1, 0), strict=True):
        assert weights.shape == gradient.shape == shape
        assert_allclose(weights, np.broadcast_to(expected * share, shape), rtol=1e-5)


@sampled("name", ROWS, keep=3)
def test_minus_infinity_is_a_forbidden_key(name):
    scores = np.array([[0, -np.inf, 1], [-np.inf] * 3], np.float32)
    weights = JITTED[name](scores, True)
    assert_array_equal(weights, JITTED[name](np.where(np.isinf(scores), 0, scores), ~np.isinf(scores)))
    assert_array_equal(weights[1], 0)
    assert_array_equal(weights[0, 1], 0)
    assert np.isfinite(GRADIENTS[name](scores, True)).all()


@pytest.mark.parametrize("name", ROWS)
def test_a_score_that_is_nan_is_seen(name):
    for k in range(3):
        weights = JITTED[name](np.where(np.arange(3) == k, np.nan, [[1.0, 0.0, -1.0]]), True)
        assert np.isnan(weights[0, k])


@sampled("name", ROWS, keep=1)
def test_gradients_are_those_of_finite_differences(name):
    allowed = jnp.array([[True] * 4, [True, True, False, True], [False] * 4, [False, True, False, False]])
    with jax.enable_x64(True):
        scores = jnp.asarray(np.random.default_rng(0).standard_normal((4, 4)))
        check_grads(jax.jit(lambda x: evaluate(ROWS[name][0], x, allowed)), (scores,), order=2, modes=("fwd", "rev"))


@sampled("make", [normalizers.softmax_plus_one, normalizers.sigmoid], keep=1)
def test_parameters_have_the_gradients_of_finite_differences(make):
    allowed = jnp.array([[True, True, False, True], [False] * 4, [False, True, False, False]])
    with jax.enable_x64(True):
        scores, parameter = map(jnp.asarray, (np.random.default_rng(0).standard_normal((2, 3, 4)), SCALES[:2]))
        grid = whole_grid(scores.shape)

        def weights(scores, parameter):
            return make(parameter[:, None, None]).fit(scores.shape).evaluate(scores, allowed, grid)

        check_grads(jax.jit(weights), (scores, parameter.astype(scores.dtype)), order=2, modes=("fwd", "rev"))
        of_empty_row = jax.jit(jax.grad(lambda parameter: weights(scores, parameter)[:, 1].sum()))(parameter)
        assert_array_equal(of_empty_row, 0)


@pytest.mark.exhaustive
@sampled(
    ("heads", "make"),
    [
        ("walked", normalizers.softmax_plus_one),
        ("walked", normalizers.sigmoid),
        ("at once", normalizers.softmax_plus_one),
    ],
    indirect=["heads"],
    keep=1,
)
def test_a_parameter_by_head_has_the_same_gradient_in_walked_blocks(heads, make):
    arguments = inputs()

    def gradient(**call):
        def loss(parameter):
            return jnp.sum(jnp.cos(attend(*arguments, normalizer=make(parameter), mask=masks.causal(-1), **call)))

        return jax.jit(jax.grad(loss))(jnp.asarray(SCALES).reshape(HEADS, 1, 1))

    dense = gradient(implementation="dense")
    assert_allclose(gradient(block_size=3), dense, rtol=1e-4, atol=1e-6)
    assert np.all(dense != 0)


@sampled("shape", [(), (1,), (7, 1), (4, 7, 1), (2, 4, 7, 1), (2, 1, 1, 1)], keep=1)
def test_a_sink_may_differ_by_batch_entry_head_and_query(shape):
    query, key, _ = inputs()
    sink = jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)
    for block_size in (None, 3):
        filter = attention_filter(query, key, normalizer=normalizers.softmax_plus_one(sink), block_size=block_size)
        exponentials = np.exp(filter.scores())
        expected = exponentials / (np.exp(sink) + exponentials.sum(axis=-1, keepdims=True))
        assert_allclose(filter.weights(), expected, rtol=1e-5)


def test_a_number_belongs_to_the_structure_and_an_array_is_a_leaf():
    assert jax.tree.leaves(normalizers.softmax_plus_one(2.0)) == []
    assert len(jax.tree.leaves(normalizers.sigmoid(jnp.array(2.0)))) == 1
    assert normalizers.top_k(2) == normalizers.top_k(np.int64(2)) != normalizers.top_k(3)
    assert hash(normalizers.top_k(2)) == hash(normalizers.top_k(2))


@sampled("name", ROWS, keep=2)
def test_forbidden_scores_may_be_anything(name):
    allowed = np.array([[True, True, False], [False] * 3])

    def loss(scores):
        return jnp.sum(jnp.cos(JITTED[name](scores, allowed)))

    @jax.jit
    def look(scores):
        return JITTED[name](scores, allowed), [f(loss)(scores) for f in (jax.grad, jax.jacfwd, jax.hessian)]

    clean, of_clean = look(np.float32(allowed))
    for bad in (np.nan, np.inf, -np.inf):
        weights, derivatives = look(np.where(allowed, np.float32(1), np.float32(bad)))
        assert_array_equal(weights, clean)
        for found, expected in zip(derivatives, of_clean, strict=True):
            assert_array_equal(found, expected)
            assert np.isfinite(found).all()
            assert_array_equal(found[1], 0)


@sampled("name", ROWS, keep=2)
def test_normalizers_pass_through_vmap(name):
    scores = jnp.asarray(np.random.default_rng(4).standard_normal((3, 2, 5)))
    expected = [JITTED[name](rows) for rows in scores]
    assert_allclose(jax.vmap(functools.partial(evaluate, ROWS[name][0]))(scores), expected, rtol=1e-6)


def relu(scores, allowed):
    """Rows need not sum to one, and know nothing of the mask."""
    return jnp.maximum(scores, 0) + 1


@sampled("block_size", [None, 2], keep=1)
def test_a_function_may_normalize(block_size):
    query, key, value = jax.random.normal(jax.random.key(0), (3, 5, 2, 4))
    filter = attention_filter(query, key, normalizer=relu, mask=masks.causal(), block_size=block_size)
    expected = (np.maximum(filter.scores(), 0) + 1) * np.tri(5)
    assert_allclose(filter.weights(), expected, rtol=1e-6)
    out = attend(query, key, value, normalizer=relu, mask=masks.causal(), block_size=block_size)
    assert_allclose(out, reference.average(expected, value), rtol=1e-5)


def test_a_function_gets_the_mask_of_every_key():
    seen = []

    def spy(scores, allowed):
        seen.append((scores.shape, allowed.shape, allowed.dtype))
        return jax.nn.softmax(scores, where=allowed)

    query = jnp.ones((5, 2, 4))
    attention_filter(query, query, normalizer=spy, mask=masks.causal()).weights()
    attention_filter(query, query, normalizer=spy).weights()
    assert seen == [((2, 5, 5), (2, 5, 5), jnp.bool_)] * 2
