"""Figures for papers and slides: what they are drawn from, the bytes they have, and who can tell their series apart."""

import itertools
import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pyarrow.parquet as pq
import pytest
from matplotlib.colors import to_hex, to_rgb
from matplotlib.lines import Line2D

from harness.experiments.experiment import experiments
from harness.figures.lines import draw_lines
from harness.figures.paper_styles import STYLES, pages, restyle
from harness.figures.style import _SETTINGS, COLOURS, panels, shared_legend
from harness.records import InputError
from harness.redraw import FORMATS, redraw
from tests import stand_in

APART = 15
"""Distance in CIE Lab (1976) from which thin lines are taken as told apart; a just noticeable one is 2.3."""

DEFICIENCIES = {
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}
"""On linear RGB, at severity 1: Machado, Oliveira and Fernandes (2009), A Physiologically-based Model for Simulation of
Color Vision Deficiency, IEEE TVCG 15(6)."""

_LUMINANCE = (0.2126, 0.7152, 0.0722)
VIEWS = {"full": np.eye(3), **DEFICIENCIES, "greyscale": (_LUMINANCE,) * 3}


def lab(colour, view):
    """CIE Lab (D65) of a colour as seen in a view."""
    encoded = np.array(to_rgb(colour))
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.array(VIEWS[view]) @ linear, 0, 1)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(to_xyz @ seen / (0.9505, 1, 1.089))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])  # none of ours is in the linear part near black


def distance(a, b):
    """Between two colours, in the view that has them nearest."""
    return min(float(np.linalg.norm(lab(a, view) - lab(b, view))) for view in VIEWS)


def confused(figure):
    """Pairs of entries of one legend that differ neither in colour by APART nor in marker, line or hatch."""

    def look(handle):
        if isinstance(handle, Line2D):
            filled = str(handle.get_markerfacecolor()) != "none"
            dashes = handle._dash_pattern[1] and tuple(np.divide(handle._dash_pattern[1], handle.get_linewidth()))
            return handle.get_marker(), handle.get_linestyle(), dashes, filled
        return type(handle).__name__, getattr(handle, "get_hatch", lambda: None)()

    def colour(handle):
        return to_hex(handle.get_color() if isinstance(handle, Line2D) else np.atleast_2d(handle.get_facecolor())[0])

    found = []
    for legend in filter(None, (*figure.legends, *(panel.get_legend() for panel in figure.axes))):
        entries = zip(legend.legend_handles, legend.get_texts(), strict=True)
        for (a, name), (b, other) in itertools.combinations(entries, 2):
            if look(a) == look(b) and distance(colour(a), colour(b)) < APART:
                found.append((name.get_text(), other.get_text()))
    return found


def six_lines(panel_count=4, points=20):
    """A figure whose every panel has a line in each of the colours, with labels that need breaking."""
    figure, axes = panels(panel_count, "a title of a figure that says at some length what was trained and on what data")
    for panel in axes:
        lines = {f"series {i}": (np.arange(1, points), np.arange(1, points) * (i + 1)) for i in range(len(COLOURS))}
        draw_lines(panel, lines, "step of training", "validation error (share of examples)", "what it is " * 8)
    return figure


def restyled(draw, style, number=0):
    """A page of a figure."""
    with matplotlib.rc_context(_SETTINGS):
        figure = draw()
        return restyle(figure, STYLES[style], pages(len(figure.axes), STYLES[style])[number])


