import copy
import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import cli
from harness.gallery import gallery
from harness.records import InputError
from harness.report.gallery import (
    CURVE_POINTS,
    MOST_TRIALS,
    ShownTrial,
    embedded,
    thinned,
    trial_chart,
    verdict_counts,
)
from harness.report.trial_table import write_parquet
from tests.browser import look
from tests.made_up_records import exploding, falling, record
from tests.made_up_results import DEVICE, claim, flips, result

SVG = """<?xml version="1.0"?>
<svg xmlns:xlink="http://www.w3.org/1999/xlink" width="70pt" viewBox="0 0 70 50" xmlns="http://www.w3.org/2000/svg">
 <metadata>made by <b>us</b></metadata>
 <defs>
  <style type="text/css">*{stroke-linejoin: round}</style>
 </defs>
 <g id="figure_1">
  <defs><path id="m1" d="M 0 3 L 3.123456 0 z"/><clipPath id="p1"><rect width="9" height="9"/></clipPath></defs>
  <g clip-path="url(#p1)"><use xlink:href="#m1" x="10.987654" y="20"/></g></g>
</svg>
"""

HOSTILE = "</script><b>arm"


def trials(arm, count, **hyperparameters):
    """Made-up trials, every fifth infeasible."""
    settings = {"workload.name": "resnet", "workload.dataset": "mnist5k", "steps": 100}
    made = []
    for i in range(count):
        bad = i % 5 == 4
        rate = 10.0 ** -(i % 3)
        loss = exploding(120, 60) if bad else falling(120)
        error = float("nan") if bad else 0.1 + 0.001 * i
        values = {**settings, "learning_rate": rate, **hyperparameters}
        one = record("study", i, loss, error=error, status="infeasible" if bad else "complete", **values)
        made.append(dataclasses.replace(one, arm=arm, address=f"{arm}-{i}", timings={"trial_seconds": 2.0}))
    return made


def gaps():
    """Trials whose loss is not finite: nowhere, in the middle, and from the middle on."""
    made = trials("gap", 3)
    made[1].curves["train_loss"][50:60] = np.nan
    made[2].curves["train_loss"][60:] = np.inf
    return made


def add(out, experiment, run, claims, records=None, **fields):
    folder = out / experiment / run
    folder.mkdir(parents=True)
    records = records or [*trials("plain", 10), *trials(HOSTILE, 10)]
    write_parquet(records, folder / "trials.parquet")
    (folder / "figure.svg").write_text(SVG)
    (folder / "result.json").write_text(json.dumps(result(experiment, run, claims, **fields)))
    return folder


def change(folder, changing):
    result = json.loads((folder / "result.json").read_text())
    changing(result)
    (folder / "result.json").write_text(json.dumps(result))


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """Results of two experiments, of verdicts of every kind; and what is none.

    Two seeds, a smoke run, a control, one that `--set` changed and one of an older version.
    """
    out = tmp_path_factory.mktemp("results")
    claims = [claim("stride.a", "reproduced"), claim("stride.b", "contradicted")]
    folder = add(out, "stride-instability", "laptop-seed0", claims)
    (folder / "flips.json").write_text(json.dumps(flips(claims)))
    add(out, "stride-instability", "laptop-seed1", [claim("stride.a", "reproduced"), claim("stride.b", "reproduced")])
    add(out, "stride-instability", "laptop-seed0-control", [claim("stride.a", "contradicted")])
    changed = {"overrides": {"head": "a<b"}}
    add(out, "stride-instability", "laptop-seed2", [claim("stride.a", "contradicted")], gaps(), **changed)
    add(out, "batch-size-scaling", "smoke-seed0", [])
    older = add(out, "batch-size-scaling", "accelerator-seed0", [claim("scaling.a", "inconclusive", "power")])
    change(older, lambda result: (result.pop("overrides"), result["provenance"].pop("commit")))
    add(out, "batch-size-scaling", "laptop-seed0", [claim("scaling.a", "reproduced")], trials("many", 3 * MOST_TRIALS))
    shutil.copytree(folder, out / "stride-instability" / "laptop-seed0.moved-1")
    shutil.copytree(folder, out / "flips" / "steps-2" / "stride-instability" / "laptop-seed0")
    return out


@pytest.fixture(scope="module")
def page(out):
    return gallery(out).read_text("utf-8")


