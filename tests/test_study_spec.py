import pytest

from harness.records import InputError
from harness.search.study_spec import study_from_toml

HEAD = 'name = "rates"\nworkload = "wide_resnet"\ntrials = 8\n'
AXIS = "[space.learning_rate]\nlow = 1e-3\nhigh = 1.0\nscale = 'log'\n"


@pytest.fixture
def write(tmp_path):
    def write_spec(text):
        path = tmp_path / "study.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write_spec


def test_what_is_left_out(write):
    spec = study_from_toml(write(HEAD + AXIS))
    assert (spec.name, spec.workload, spec.trials) == ("rates", "wide_resnet", 8)
    assert (spec.notes, spec.scale, spec.seed, spec.replicates, spec.sampler) == ("", "laptop", 0, 1, "halton")
    assert (spec.parallel, spec.objective, spec.settings) == (None, None, {})
    assert spec.roles == {"learning_rate": "nuisance"}
    assert study_from_toml(write(HEAD + "sampler = 'bayesian'\n" + AXIS)).parallel == 4


def test_roles(write):
    axes = (
        "[space.optimizer]\nrole = 'scientific'\nvalues = ['adam', 'sgd']\n"
        "[space.beta]\nrole = 'fixed'\nvalue = 0.9\nhyperparameter = 'beta1'\nwhen = { optimizer = 'adam' }\n"
    )
    spec = study_from_toml(write(HEAD + "[set]\nsteps = 20\n" + AXIS + axes))
    assert spec.roles == {"learning_rate": "nuisance", "optimizer": "scientific", "beta": "fixed"}
    assert (spec.space["beta"].values, spec.space["beta"].hyperparameter) == ((0.9,), "beta1")
    assert spec.settings == {"steps": 20}


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ("notes = 'other'", True),
        ("trials = 9", True),
        ("objective = 'best_loss'", True),
        ("seed = 1", False),
        ("replicates = 2", False),
        ("sampler = 'sobol'", False),
        ("scale = 'smoke'", False),
    ],
)
def test_identity_is_what_decides_the_trials(write, change, same):
    whole = study_from_toml(write(HEAD + AXIS)).identity()
    head = "\n".join(line for line in HEAD.splitlines() if line.split()[0] != change.split()[0])
    assert (study_from_toml(write(f"{head}\n{change}\n{AXIS}")).identity() == whole) == same
    assert study_from_toml(write(HEAD + AXIS + "role = 'scientific'\n")).identity() == whole
    assert study_from_toml(write(HEAD + AXIS.replace("1.0", "2.0"))).identity() != whole


def test_identity_of_a_bayesian_search_knows_what_it_was_told(write):
    head = HEAD + "sampler = 'bayesian'\n"
    whole = study_from_toml(write(head + AXIS)).identity()
    for change in ("objective = 'best_loss'\n", "parallel = 2\n"):
        assert study_from_toml(write(head + change + AXIS)).identity() != whole


BAD = [
    ("", "name is missing; a study needs name, workload, trials, space"),
    (HEAD, "space is missing"),
    (HEAD + "[space]", "search space is empty"),
    (HEAD + "space = 3", "space = 3 is not a table; write [space.learning_rate]"),
    (HEAD + "space.learning_rate = 0.1", "hyperparameter 'learning_rate': 0.1 is not a table"),
    (HEAD + "trails = 3\n" + AXIS, "unknown key 'trails'; known keys: name, notes"),
    (HEAD + "trails = 3\n" + AXIS, "did you mean 'trials'?"),
    (HEAD.replace("8", "0") + AXIS, "trials = 0 is out of range; give an integer from 1"),
    (HEAD.replace("8", "8.5") + AXIS, "trials = 8.5 is not an integer"),
    (HEAD.replace("8", "'8'") + AXIS, "trials = '8' is not an integer"),
    (HEAD.replace("8", "true") + AXIS, "trials = True is not an integer"),
    (HEAD + "seed = -1\n" + AXIS, "seed = -1 is out of range"),
    (HEAD + "replicates = 0\n" + AXIS, "replicates = 0 is out of range"),
    (HEAD.replace('"rates"', "'../up'") + AXIS, "name = '../up' cannot name a folder"),
    (HEAD.replace('"rates"', "'..'") + AXIS, "name = '..' cannot name a folder"),
    (HEAD.replace('"rates"', "''") + AXIS, "name = '' cannot name a folder"),
    (HEAD.replace('"rates"', "3") + AXIS, "name = 3 is not a string"),
    (HEAD + "notes = ['a']\n" + AXIS, "notes = ['a'] is not a string"),
    (
        HEAD + "sampler = 'halton2'\n" + AXIS,
        "sampler = 'halton2' is unknown; known: halton, sobol, random, grid, bayes",
    ),
    (HEAD + "sampler = 'halton2'\n" + AXIS, "did you mean 'halton'?"),
    (
        HEAD + "objective = 'error'\n" + AXIS,
        "objective = 'error' is unknown; known: best_error, best_loss, final_error",
    ),
    (HEAD + "objective = 3\n" + AXIS, "objective = 3 is unknown"),
    (HEAD + "parallel = 4\n" + AXIS, "parallel = 4 goes with sampler = 'bayesian' alone"),
    (HEAD + "sampler = 'bayesian'\nparallel = 0\n" + AXIS, "parallel = 0 is out of range"),
    (HEAD + "set = 3\n" + AXIS, "set = 3 is not a table"),
    (HEAD + AXIS + "[set]\nlearning_rate = 0.1", "'learning_rate' is in [set] and in the space; keep one"),
    (HEAD + AXIS + "hyperparameter = 'momentum'\n[set]\nmomentum = 0.1", "'momentum' is in [set] and in the space"),
    (HEAD + AXIS + "[set.steps]\nlow = 1", "set.steps = {'low': 1} is not a number"),
    (HEAD + AXIS + "[set]\nsteps = 2020-01-01", "is not a number, a string, a boolean or a list"),
    (
        HEAD + AXIS + "role = 'science'",
        "'learning_rate': role = 'science' is unknown; known: scientific, nuisance, fixed",
    ),
    (HEAD + AXIS + "role = 'fixed'", "role = 'fixed' needs its value; add value"),
    (HEAD + AXIS + "role = 'fixed'\nvalue = 0.1", "low = 0.001 does not go with role = 'fixed'; give value alone"),
    (HEAD + AXIS + "value = 0.1", "value = 0.1 goes with role = 'fixed'"),
    (HEAD + AXIS + "rolle = 'fixed'", "'learning_rate': unknown key 'rolle'; known keys: role, value, low, high"),
    (HEAD + "[space.a]\nrole = 'fixed'\nvalue = [1]", "'a': value [1] is not a finite number"),
    (HEAD + AXIS + "when = { optimizer = 'adam' }", "when names 'optimizer', which is not in the space"),
    (HEAD + "[space", "is not TOML"),
    (HEAD.encode() + b"notes = '\xff'", "is not UTF-8"),
]


@pytest.mark.parametrize(("text", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_bad_specifications(write, text, message):
    path = write(text)
    with pytest.raises(InputError) as caught:
        study_from_toml(path)
    line = str(caught.value)
    assert len(line.splitlines()) == 1
    assert line.startswith(f"{str(path)!r}: ")
    assert message in line


def test_an_unreadable_file(tmp_path):
    with pytest.raises(InputError, match=r"cannot be read \(No such file.*give the path of a study's specification"):
        study_from_toml(tmp_path / "absent.toml")
