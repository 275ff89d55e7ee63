"""Draws figures for papers and slides again from finished result folders; it trains nothing."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.experiments.experiment import SCALES, Experiment, chosen
from harness.experiments.verdict import judge
from harness.records import InputError, TrialRecord, did_you_mean
from harness.report.trial_table import read_parquet
from harness.studies.fingerprint import fingerprint

if TYPE_CHECKING:
    from harness.figures.paper_styles import Style

FORMATS = ("pdf", "svg", "png")


def redraw(
    names: Sequence[str],
    scale: str,
    seed: int,
    control: bool,
    out: Path,
    style: str,
    formats: str,
    on_file: Callable[[Path], None] = lambda path: None,
) -> list[Path]:
    """Judges and draws the trials of finished results again, as `OUT/figures/<style>/<experiment>-<folder>.<format>`.

    Equal trials give equal bytes under the same version of Matplotlib. A figure with more panels than a slide has room
    for becomes several files, `<experiment>-<folder>-<number>.<format>`.

    Args:
      names: of experiments; none, or `all`, for those that `out` holds.
      scale: one of `harness.experiments.experiment.SCALES`.
      seed: of the experiments, at least 0.
      control: draw their controls.
      out: the folder of all results.
      style: one of `harness.figures.paper_styles.STYLES`.
      formats: some of `FORMATS`, with commas between.
      on_file: called with each file that is written.

    Returns:
      The files, in the order they were written.

    Raises:
      InputError: bad input, see the message.
    """
    from harness.figures.paper_styles import STYLES

    _check("scale", scale, SCALES)
    _check("style", style, STYLES)
    if seed < 0:
        raise InputError(f"--seed {seed}: expected at least 0")
    kinds = list(dict.fromkeys(filter(None, map(str.strip, formats.split(",")))))
    if not kinds:
        raise InputError(f"--format {formats!r} names no format; known: {', '.join(FORMATS)}")
    for kind in kinds:
        _check("format", kind, FORMATS)
    folder = f"{scale}-seed{seed}{'-control' if control else ''}"
    written = []
    for one in _wanted(names, out, folder, f"--scale {scale} --seed {seed}{' --control' if control else ''}"):
        records = _records(out / one.name / folder)
        for path in _draw(one, records, scale, control, STYLES[style], out / "figures" / style, folder, kinds):
            on_file(path)
            written.append(path)
    return written


def _check(what: str, given: str, known: Sequence[str]) -> None:
    if given not in known:
        raise InputError(f"unknown {what} {given!r}{did_you_mean(given, known)}; known: {', '.join(known)}")


def _wanted(names: Sequence[str], out: Path, folder: str, options: str) -> list[Experiment]:
    """The experiments that were named, all of which have a result, or those that have one."""

    def finished(one: Experiment) -> bool:
        return (out / one.name / folder / "result.json").is_file()

    def command(name: str) -> str:
        return f"playbook reproduce {name} {options} --out {shlex.quote(str(out))}"

    wanted = chosen(names or ["all"])
    if names and "all" not in names:
        for one in wanted:
            if not finished(one):
                raise InputError(f"{out / one.name / folder} holds no finished result; {command(one.name)} makes it")
        return wanted
    found = [one for one in wanted if finished(one)]
    if not found:
        raise InputError(f"{out} holds no finished result of {folder}; {command('NAME')} makes one")
    return found


def _records(folder: Path) -> list[TrialRecord]:
    """The trials that a result was judged on."""
    try:
        expected = json.loads((folder / "result.json").read_text("utf-8"))["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            f"{folder / 'result.json'} is damaged: expected JSON with fingerprint; run its command again"
        ) from None
    records = read_parquet(folder / "trials.parquet")
    if fingerprint(records) != expected:
        raise InputError(
            f"{folder / 'trials.parquet'} does not hold the trials of result.json beside it; run its command again"
        )
    return records


def _draw(
    one: Experiment,
    records: Sequence[TrialRecord],
    scale: str,
    control: bool,
    style: Style,
    folder: Path,
    name: str,
    kinds: Sequence[str],
) -> list[Path]:
    from harness.figures.paper_styles import pages, restyle
    from harness.figures.style import save

    verdicts = judge(one.judge(records, scale, control)) if scale != "smoke" else []
    found = pages(len(one.draw(records, verdicts, scale).axes), style)
    stem = f"{one.name}-{name}"
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number, page in enumerate(found, 1):
            of_page = f"{stem}-{number}" if len(found) > 1 else stem
            save(lambda page=page: restyle(one.draw(records, verdicts, scale), style, page), folder, of_page, kinds)
            written += [folder / f"{of_page}.{kind}" for kind in kinds]
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror}); choose another --out") from None
    return written