def test_every_result_stands_on_the_page_and_what_was_moved_aside_does_not(page):
    ids = re.findall(r'<details class="result" id="([^"]+)"', page)
    assert ids == [
        "stride-instability.laptop-seed0",  # figures first, controls last
        "stride-instability.laptop-seed1",
        "stride-instability.laptop-seed2",
        "stride-instability.laptop-seed0-control",
        "batch-size-scaling.smoke-seed0",
        "batch-size-scaling.laptop-seed0",
        "batch-size-scaling.accelerator-seed0",
    ]
    assert 'href="stride-instability/laptop-seed0-control/index.html"' in page


def test_what_was_changed_is_said(page):
    assert page.count("<strong>Not the experiment as it stands:</strong> with <code>head=a&lt;b</code>.") == 1
    assert re.findall(r"seed (\d), changed:", page) == ["2"]


def test_what_was_changed_is_no_verdict_of_the_experiment(page, tmp_path):
    """Neither in a table nor counted, and a control that was changed is none."""
    assert "stride.a.laptop-seed2" not in page
    assert re.findall(r'<tr><td>(\w+)</td><td>(\d)</td><td class="n">1</td>', page) == [
        ("laptop", "1"),
        ("accelerator", "0"),
    ]
    changed = {"overrides": {"head": "zeros"}}
    add(tmp_path, "stride-instability", "laptop-seed0", [claim("stride.a", "reproduced")], **changed)
    add(tmp_path, "stride-instability", "laptop-seed0-control", [claim("stride.a", "reproduced")], **changed)
    alone = gallery(tmp_path).read_text("utf-8")
    assert len(re.findall(r'<details class="result"', alone)) == 2
    assert 'id="claims"' not in alone and 'id="controls"' not in alone and "expected at most" not in alone


def test_a_claim_has_an_address_and_a_contradicted_one_its_rule(page):
    rows = re.findall(r'<tr id="([^"]+)".*?</tr>', page, re.DOTALL)
    assert rows == [
        "stride.a.laptop-seed0",
        "stride.b.laptop-seed0",
        "stride.a.laptop-seed1",
        "stride.b.laptop-seed1",
        "scaling.a.laptop-seed0",
        "scaling.a.accelerator-seed0",
    ]
    (row,) = re.findall(r'<tr id="stride.b.laptop-seed0".*?</tr>', page, re.DOTALL)
    assert "Rule of stride.b." in row and "[0.125, n/a]" in row and "0.25" in row and ">12<" in row
    assert "inconclusive: power" in page


def test_a_claim_says_which_code_judged_which_trials(page):
    told = re.findall(r"<small>([^<]*fingerprint&nbsp;[^<]*)</small></td>", page)
    here = f"{DEVICE} · jax&nbsp;0.10 · fingerprint&nbsp;{12 * 'f'}"
    assert told == [*[f"commit 0123456789ab-dirty · {here}"] * 5, f"not a checkout · {here}"]


def test_figures_have_a_text_alternative_of_title_claims_and_verdicts(page):
    alternatives = re.findall(r'class="drawing" role="img" aria-label="([^"]+)"', page)
    assert len(alternatives) == 7
    assert "Text of stride.b &lt;b&gt;. contradicted" in alternatives[0]
    assert "Changing the strides" in alternatives[0]


def test_flip_maps_stand_with_their_result(page):
    first, second = page.split('<details class="result"')[1:3]
    assert first.count('<table class="map">') == 2 and first.count('class="cell-inconclusive"') == 2
    assert '<table class="map">' not in second


def test_cells_of_flip_maps_say_all_without_a_mouse(page):
    cells = re.findall(r'<td class="cell-inconclusive">(.*?)</td>', page, re.DOTALL)
    assert len(cells) == 2
    for cell in cells:
        assert "title=" not in cell
        text = " ".join(re.sub(r"<[^>]+>", " ", cell).split())
        assert text == "inconclusive power 0.25 [0.125, n/a] n 12"


def test_recorded_flip_maps_are_of_no_control_and_nothing_changed(monkeypatch, tmp_path):
    found = flips([claim("stride.a", "reproduced")])
    monkeypatch.setattr("harness.gallery.recorded_flips", lambda *place: {**found, "device": str(place)})
    for run, fields in [("seed0", {}), ("seed0-control", {}), ("seed1", {"overrides": {"head": "zeros"}})]:
        add(tmp_path, "stride-instability", f"laptop-{run}", [claim("stride.a", "reproduced")], **fields)
    page = gallery(tmp_path).read_text("utf-8")
    (section,) = [part for part in page.split('<details class="result"') if '<table class="map">' in part]
    assert 'id="stride-instability.laptop-seed0"' in section
    assert f"on (&#39;stride-instability&#39;, &#39;laptop&#39;, &#39;{DEVICE}&#39;)." in section


