import copy
import dataclasses
import html
import json
import re
import shutil
import subprocess

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
from tests.made_up_records import exploding, falling, record

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


def claim(name, verdict, reason=None):
    return {
        "id": name,
        "text": f"Text of {name} <b>.",
        "verdict": verdict,
        "reason": reason,
        "effect": 0.25,
        "interval": [0.125, None],
        "level": 0.95,
        "n": 12,
        "rule": f"Rule of {name}.",
    }


def add(out, experiment, run, claims, records=None, **fields):
    scale, seed = run.split("-")[:2]
    folder = out / experiment / run
    folder.mkdir(parents=True)
    records = records or [*trials("plain", 10), *trials(HOSTILE, 10)]
    result = {
        "experiment": experiment,
        "scale": scale,
        "seed": int(seed.removeprefix("seed")),
        "control": run.endswith("control"),
        "overrides": {"head": "a<b"},  # so that recorded flip maps stay out
        "judged": bool(claims),
        "claims": claims,
        "trials": {"complete": 16, "infeasible": 4},
        "fingerprint": "f" * 64,
        "seconds": 90.0,
        "provenance": {
            "command": f"playbook reproduce {experiment} --set head=a<b",
            "device": "AMD EPYC",
            "data": {"mnist5k": "a" * 64},
            "versions": {"jax": "0.10"},
            "written": "2026-01-01T00:00:00+00:00",
        },
        **fields,
    }
    write_parquet(records, folder / "trials.parquet")
    (folder / "figure.svg").write_text(SVG)
    (folder / "result.json").write_text(json.dumps(result))
    return folder


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """Results of two experiments: two seeds, a smoke run and a control, of verdicts of every kind; and what is none."""
    out = tmp_path_factory.mktemp("results")
    claims = [claim("stride.a", "reproduced"), claim("stride.b", "contradicted")]
    folder = add(out, "stride-instability", "laptop-seed0", claims)
    cell = {"axis": "steps", "factor": 2.0, "claims": [{**one, "verdict": "inconclusive"} for one in claims]}
    flips = {"seed": 0, "device": "AMD EPYC", "claims": claims, "cells": [cell]}
    (folder / "flips.json").write_text(json.dumps(flips))
    add(out, "stride-instability", "laptop-seed1", [claim("stride.a", "reproduced"), claim("stride.b", "reproduced")])
    add(out, "stride-instability", "laptop-seed0-control", [claim("stride.a", "contradicted")])
    add(out, "batch-size-scaling", "smoke-seed0", [])
    add(out, "batch-size-scaling", "accelerator-seed0", [claim("scaling.a", "inconclusive", "power")])
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
        "stride-instability.laptop-seed0-control",
        "batch-size-scaling.smoke-seed0",
        "batch-size-scaling.laptop-seed0",
        "batch-size-scaling.accelerator-seed0",
    ]
    assert 'href="stride-instability/laptop-seed0-control/index.html"' in page


def test_what_was_changed_is_said(page):
    assert page.count("<strong>Not the experiment as it stands:</strong> with <code>head=a&lt;b</code>.") == 6
    assert len(re.findall(r"seed \d, changed:", page)) == 6


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


def test_figures_have_a_text_alternative_of_title_claims_and_verdicts(page):
    alternatives = re.findall(r'class="drawing" role="img" aria-label="([^"]+)"', page)
    assert len(alternatives) == 6
    assert "Text of stride.b &lt;b&gt;. contradicted" in alternatives[0]
    assert "Changing the strides" in alternatives[0]


def test_flip_maps_stand_with_their_result(page):
    first, second = page.split('<details class="result"')[1:3]
    assert first.count('<table class="map">') == 2 and first.count('class="cell-inconclusive"') == 2
    assert '<table class="map">' not in second


