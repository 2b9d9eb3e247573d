"""What ``import hpo`` offers, what it imports, and what type checkers see."""

import re
import subprocess
import sys

import pytest

import hpo
from hpo.cli.verbs import HELP

SCRIPT = """
import hpo

study = hpo.create({"name": "mine"}, overrides={"train.epochs": 5})
study = hpo.load("mine", store=None)
reveal_type(study.best(n=1)[0].value)
reveal_type(study.status().trials["complete"])
reveal_type(study.trials()[0].intermediate_values)
study.run(devices="auto", progress=True)
try:
    number: int = study.enqueue(lr=1e-3)
except hpo.HpoError as error:
    print(error)
study.retry(trial="one")
"""
CONFIGURATION = """
[mypy]
strict = true
follow_imports = silent
ignore_missing_imports = true
[mypy-torch.*,optuna.*,sqlalchemy.*,numpy.*,pydantic.*,scipy.*,fsspec.*,rich.*,tenacity.*,plotly.*,PIL.*]
follow_imports = skip
"""


def test_every_public_name_is_there_and_documented_with_an_example():
    assert set(hpo.__all__) <= set(dir(hpo))
    for name in hpo.__all__:
        found = getattr(hpo, name)
        assert found.__doc__, name
    methods = {name: getattr(hpo.Study, name) for name in dir(hpo.Study) if not name.startswith("_")}
    helpers = {"read", "problems", "definition", "artifacts_folder", "logs_folder"}
    helpers |= {"check_exists", "check_deletable"}
    for name, method in methods.items():
        assert "Examples:" in method.__doc__ or name in helpers, name
    for function in (hpo.create, hpo.load, hpo.studies, hpo.Model, hpo.Model.predict):
        assert "Examples:" in function.__doc__


def test_a_verb_that_a_message_names_has_its_name_in_python():
    of_the_command_alone = {"launch", "worker", "data", "doctor", "schema", "dashboard", "predict"}
    python = {name for name in (*dir(hpo.Study), *hpo.__all__) if not name.startswith("_")}
    assert set(HELP) - python == of_the_command_alone
    assert "study.run()" in (hpo.HpoError.__doc__ or ""), "in place of hpo launch"


def test_an_unknown_name_says_which_there_are():
    with pytest.raises(AttributeError, match="module 'hpo' has no attribute 'find'; it has HpoError, "):
        hpo.find  # noqa: B018


@pytest.mark.processes
def test_importing_hpo_imports_nothing_heavy():
    code = "import sys; import hpo; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"torch", "optuna", "sqlalchemy", "numpy", "pydantic", "rich", "typer", "pandas"}
    assert [name for name in loaded if name.startswith("hpo.")] == []


@pytest.mark.processes
@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_reading_a_study_imports_no_torch(study):
    code = f"""
import sys, hpo
study = hpo.load({study.name!r}, {study.locations.store!r})
study.status(), study.trials(), study.best(), study._repr_html_(), study.pause(), study.dataframe()
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.processes
def test_a_type_checker_finds_the_types_in_a_users_script(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "mypy.ini").write_text(CONFIGURATION)
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path / "cache"), "script.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    types = re.findall(r'note: Revealed type is "(.*)"', done.stdout)
    assert [re.sub(r"builtins\.|typing\.|collections\.abc\.", "", each) for each in types] == [
        "float",
        "int",
        "Mapping[int, float]",
    ]
    errors = [line for line in done.stdout.splitlines() if " error: " in line]
    assert len(errors) == 1, done.stdout
    assert 'Argument "trial" to "retry" of "Study" has incompatible type "str"' in errors[0]
