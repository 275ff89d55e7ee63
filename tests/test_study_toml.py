import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.records import InputError
from harness.search.samplers import sample
from harness.search.study_spec import study_from_toml
from harness.search.study_toml import study_toml

HEAD = {"name": "rates", "workload": "wide_resnet"}
rates = st.floats(1e-12, 1e12)
adam = st.fixed_dictionaries({"optimizer": st.just("adam"), "rate": rates, "beta1": st.sampled_from([0.8, 0.9])})
sgd = st.fixed_dictionaries(
    {"optimizer": st.just("sgd"), "rate": st.sampled_from([0.1, 0.2]), "nesterov": st.booleans()}
)
texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)


def read(tmp_path, text):
    path = tmp_path / "study.toml"
    path.write_text(text, "utf-8")
    return study_from_toml(path)


def as_sets(points):
    return {json.dumps(point, sort_keys=True) for point in points}


@settings(max_examples=60)
@given(st.lists(st.one_of(adam, sgd), min_size=1, max_size=5), st.integers(0, 3), texts, texts)
def test_the_grid_is_exactly_the_points(tmp_path_factory, points, extra, notes, word):
    points = [
        {**point, "width": 2, "head": word, **({"depth": i} if extra == 3 else {})} for i, point in enumerate(points)
    ]
    values = {"steps": 7, "list": [1, 2.5, word], "flag": True}
    text = study_toml({**HEAD, "notes": notes, "seed": 3}, values, points, "of a\nstudy")
    spec = read(tmp_path_factory.mktemp("toml"), text)
    assert (spec.notes, spec.seed, spec.settings) == (notes, 3, values)
    assert (spec.sampler, spec.trials) == ("grid", len(as_sets(points)))
    drawn = [spec.space.values_set(point) for point in sample(spec.space, "grid", 3, spec.trials)]
    assert as_sets(drawn) == as_sets(points)
    with pytest.raises(InputError, match=r"is more than the grid's"):
        sample(spec.space, "grid", 3, spec.trials + 1)


def test_what_all_points_share_is_fixed(tmp_path):
    spec = read(tmp_path, study_toml(HEAD, {}, [{"rate": 0.1, "width": 2}, {"rate": 0.2, "width": 2}]))
    assert spec.roles == {"width": "fixed", "rate": "nuisance"}
    assert study_toml(HEAD, {}, [{"rate": 0.1}], "a\n\nb").startswith("# a\n#\n# b\nname = ")


def test_names_and_floats_keep_every_digit(tmp_path):
    points = [{"a name": math.nextafter(0.1, 1)}, {"a name": 1e-300}, {"a name": 1e16}]
    spec = read(tmp_path, study_toml(HEAD, {}, points))
    assert as_sets(sample(spec.space, "grid", 0, 3)) == as_sets(points)


def test_points_that_nothing_common_tells_apart():
    with pytest.raises(InputError, match="points differ in a, b, which not all of them have"):
        study_toml(HEAD, {}, [{"a": 1}, {"b": 1}])
    with pytest.raises(InputError, match="x = None is not a number"):
        study_toml(HEAD, {"x": None}, [{"a": 1}])