def test_the_page_says_what_was_trained_and_how_many_trials_are_shown(page):
    assert "resnet on mnist5k: 16 complete and 4 infeasible trials\nin 2 arms, of\n120 steps" in page
    assert "40 s of training summed over trials, 1.5 min by the clock, on AMD EPYC" in page
    assert f"{MOST_TRIALS} of {3 * MOST_TRIALS} rows of the trial table" in page
    many = json.loads(re.findall(r'<script type="application/json">(.*?)</script>', page, re.DOTALL)[4])
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


def damaged(out, change):
    folder = add(out, "stride-instability", "laptop-seed0", [claim("stride.a", "reproduced")])
    result = json.loads((folder / "result.json").read_text())
    change(result)
    (folder / "result.json").write_text(json.dumps(result))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda result: result.pop("claims"), "result.json is damaged"),
        (lambda result: result["claims"][0].update(verdict="proved"), "result.json is damaged"),
        (lambda result: result["claims"][0].update(interval=[1]), "result.json is damaged"),
        (lambda result: result["claims"][0].update(interval=["0", "1"]), "result.json is damaged"),
        (lambda result: result.update(provenance=None), "result.json is damaged"),
        (lambda result: result.update(scale="desktop"), "result.json is damaged"),
        (lambda result: result.update(experiment="stride-instabilty"), "did you mean 'stride-instability'"),
    ],
)
def test_a_damaged_result_is_named(tmp_path, change, told):
    damaged(tmp_path, change)
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


CATCH = """<script>
const errors = [];
addEventListener("error", (event) => errors.push(String(event.message)));
addEventListener("unhandledrejection", (event) => errors.push(String(event.reason)));
for (const kind of ["error", "warn"]) console[kind] = (...told) => errors.push(told.join(" "));
</script>"""

PROBE = """<script>
addEventListener("load", () => {
  const seen = (selector) => [...document.querySelectorAll(selector)].filter((one) => one.checkVisibility()
    || (one.closest("details:not([open])") && !one.hidden && !one.closest("[hidden]"))).map((one) => one.id);
  const form = document.getElementById("filters");
  const choose = (name, value) => {
    form.reset();
    form.elements[name].value = value;
    form.elements[name].dispatchEvent(new Event("change", { bubbles: true }));
    return { claims: seen("tr[data-verdict][id]"), results: seen(".result"), told: form.querySelector("output").value };
  };
  const found = { width: innerWidth, filters: {}, dark: getComputedStyle(document.body).backgroundColor };
  const widest = () => Math.max(document.documentElement.scrollWidth, document.body.scrollWidth);
  for (const one of document.querySelectorAll("details")) one.open = true;
  found.needed = widest();
  for (const [name, value] of [["verdict", "contradicted"], ["verdict", "control"], ["verdict", "not judged"],
    ["scale", "accelerator"], ["section", "figure 4"], ["verdict", ""]]) found.filters[value] = choose(name, value);

  const plot = document.querySelector(".plot");
  const box = plot.querySelector(".dots");
  const dot = plot.querySelectorAll("circle")[1].getBoundingClientRect();
  const told = () => plot.querySelector(".reading").innerText;
  box.dispatchEvent(new PointerEvent("pointermove",
    { clientX: dot.left + dot.width / 2, clientY: dot.top + dot.height / 2, bubbles: true }));
  found.hovered = told();
  found.curve = plot.querySelector(".reading polyline").getAttribute("points").split(" ").length;
  found.marked = plot.querySelectorAll(".here").length;
  const keyboard = document.querySelectorAll(".plot")[1];
  keyboard.querySelector(".dots").focus();
  found.focused = document.activeElement === keyboard.querySelector(".dots");
  const reads = [keyboard.querySelector(".reading").innerText];
  for (let i = 0; i < 20; i++) {
    document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true }));
    reads.push(keyboard.querySelector(".reading").innerText);
  }
  found.reads = reads;
  found.wide = widest();

  const ids = [...document.querySelectorAll("[id]")].map((one) => one.id);
  found.doubled = ids.filter((id, i) => ids.indexOf(id) < i);
  found.lost = [...document.querySelectorAll("use")].map((one) => one.getAttribute("xlink:href").slice(1))
    .concat([...document.querySelectorAll("a[href^='#']")].map((one) => decodeURIComponent(one.hash.slice(1))))
    .filter((id) => !document.getElementById(id));
  found.loaded = performance.getEntriesByType("resource").map((one) => one.name);
  found.unlabelled = [...document.querySelectorAll("[role=img], [role=region], [role=group], select")]
    .filter((one) => !one.getAttribute("aria-label") && !one.closest("label")).length;
  const block = document.createElement("div");
  block.style.cssText = "width: 400px; height: 9px";
  document.body.append(block);
  found.overflown = widest();
  found.errors = errors;
  parent.postMessage(JSON.stringify(found), "*");
});
</script>"""

