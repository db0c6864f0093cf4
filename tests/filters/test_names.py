from jattn.filters.names import in_order, reading_order


def test_layers_are_in_the_order_in_which_a_person_counts():
    assert reading_order(["b", "a#10", "a#2", "a", "10", "9"]) == ["9", "10", "a", "a#2", "a#10", "b"]


def test_what_is_known_by_layer_comes_in_the_order_of_the_names():
    assert list(in_order({"block_10": 1, "block_2": 2, "block_²": 3})) == ["block_2", "block_10", "block_²"]