def test_the_page_says_what_was_trained_and_how_many_trials_are_shown(page):
    assert "resnet on mnist5k: 16 complete and 4 infeasible trials\nin 2 arms, of\n120 steps" in page
    assert f"40 s of training summed over trials, 1.5 min by the clock, on {DEVICE}" in page
    assert f"{MOST_TRIALS} of {3 * MOST_TRIALS} rows of the trial table" in page
    many = json.loads(re.findall(r'<script type="application/json">(.*?)</script>', page, re.DOTALL)[5])
    replicates = [trial["replicate"] for trial in many]
    assert len(many) == MOST_TRIALS and replicates == sorted(replicates)
    assert replicates[0] == 0 and replicates[-1] == 3 * MOST_TRIALS - 1


def test_nothing_is_loaded_and_nothing_hostile_gets_through(page):
    assert HOSTILE not in page and "&lt;/script&gt;&lt;b&gt;arm" in page
    assert not re.findall(r'\b(?:src|action)=|<link|@import|href="(?!#)[a-z]+:', page)


def test_ids_of_figures_are_their_own():
    figure = embedded(SVG, "f3-")
    assert figure.startswith("<svg") and "metadata" not in figure
    assert set(re.findall(r'\bid="([^"]+)"', figure)) == {"f3-figure_1", "f3-m1", "f3-p1"}
    assert 'xlink:href="#f3-m1"' in figure and "url(#f3-p1)" in figure
    assert "#f3-figure_1 *{stroke-linejoin" in figure
    assert 'd="M 0 3 L 3.12 0 z"' in figure and 'x="10.98"' in figure


def test_what_is_bounded_are_experiments(page):
    """By Holm's correction, within each of them."""
    (head,) = re.findall(r'aria-label="Verdicts by scale and seed".*?</thead>', page, re.DOTALL)
    assert re.findall(r">([^<]+)</th>", head)[-1] == "experiments with a false verdict, expected at most"


def test_false_verdicts_are_alpha_per_experiment_and_half_of_it_a_side():
    results = [
        {"scale": "laptop", "seed": seed, "claims": [claim("a", "reproduced"), claim("b", "contradicted")]}
        for seed in (1, 0, 0)
    ]
    first, second = verdict_counts([*results, {"scale": "laptop", "seed": 1, "claims": [claim("c", "inconclusive")]}])
    assert (first["seed"], first["experiments"], first["claims"]) == (0, 2, 4)
    assert (first["reproduced"], first["contradicted"], first["inconclusive"]) == (2, 2, 0)
    assert first["false"] == pytest.approx(0.1) and first["false_side"] == pytest.approx(0.05)
    assert (second["seed"], second["experiments"], second["inconclusive"]) == (1, 2, 1)


