"""Filters by layer: a plain dict to everything but a notebook and a pytree."""

import copy
import json
import pickle

import jax
import jax.numpy as jnp
import pytest
from flax import traverse_util

from jattn import attention_filter
from jattn.filters.by_layer import SHOWN, FiltersByLayer


@pytest.fixture(scope="module")
def filter():
    return attention_filter(jnp.zeros((3, 1, 4)), jnp.zeros((3, 1, 4)))


@pytest.fixture(scope="module")
def filters(filter):
    return FiltersByLayer({"block_2/attention": filter, "block_10/<b>": filter})


def test_it_is_the_plain_dict(filters):
    plain = dict(filters)
    assert filters == plain
    assert isinstance(filters, dict)
    assert repr(filters) == repr(plain)
    assert type(filters | plain) is type({**filters}) is type(filters.copy()) is dict
    assert [*copy.deepcopy(filters)] == [*pickle.loads(pickle.dumps(filters))] == [*plain]
    assert json.dumps(FiltersByLayer({"a": 1})) == '{"a": 1}'
    assert [*traverse_util.flatten_dict({"model": filters}, sep=":")] == [
        "model:block_2/attention",
        "model:block_10/<b>",
    ]


def test_as_a_pytree_it_keeps_its_order_and_has_the_leaves_of_a_dict(filters):
    leaves, tree = jax.tree.flatten(filters)
    ordered = {f"{place}": value for place, value in enumerate(filters.values())}
    assert [id(leaf) for leaf in leaves] == [id(leaf) for leaf in jax.tree.leaves(ordered)]
    again = jax.tree.unflatten(tree, leaves)
    assert type(again) is FiltersByLayer
    assert [*again] == [*filters]
    assert jax.tree.structure(again) == tree
    path, _ = jax.tree_util.tree_flatten_with_path(filters)[0][0]
    assert path[0] == jax.tree_util.DictKey("block_2/attention")
    assert [*jax.eval_shape(lambda: filters)] == [*filters]


def test_a_notebook_shows_each_layer_under_its_name(filters):
    shown = filters._repr_html_()
    assert shown.count("<img") == 2
    assert "block_10/&lt;b&gt;</summary>" in shown
    assert "<b>" not in shown


def test_of_many_layers_the_last_are_named(filter):
    many = FiltersByLayer({f"layer_{number}": filter for number in range(SHOWN + 3)})
    shown = many._repr_html_()
    assert shown.count("<img") == shown.count("<details") == SHOWN
    assert f"3 more, from layer_{SHOWN} to layer_{SHOWN + 2}" in shown


def test_what_takes_the_place_of_a_filter_is_shown_as_text():
    assert "<code>&lt;object" in FiltersByLayer({"a": object()})._repr_html_()
    assert FiltersByLayer()._repr_html_() == "<code>{}</code>"
