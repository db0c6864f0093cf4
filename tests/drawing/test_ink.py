import numpy as np
from matplotlib.figure import Figure
from numpy.testing import assert_allclose

from jattn.drawing.heat_maps import draw_ramp, paint_cells
from jattn.drawing.images import cell_pixels
from jattn.drawing.ink import LINEAR, ROOTED, Ink
from jattn.drawing.lines import style_panel

WEIGHTS = np.array([[0.0, 0.25, 1.0, 4.0], [-1.0, np.nan, np.inf, -np.inf]])


def test_what_is_not_finite_has_no_ink_and_other_weights_are_kept_between_white_and_the_darkest():
    assert_allclose(LINEAR(WEIGHTS), [[0, 0.25, 1, 1], [0, np.nan, np.nan, np.nan]])
    assert_allclose(ROOTED(WEIGHTS)[0], [0, 0.5, 1, 1])
    assert_allclose(Ink(1.0, top=0.5)(WEIGHTS)[0], [0, 0.5, 1, 1])


def test_a_figure_and_an_image_give_a_weight_the_same_ink():
    axes = Figure().subplots()
    paint_cells(axes, WEIGHTS, ROOTED)
    (image,) = axes.images
    painted = np.ma.filled(image.norm(image.get_array()), np.nan)
    pixels = cell_pixels(WEIGHTS, ROOTED, top=100).astype(float)
    assert_allclose(painted, np.where(pixels > 100, np.nan, pixels / 100))


def test_the_ramp_names_weights_where_their_ink_is():
    axes = Figure().subplots()
    draw_ramp(axes, ROOTED, [0, 0.25, 1], ["none", "some", "all"])
    assert_allclose(axes.get_yticks(), [0, 0.5, 1])


def test_titles_and_labels_of_panels_are_text_and_no_formulas():
    figure = Figure()
    style_panel(figure.subplots(), "$x^{2$", "$\\frac{")
    figure.canvas.draw()
