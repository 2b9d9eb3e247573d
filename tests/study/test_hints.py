"""What is said of options under the names that other programs give them."""

import re

import pytest

from hpo.errors import DefinitionError
from hpo.study import file
from hpo.study.aliases import SEARCH_ALIASES, TRAIN_ALIASES
from hpo.study.hints import SEARCH_HINTS, TRAIN_HINTS
from hpo.study.search_options import Pruner, Sampler, Search
from hpo.training import config

FIELDS = {"train": config.Config.model_fields, "search": Search.model_fields}
TABLES = {"train": TRAIN_HINTS, "search": SEARCH_HINTS}
HINTS = [(section, name, hint) for section, table in TABLES.items() for name, hint in table.items()]


def refusal(text: str, tmp_path) -> str:
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(DefinitionError) as refused:
        file.load_study_file(tmp_path / "s.toml")
    return str(refused.value).removeprefix(f"{tmp_path / 's.toml'}: ")


@pytest.mark.parametrize(("section", "name", "hint"), HINTS)
def test_a_hint_names_options_and_values_that_exist(section, name, hint):
    assert name not in FIELDS[section]
    assert name == name.lower().replace("-", "_")
    if hint.isidentifier():
        assert hint in FIELDS[section]
        return
    for table, option in re.findall(r"\b(train|search)\.(\w+)", hint):
        assert option in FIELDS[table], hint
    for option, value in re.findall(r"train\.(\w+) = '([^']+)'", hint):
        config.Config.model_validate({option: value})
    if "may have" in hint:
        named = {*re.findall(r"\b[a-z]+(?:_[a-z]+)+\b|\bseed\b", hint)}
        assert named <= {*Pruner.model_fields, *Sampler.model_fields}, hint
    assert hint == hint.strip(" .;")


def test_an_alias_needs_no_hint_where_it_is_accepted():
    assert not TRAIN_ALIASES.keys() & TRAIN_HINTS.keys()
    assert not SEARCH_ALIASES.keys() & SEARCH_HINTS.keys()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[train]\nmixup = 0.2", "train.mixup is not an option; did you mean 'mixup_alpha'? 'hpo schema' "),
        ("[train]\nclip-grad = 1.0", "train.clip-grad is not an option; did you mean 'clip_grad_norm'? 'h"),
        (
            "[train]\nScheduler = 'x'",
            "train.Scheduler is not an option; did you mean 'schedule'? 'hpo schema' ",
        ),
        ("[train]\nfp16 = true", "train.fp16 is not an option: train.precision = 'fp16'; 'hpo sch"),
        ("[train]\nnum_workers = 4", "train.num_workers is not an option: images are decoded once, by all"),
        ("[space]\nlearning_rate = [1.0]", "space.learning_rate is not an option; did you mean 'lr'? 'hpo"),
        ("[space]\nval_split = [1.0]", "space.val_split is not an option: a data set's own splits are use"),
        (
            "[space]\nsampler = ['x']",
            "space.sampler is not an option; did you mean 'sampling'? 'hpo schema' ",
        ),
        ("[space]\namp_dtype = ['x']", "space.amp_dtype is not an option: it is 'precision' here, which o"),
        (
            "[[points]]\nbatch = 3",
            "points[1].batch is not an option; did you mean 'batch_size'? 'hpo schema' ",
        ),
        ("epochs = 3", "epochs is not an option: it belongs below [train], [space] or [[points]]; options"),
        ("n_trials = 3", "n_trials is not an option: it belongs below [search]; options: name, points, se"),
        ("[search]\nnum_samples = 3", "search.num_samples is not an option; did you mean 'trials'? option"),
        ("[search]\nn_jobs = 3", "search.n_jobs is not an option: hpo run STUDY --devices says how many w"),
        (
            "[space]\nlr = { choices = [1.0], when = { opt = 'sgd' } }",
            "space.lr.when.opt is not an option; did you mean 'optimizer'? 'hpo schema' ",
        ),
    ],
)
def test_names_of_other_programs_lead_to_the_option_that_is_meant(text, expected, tmp_path):
    assert refusal(text, tmp_path).startswith(expected)


def test_several_unknown_names_are_told_with_their_hints(tmp_path):
    found = refusal("[train]\nworkers = 4\nopt = 'sgd'\n[search]\ntimeout = 3", tmp_path)
    assert found.startswith(
        "3 problems: (1) train.workers is not an option: images are decoded once, by all cores, so there "
        "are no loader processes to configure; (2) train.opt is not an option; did you mean "
        "'optimizer'? 'hpo schema' "
    )
    assert "(3) search.timeout is not an option; did you mean 'device_hours'? options: " in found


def test_the_table_has_the_names_of_four_programs():
    assert len(HINTS) > 150