@pytest.mark.parametrize("count", range(1, 10))
def test_every_panel_stands_on_one_page(count):
    assert pages(count, STYLES["paper"]) == [range(count)]
    slides = pages(count, STYLES["slides"])
    assert [panel for page in slides for panel in page] == list(range(count))
    assert all(0 < len(page) <= 4 for page in slides) and len(slides) == -(-count // 4)


def test_a_slide_has_its_own_panels_and_legend():
    """What is drawn in two panels looks the same on both slides, and what is not on a slide is not in its legend."""

    def draw():
        figure, axes = panels(6, "six panels")
        for number, panel in enumerate(axes):
            panel.set_title(f"panel {number}")
            for colour, name in zip(COLOURS, ("everywhere", f"only on slide {number // 3}"), strict=False):
                panel.plot([1, 2], [number, number + 1], color=colour, label=name)
        shared_legend(figure, axes)
        return figure

    slides = [restyled(draw, "slides", number) for number in range(2)]
    for number, slide in enumerate(slides):
        assert [panel.get_title() for panel in slide.axes] == [f"panel {3 * number + i}" for i in range(3)]
        (legend,) = slide.legends
        assert [text.get_text() for text in legend.get_texts()] == ["everywhere", f"only on slide {number}"]
    looks = [[line.get_linestyle() for panel in slide.axes for line in panel.lines] for slide in slides]
    assert looks[0] == looks[1] and len(set(looks[0])) == 2


def test_colours_alone_do_for_all_but_readers_in_greyscale():
    pairs = list(itertools.combinations(COLOURS, 2))
    nearest = {view: min(np.linalg.norm(lab(a, view) - lab(b, view)) for a, b in pairs) for view in VIEWS}
    assert all(nearest[view] > APART for view in ("full", *DEFICIENCIES)), nearest
    assert nearest["greyscale"] < 2.3, nearest


def test_a_known_confusion_is_simulated():
    red, green = "#a03030", "#4a5a2a"
    assert np.linalg.norm(lab(red, "deuteranopia") - lab(green, "deuteranopia")) < 25
    assert np.linalg.norm(lab(red, "full") - lab(green, "full")) > 50
    assert lab("#808080", "greyscale")[0] == pytest.approx(53.6, abs=0.1)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("points", [5, 20])
def test_every_reader_tells_series_apart(style, points):
    assert confused(restyled(lambda: six_lines(1, points), style)) == []


def test_dashed_lines_are_told_apart_too():
    def draw():
        figure = six_lines(1)
        for line in (*figure.axes[0].lines, *figure.axes[0].get_legend().legend_handles):
            line.set_linestyle("--")
        return figure

    assert confused(restyled(draw, "paper")) == []


def test_the_screen_look_relies_on_colour():
    with matplotlib.rc_context(_SETTINGS):
        assert confused(six_lines(1))


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("count", [1, 3, 4, 6])
def test_nothing_overlaps_or_leaves_the_page(style, count):
    figure = restyled(lambda: six_lines(count), style)
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    page = figure.bbox.padded(1)
    boxes = []
    for panel in figure.axes:
        parts = [panel.title, panel.xaxis.label, panel.yaxis.label, panel.get_legend()]
        tops = [part.get_window_extent(renderer) for part in parts]
        boxes += [panel.get_window_extent(renderer), *tops]
        assert tops[2].height <= panel.get_window_extent(renderer).height * 1.25
    boxes.append(figure._suptitle.get_window_extent(renderer))
    for box in boxes:
        assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1
    for a, b in itertools.combinations(boxes, 2):
        overlap = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert min(overlap) < 1


@pytest.mark.parametrize("style", STYLES)
def test_titles_and_names_keep_to_their_panel(style):
    def draw():
        figure = six_lines(6)
        for panel in figure.axes:
            panel.set_title("what a short round chose against the long one's own choice, over all of the fresh seeds")
            panel.set_yscale("linear")
            panel.set_yticks(np.linspace(*panel.get_ylim(), 8), [f"schedule (unlikely)\nlinear {n}" for n in range(8)])
        return figure

    figure = restyled(draw, style)
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    for panel in figure.axes:
        title = panel.title.get_window_extent(renderer)
        assert title.x0 >= 0 and title.x1 <= figure.bbox.x1
        names = sorted((label.get_window_extent(renderer) for label in panel.get_yticklabels()), key=lambda box: box.y0)
        assert all(below.y1 < above.y0 + 1 for below, above in itertools.pairwise(names))


@pytest.mark.parametrize("style", STYLES)
def test_letters_have_the_size_that_is_said(style):
    figure = restyled(six_lines, style)
    panel = figure.axes[0]
    assert figure.get_figwidth() == STYLES[style].width
    assert panel.title.get_fontsize() == panel.xaxis.label.get_fontsize() == STYLES[style].text
    sizes = {text.get_fontsize() for text in (*panel.get_xticklabels(), *panel.get_legend().get_texts())}
    assert sizes == {STYLES[style].small}


@pytest.fixture
def finished(study_copy, monkeypatch):
    """The finished stand-in study, which the catalogue holds."""
    monkeypatch.setattr("harness.experiments.experiment.experiments", lambda: {"stand-in": stand_in.EXPERIMENT})
    return study_copy


def ask(finished, *names, **changes):
    asked = {"scale": "smoke", "seed": 0, "control": False, "style": "paper", "formats": "pdf,svg,png", **changes}
    return redraw(names, out=finished.out, **asked)


def test_files_hold_their_letters(finished):
    paths = ask(finished, "stand-in")
    assert [path.relative_to(finished.out).as_posix() for path in paths] == [
        f"figures/paper/stand-in-smoke-seed0.{kind}" for kind in FORMATS
    ]
    pdf, svg, png = (path.read_bytes() for path in paths)
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf
    assert b"<text" not in svg and b"font-family" not in svg and b"<image" not in svg
    assert struct.unpack(">I", png[16:20])[0] == int(150 * STYLES["paper"].width)


def test_two_processes_give_equal_bytes(finished):
    def bytes_of(seed):
        arguments = ["figures", "--scale", "smoke", "--out", str(finished.out), "--format", "pdf,svg,png"]
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        code = (
            "import sys; from tests import stand_in; from harness import cli;"
            "import harness.experiments.experiment as e; e.experiments = lambda: {'stand-in': stand_in.EXPERIMENT};"
            f"sys.argv[1:] = {arguments!r}\ntry:\n cli.main()\nfinally:\n assert 'jax' not in sys.modules"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
        )
        assert done.returncode == 0, done.stderr
        written = [path for path in map(finished.out.__class__, done.stdout.split())]
        assert len(written) == 3
        return [path.read_bytes() for path in written]

    assert bytes_of("1") == bytes_of("2")


def test_all_that_there_is_is_drawn_in_the_named_style(finished):
    (path,) = ask(finished, style="slides", formats="png,png")
    width, height = struct.unpack(">II", path.read_bytes()[16:24])
    assert width / height == pytest.approx(16 / 9, abs=0.01)
    assert ask(finished, "all", style="slides", formats="png") == [path]


def test_the_catalogue_is_known():
    with pytest.raises(InputError, match=re.escape("did you mean 'stride-instability'?")):
        redraw(["stride-instabilty"], "laptop", 0, False, Path("nowhere"), "paper", "pdf")
    assert "stride-instability" in experiments()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"style": "papr"}, "unknown style 'papr'; did you mean 'paper'?; known: paper, slides"),
        ({"formats": "pdf,pgn"}, "unknown format 'pgn'; did you mean 'png'?; known: pdf, svg, png"),
        ({"formats": " , "}, "--format ' , ' names no format; known: pdf, svg, png"),
        ({"scale": "laptp"}, "unknown scale 'laptp'; did you mean 'laptop'?"),
        ({"seed": -1}, "--seed -1: expected at least 0"),
        ({"seed": 7}, "playbook reproduce NAME --scale smoke --seed 7 --out"),
        ({"control": True}, "smoke-seed0-control; playbook reproduce NAME --scale smoke --seed 0 --control --out"),
    ],
)
def test_bad_input_is_one_line(finished, changes, message):
    with pytest.raises(InputError, match=re.escape(message)) as raised:
        ask(finished, **changes)
    assert "\n" not in str(raised.value)
    assert not (finished.out / "figures").exists()


def test_a_named_result_that_is_missing_is_an_error_with_its_command(finished):
    with pytest.raises(InputError, match="playbook reproduce stand-in --scale laptop --seed 0 --out"):
        ask(finished, "stand-in", scale="laptop")


@pytest.mark.parametrize("harm", ["cut", "foreign", "gone", "result"])
def test_a_damaged_folder_is_one_line(finished, harm):
    table = finished.folder / "trials.parquet"
    if harm == "cut":
        table.write_bytes(table.read_bytes()[:-100])
    elif harm == "foreign":
        pq.write_table(pq.read_table(table).slice(1), table)
    elif harm == "gone":
        table.unlink()
    else:
        (finished.folder / "result.json").write_text(json.dumps(["x"]))
    named = "result.json" if harm == "result" else "trials.parquet"
    with pytest.raises(InputError, match=rf"{named} .*run its command again"):
        ask(finished)


def test_a_folder_that_cannot_be_written_is_one_line(finished):
    (finished.out / "figures").write_text("in the way")
    with pytest.raises(InputError, match="figures/paper cannot be written"):
        ask(finished)
