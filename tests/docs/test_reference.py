"""The generated parts of the reference: every verb and option, with what the program says about it."""

import re

import pytest
from mkdocs.exceptions import PluginError
from pydantic import BaseModel

import hpo
from docs.generator import commands, hooks, study_file
from hpo.cli.verbs import HELP
from hpo.study.definition import TRIAL_ATTRIBUTES
from hpo.study.search_options import Pruner, Sampler, Search
from hpo.study.space import Choices, Range
from hpo.training.config import DATASETS, STUDY_WIDE, Config
from hpo.training.custom_config import CustomConfig
from tests.support.workplace import ROOT

PAGES = ROOT / "docs" / "reference"


def sections(markdown: str, level: str) -> dict[str, str]:
    """Return the text below each heading of a level, by the heading's id."""
    parts = re.split(rf"^{level} .*\{{#(\S+)\}}$", markdown, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("model", [Config, CustomConfig, Search, Sampler, Pruner])
def test_every_option_of_a_study_file_says_what_it_means(model: type[BaseModel]):
    for name, field in model.model_fields.items():
        assert field.description, f"{name}: write a docstring below the field"
        assert field.description.endswith("."), name


def test_the_reference_says_type_default_and_scope_of_every_option_of_train():
    options = sections(study_file.train_options(), "####")
    assert list(options) == [f"train-{name}" for name in Config.model_fields]
    for name in Config.model_fields:
        text = options[f"train-{name}"]
        assert ("fixed for the study" in text) == (name in STUDY_WIDE), name
    assert (
        "at least 8 and at most 1024 · default `224` · also called `imgsz`, `img_size`"
        in options["train-image_size"]
    )
    assert "used with `optimizer` `sgd`, `rmsprop`" in options["train-momentum"]
    assert '`"none"`, `"flip"`' in options["train-augmentation"]


def test_every_group_of_options_has_its_heading():
    shown = re.findall(r"^### (.*)$", study_file.train_options(), re.MULTILINE)
    assert shown == list(study_file.TRAIN_GROUPS)


def test_the_option_dataset_names_every_published_data_set():
    assert set(DATASETS) <= set(re.findall(r"\w+", Config.model_fields["dataset"].description or ""))


def test_the_page_on_study_files_explains_every_key_of_a_space():
    terms = re.findall(r"^(`.*)\n:   ", (PAGES / "study-file.md").read_text(), re.MULTILINE)
    explained = {name for term in terms for name in re.findall(r"`(\w+)`", term.partition(" · ")[0])}
    assert explained == Choices.model_fields.keys() | Range.model_fields.keys()


def test_every_verb_has_its_section_with_examples_and_exit_codes():
    verbs = sections(commands.verbs(), "###")
    assert verbs.keys() == HELP.keys()
    for verb, text in verbs.items():
        assert all(example in text for example in HELP[verb].examples), verb
        assert all(f"`{code}`" in text for code in HELP[verb].exit_codes), verb
    assert "`--engine local|slurm|ray` · default `local`" in verbs["launch"]
    assert "hpo report NAME --output, -o FILE.html [OPTIONS]" in verbs["report"]


def test_the_reference_names_every_environment_variable():
    table = commands.environment_variables()
    assert re.findall(r"`(HPO_\w+)`", table) == [
        "HPO_STORE",
        "HPO_ARTIFACTS",
        "HPO_DATA",
        "HPO_LEASE_SECONDS",
        "HPO_CACHE_GB",
        "HPO_LOG_LEVEL",
        "HPO_LOG_FORMAT",
    ]


def test_a_page_that_asks_for_an_unknown_part_is_refused():
    with pytest.raises(PluginError, match="environment_variables"):
        hooks.on_page_markdown("# Title\n\n{{ no_such_part }}\n")


def test_every_generated_part_is_on_a_page():
    written = "\n".join(path.read_text() for path in (ROOT / "docs").rglob("*.md"))
    assert set(re.findall(r"^\{\{ (\w+) \}\}$", written, re.MULTILINE)) == set(hooks.BY_NAME)


def test_the_page_on_python_shows_every_public_name_and_method():
    text = (PAGES / "python.md").read_text()
    assert set(re.findall(r"^::: hpo\.(\w+)$", text, re.MULTILINE)) == set(hpo.__all__)
    listed = re.findall(
        r"\w+",
        re.findall(r"^::: hpo\.Study\n +options:\n +members: \[(.*?)\]", text, re.DOTALL | re.MULTILINE)[0],
    )
    public = {name: getattr(hpo.Study, name).__doc__ for name in dir(hpo.Study) if not name.startswith("_")}
    assert set(listed) == {name for name, doc in public.items() if "Examples:" in doc}


def test_the_page_on_attributes_names_every_attribute_that_a_point_may_not_use():
    listed = re.findall(r"^\| `(\w+)` \|", (PAGES / "attributes.md").read_text(), re.MULTILINE)
    assert listed == sorted(listed)
    assert set(TRIAL_ATTRIBUTES) <= set(listed)
