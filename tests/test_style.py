import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from harness.figures.style import COLOURS, PUBLISHED_ALPHA, few_colours, save

LARGEST_SHIFT = 25  # of 255, where a colour lies between the palette's


def drawn():
    """Lines in every colour, faint ones too, crossing each other and a grid."""
    figure = Figure(figsize=(5, 4))
    axes = figure.subplots()
    axes.grid()
    for number, colour in enumerate(COLOURS):
        axes.plot(np.sin(np.arange(50) / (2 + number)), color=colour, marker="o", label=colour)
        axes.plot(np.cos(np.arange(50) / (2 + number)), "--", color=colour, marker="s", alpha=PUBLISHED_ALPHA)
    axes.legend()
    return figure


@pytest.fixture(scope="module")
def png():
    file = io.BytesIO()
    drawn().savefig(file, format="png", dpi=150)
    return file.getvalue()


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


class TestFewColours:
    def test_several_times_smaller_and_as_good_as_equal(self, png):
        few = few_colours(png)
        assert len(few) < len(png) / 2
        image = Image.open(io.BytesIO(few))
        assert image.mode == "P"
        assert len(image.getcolors()) > 128
        assert image.info["dpi"] == pytest.approx((150, 150), abs=0.1)
        before, after = pixels(png), pixels(few)
        assert before.shape == after.shape
        assert np.abs(before - after).max() <= LARGEST_SHIFT
        assert (after[(before == 255).all(-1)] == 255).all()

    def test_equal_bytes(self, png):
        assert few_colours(png) == few_colours(bytes(png))

    def test_few_as_they_are(self):
        """A second time changes nothing that can be seen."""
        file = io.BytesIO()
        Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(file, "PNG")
        assert np.array_equal(pixels(few_colours(file.getvalue())), pixels(file.getvalue()))


def test_saved_figures_have_equal_bytes(tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        save(drawn, tmp_path / name)
    for name in ("figure.png", "figure.svg", "figure.pdf"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()
    assert Image.open(tmp_path / "one" / "figure.png").mode == "P"