@given(st.integers(0, 500))
def test_a_thinned_curve_keeps_the_mean_and_its_spikes(steps):
    loss = np.ones(steps, np.float32)
    loss[steps // 2 : steps // 2 + 1] = 1000
    means = thinned(loss)
    assert len(means) == min(steps, CURVE_POINTS)
    assert steps == 0 or max(means) > 1000 / (steps / len(means) + 1)


def test_a_thinned_curve_has_gaps_where_it_is_not_finite():
    means = thinned(np.array([1.0, np.inf, np.nan, 2.0], np.float32))
    assert means == [1.0, None, None, 2.0]


def shown(**hyperparameters):
    names = list(hyperparameters)
    rows = zip(*hyperparameters.values(), strict=True)
    made = [dict(zip(names, row, strict=True)) for row in rows]
    return [ShownTrial("arm", i, values, "complete", 0.1 * (i + 1), np.ones(3)) for i, values in enumerate(made)]


@pytest.mark.parametrize(
    ("hyperparameters", "across"),
    [
        ({"batch_size": [1, 2, 4], "learning_rate": [0.1, 0.2, 0.3]}, "learning_rate"),
        ({"learning_rate": [0.1] * 3, "workload.width": [1, 2, 3], "warmup_steps": [0, 1, 2]}, "warmup_steps"),
        ({"evaluation_steps": ["a", "b", "c"], "schedule": ["constant", "cosine", None]}, "schedule"),
        ({"learning_rate": [0.1] * 3}, "replicate"),
    ],
)
def test_trials_lie_along_the_rate_or_what_varies(hyperparameters, across):
    chart = trial_chart(shown(**hyperparameters))
    assert chart.x_label == across
    assert len({point.x for point in chart.points}) == 3
    assert [point.y for point in chart.points] == sorted((point.y for point in chart.points), reverse=True)


def test_infeasible_trials_stand_at_the_top_and_alone_draw_nothing():
    trials = shown(learning_rate=[0.1, 1.0, 10.0])
    bad = trials[0]._replace(status="infeasible", error=float("nan"))
    chart = trial_chart([bad, *trials[1:]])
    assert [point.kind for point in chart.points] == ["infeasible", "arm0", "arm0"]
    assert chart.points[0].y == min(point.y for point in chart.points)
    assert trial_chart([bad]) is None


@pytest.mark.parametrize(
    ("changing", "told"),
    [
        (lambda result: result.pop("claims"), "result.json is damaged"),
        (lambda result: result["claims"][0].update(verdict="proved"), "result.json is damaged"),
        (lambda result: result["claims"][0].update(interval=[1]), "result.json is damaged"),
        (lambda result: result["claims"][0].update(interval=["0", "1"]), "result.json is damaged"),
        (lambda result: result.update(provenance=None), "result.json is damaged"),
        (lambda result: result["provenance"].update(commit=3), "result.json is damaged"),
        (lambda result: result.update(overrides=["head"]), "result.json is damaged"),
        (lambda result: result.update(scale="desktop"), "result.json is damaged"),
        (lambda result: result.update(experiment="stride-instabilty"), "did you mean 'stride-instability'"),
    ],
)
def test_a_damaged_result_is_named(tmp_path, changing, told):
    change(add(tmp_path, "stride-instability", "laptop-seed0", [claim("stride.a", "reproduced")]), changing)
    with pytest.raises(InputError, match=told) as error:
        gallery(tmp_path)
    assert str(tmp_path / "stride-instability" / "laptop-seed0" / "result.json") in str(error.value)
    assert "remove" in str(error.value)


@pytest.mark.parametrize("name", ["result.json", "figure.svg", "trials.parquet"])
def test_a_file_that_is_not_what_it_should_be_is_named(tmp_path, name):
    folder = add(tmp_path, "stride-instability", "laptop-seed0", [])
    (folder / name).write_bytes(b"\xff{")
    with pytest.raises(InputError, match=f"{name} is damaged or missing"):
        gallery(tmp_path)


def test_a_folder_without_results_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["playbook", "report", "--out", str(tmp_path / "none")])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    printed = capsys.readouterr()
    assert caught.value.code == 2 and printed.out == ""
    assert printed.err.count("\n") == 1
    assert str(tmp_path / "none") in printed.err and "playbook reproduce" in printed.err