FRAME = """<!doctype html><style>body { margin: 0 }</style><pre id="found"></pre><script>
addEventListener("message", (event) => { document.getElementById("found").textContent = event.data; });
</script><iframe src="probed.html" style="width: 360px; height: 800px; border: 0"></iframe>"""


def look(page, folder, *flags):
    """What a browser finds on the page, 360 pixels wide: in a frame, since a window of its own may not be so narrow."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        pytest.skip(f"no browser: none of {', '.join(names)} is installed")
    probed = page.replace("<head>", f"<head>{CATCH}", 1).replace("</body>", f"{PROBE}</body>", 1)
    (folder / "probed.html").write_text(probed, "utf-8")
    (folder / "frame.html").write_text(FRAME, "utf-8")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    command += ["--window-size=800,900", "--virtual-time-budget=5000", *flags, "--dump-dom"]
    dumped = subprocess.run(
        [*command, (folder / "frame.html").as_uri()], capture_output=True, text=True, timeout=120, check=True
    ).stdout
    (told,) = re.findall(r'<pre id="found">(.*?)</pre>', dumped, re.DOTALL)
    return json.loads(html.unescape(told))


@pytest.fixture(scope="module")
def found(page, tmp_path_factory):
    return look(page, tmp_path_factory.mktemp("browser"))


def test_a_browser_finds_no_error_and_loads_nothing(found):
    assert found["errors"] == [] and found["loaded"] == []
    assert found["doubled"] == [] and found["lost"] == [] and found["unlabelled"] == 0


def test_filters_filter(found):
    filters = copy.deepcopy(found["filters"])
    assert filters["contradicted"]["claims"] == ["stride.b.laptop-seed0"]
    assert filters["contradicted"]["results"] == ["stride-instability.laptop-seed0"]
    assert filters["contradicted"]["told"] == "1 of 6 claims, 1 of 6 results"
    assert filters["control"]["results"] == ["stride-instability.laptop-seed0-control"]
    assert filters["not judged"]["results"] == ["batch-size-scaling.smoke-seed0"]
    assert filters["accelerator"]["claims"] == ["scaling.a.accelerator-seed0"]
    assert len(filters["figure 4"]["claims"]) == 4 and len(filters["figure 4"]["results"]) == 3
    assert len(filters[""]["claims"]) == 6 and len(filters[""]["results"]) == 6


def test_hovering_shows_the_trial(found):
    assert found["hovered"].startswith("plain, replicate 1: final error 0.101")
    assert (
        "learning_rate 0.1" in found["hovered"]
        and "Training loss over 120 steps, in means of windows" in found["hovered"]
    )
    assert 2 < found["curve"] <= CURVE_POINTS and found["marked"] == 1


def test_arrow_keys_go_through_all_trials(found):
    assert found["focused"]
    reads = found["reads"]
    assert len(set(reads[:20])) == 20 and reads[20] == reads[0]


def test_nothing_overflows_on_a_phone(found):
    assert found["width"] == 360
    assert found["needed"] <= 360 and found["wide"] <= 360
    assert found["overflown"] > 360  # so that the measure can fail


def test_light_and_dark_have_papers_of_their_own(found, page, tmp_path):
    dark = look(page, tmp_path, "--force-dark-mode")
    assert found["dark"] == "rgb(255, 255, 255)" and dark["dark"] == "rgb(13, 17, 23)"
    assert dark["errors"] == []