def test_the_command_says_where_the_page_is(out, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["playbook", "report", "--out", str(out)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"page: {out / 'index.html'}\n"


PROBE = """
  const seen = (selector) => [...document.querySelectorAll(selector)].filter((one) => one.checkVisibility()
    || (one.closest("details:not([open])") && !one.hidden && !one.closest("[hidden]"))).map((one) => one.id);
  const form = document.getElementById("filters");
  const choose = (name, value) => {
    form.reset();
    form.elements[name].value = value;
    form.elements[name].dispatchEvent(new Event("change", { bubbles: true }));
    return { claims: seen("tr[data-verdict][id]"), results: seen(".result"), told: form.querySelector("output").value };
  };
  found.filters = {};
  for (const [name, value] of [["verdict", "contradicted"], ["verdict", "control"], ["verdict", "changed"],
    ["verdict", "not judged"], ["scale", "accelerator"], ["section", "figure 4"],
    ["verdict", ""]]) found.filters[value] = choose(name, value);

  const [plot, keyboard, gaps, touched] = document.querySelectorAll(".plot");
  const told = (plot) => plot.querySelector(".reading").innerText;
  const curve = (plot) => plot.querySelector(".reading .curve").getAttribute("d");
  const point = (plot, kind) => {
    const dot = plot.querySelectorAll("circle")[1].getBoundingClientRect();
    plot.querySelector(".dots").dispatchEvent(new PointerEvent(kind,
      { clientX: dot.left + dot.width / 2, clientY: dot.top + dot.height / 2, bubbles: true }));
  };
  point(plot, "pointermove");
  found.hovered = told(plot);
  found.curve = curve(plot).match(/[ML]/g).length;
  found.marked = plot.querySelectorAll(".here").length;
  point(touched, "pointerdown");
  touched.querySelector(".dots").focus(); // as a tap does
  found.tapped = told(touched);
  const through = (plot, count) => {
    plot.querySelector(".dots").focus();
    const reads = [[told(plot), curve(plot)]];
    for (let i = 0; i < count; i++) {
      document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true }));
      reads.push([told(plot), curve(plot)]);
    }
    return reads;
  };
  found.gaps = through(gaps, 2);
  found.reads = through(keyboard, 20).map(([text]) => text);
  found.focused = document.activeElement === keyboard.querySelector(".dots");
  found.wide = widest();

  found.lost = [...document.querySelectorAll("use")].map((one) => one.getAttribute("xlink:href").slice(1))
    .concat([...document.querySelectorAll("a[href^='#']")].map((one) => decodeURIComponent(one.hash.slice(1))))
    .filter((id) => !document.getElementById(id));
  found.loaded = performance.getEntriesByType("resource").map((one) => one.name);
"""


@pytest.fixture(scope="module")
def found(page, tmp_path_factory):
    return look(page, tmp_path_factory.mktemp("browser"), own=PROBE)


def test_a_browser_finds_no_error_and_loads_nothing(found):
    assert found["errors"] == [] and found["loaded"] == []
    assert found["doubled"] == [] and found["lost"] == []


def test_all_is_named_and_a_keyboard_scrolls_it(found):
    assert found["unlabelled"] == 0 and found["alike"] == []
    assert found["unreached"] == [] and found["unscoped"] == []


def test_filters_filter(found):
    filters = copy.deepcopy(found["filters"])
    assert filters["contradicted"]["claims"] == ["stride.b.laptop-seed0"]
    assert filters["contradicted"]["results"] == ["stride-instability.laptop-seed0"]
    assert filters["contradicted"]["told"] == "1 of 6 claims, 1 of 7 results"
    assert filters["control"]["results"] == ["stride-instability.laptop-seed0-control"]
    assert filters["changed"]["results"] == ["stride-instability.laptop-seed2"]
    assert filters["changed"]["claims"] == []
    assert filters["not judged"]["results"] == ["batch-size-scaling.smoke-seed0"]
    assert filters["accelerator"]["claims"] == ["scaling.a.accelerator-seed0"]
    assert len(filters["figure 4"]["claims"]) == 4 and len(filters["figure 4"]["results"]) == 4
    assert len(filters[""]["claims"]) == 6 and len(filters[""]["results"]) == 7


def test_hovering_shows_the_trial(found):
    assert found["hovered"].startswith("plain, replicate 1: final error 0.101")
    assert (
        "learning_rate 0.1" in found["hovered"]
        and "Training loss over 120 steps, in means of windows" in found["hovered"]
    )
    assert 2 < found["curve"] <= CURVE_POINTS and found["marked"] == 1


def test_a_tap_shows_the_trial(found):
    """Not the leftmost, which the focus that comes with it would show."""
    assert found["tapped"].startswith("plain, replicate 1: final error 0.101")


def test_a_curve_has_gaps_where_it_is_not_finite(found):
    """The trials lie by their rates, the last one leftmost."""
    (broken, broken_curve), (middle, middle_curve), (whole, whole_curve) = found["gaps"]
    assert "replicate 2" in broken and broken.endswith("; then it is not finite.")
    assert "replicate 1" in middle and middle.endswith("; in places it is not finite.")
    assert "replicate 0" in whole and "finite" not in whole
    assert [curve.count("M") for curve in (broken_curve, middle_curve, whole_curve)] == [1, 2, 1]


def test_a_malformed_address_takes_nothing_with_it(page, found, tmp_path):
    malformed = look(page, tmp_path, own=PROBE, fragment="%")
    assert malformed["errors"] == [] and malformed["hovered"] == found["hovered"]


def test_arrow_keys_go_through_all_trials(found):
    assert found["focused"]
    reads = found["reads"]
    assert len(set(reads[:20])) == 20 and reads[20] == reads[0]


def test_nothing_overflows_on_a_phone(found):
    assert found["width"] == 360
    assert found["needed"] <= 360 and found["wide"] <= 360
    assert found["overflown"] > 360  # so that the measure can fail


def test_light_and_dark_have_papers_of_their_own(found, page, tmp_path):
    dark = look(page, tmp_path, "--force-dark-mode", own=PROBE)
    assert found["dark"] == "rgb(255, 255, 255)" and dark["dark"] == "rgb(13, 17, 23)"
    assert dark["errors"] == []
