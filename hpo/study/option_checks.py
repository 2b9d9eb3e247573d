"""Checks of training options: the values in ``[train]``, ``[space]`` and points.

The models in ``hpo.training.config`` say which values an option allows. Three options need more:
``name_checks`` has the checks of names. ``value_schemas`` gives the same rules as JSON Schema.
"""

import keyword
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter

from hpo.errors import DefinitionError, quote_value, suggestion
from hpo.study import name_checks
from hpo.study.checks import Problems, check_keys, dotted_key, field_schema, validate_field
from hpo.study.hints import TRAIN_HINTS
from hpo.study.space import Scalar, Setting
from hpo.training import catalog, config, option_tables
from hpo.training.config import Config
from hpo.training.libraries import first_accepted_image_size, library_of
from hpo.training.option_tables import OptionTable

# ASCII identifiers; beyond ASCII, str.isidentifier decides.
CUSTOM_NAME_PATTERN = r"^[^\x00-@\[-`{-\x7f][^\x00-/:-@\[-^`{-\x7f]*$"


def validate_options(
    given: Mapping[str, Any], where: str, section: str, options: OptionTable
) -> dict[str, Any]:
    """Return the options of ``[train]`` or of a point as the options' types; nothing is added.

    Args:
        given: The values as ``tomllib`` reads them, by option.
        where: The study file, as error messages name it.
        section: The name of the table.
        options: The options that the study may use.

    Raises:
        DefinitionError: If options are unknown, or their values are not allowed; it names them all.
    """
    problems = Problems(where)
    with problems.collect():
        check_keys(given, options.options, where, section, TRAIN_HINTS)
    checked = {}
    for name, each in given.items():
        if options.options is None or name in options.options:
            with problems.collect():
                checked[name] = validate_option(name, each, where, dotted_key(section, name), options)
    problems.report()
    return checked


def validate_option(name: str, value: Any, where: str, key: str, options: OptionTable) -> Any:
    """Return one value of an option as the option's type: 1 for a float becomes 1.0.

    The built-in options also need a known data set and model, and weights that exist if they are a file.

    Args:
        name: The option. One that ``options`` does not define is taken as a custom objective's: it must be
            an identifier without a leading "_" and no keyword, its value a number, a string or a boolean.
            ``validate_options`` refuses unknown names first.
        value: Its value as ``tomllib`` reads it.
        where: The study file, as error messages name it.
        key: The full name of the value, for error messages.
        options: The options that the study may use.

    Raises:
        DefinitionError: If the value, or the name of a custom option, is not allowed.
    """
    if name not in options.config_class.model_fields:
        return _validate_custom_option(name, value, where, key)
    checked = validate_field(options.config_class, name, value, where, key)
    if options is option_tables.BUILT_IN_OPTIONS and name in name_checks.NAME_CHECKS:
        name_checks.NAME_CHECKS[name](checked, where, key)
    return checked


def _validate_custom_option(name: str, value: Any, where: str, key: str) -> Any:
    """Check an option that only a custom objective knows."""
    if not name.isidentifier() or name.startswith("_"):
        raise DefinitionError(
            f"{where}: {key}: want a Python identifier that does not begin with '_', "
            f"found {quote_value(name)}"
        )
    if keyword.iskeyword(name):
        raise DefinitionError(
            f"{where}: {key}: {quote_value(name)} is a keyword of Python, so config.{name} cannot be "
            f"written; use another name, such as {name}_"
        )
    if not isinstance(value, Scalar):
        raise DefinitionError(
            f"{where}: {key}: want a number, a string, true or false, found {quote_value(value)}"
        )
    return value


def value_schemas(options: OptionTable) -> dict[str, dict[str, Any]]:
    """Return the JSON Schema of each option's value, by the option's name.

    For the built-in options this imports torchvision, for the names of its models. Other options of a
    custom objective have ``custom_value_schema``.
    """
    schemas = {name: field_schema(field) for name, field in options.config_class.model_fields.items()}
    if options is option_tables.BUILT_IN_OPTIONS:
        schemas["dataset"]["pattern"] = name_checks.DATASET_PATTERN
        names = {"enum": list(catalog.model_names())}
        patterns = (config.FUNCTION_PATTERN, config.TIMM_PATTERN)
        schemas["model"]["anyOf"] = [names, *({"pattern": each} for each in patterns)]
    return schemas


def custom_value_schema() -> dict[str, Any]:
    """Return the JSON Schema of an option that only a custom objective knows."""
    return TypeAdapter(Scalar).json_schema()


def is_used(name: str, setting: Setting, options: OptionTable) -> bool:
    """Return whether training uses an option: Adam has no momentum, whatever ``[train]`` says.

    Args:
        name: The option.
        setting: The values of the other options; a missing one does not use ``name``.
        options: The options that the study may use.
    """
    other, users = options.used_by.get(name, ("", ()))
    return not other or setting.get(other) in users


def unused_option_message(name: str, *values: Any) -> str:
    """Return the message that values of another option do not use option ``name``, and which values do.

    Args:
        name: A key of ``config.USED_BY``.
        values: The values of the other option that were found.
    """
    other, users = config.USED_BY[name]
    found = " or ".join(map(quote_value, values))
    return f"{other} {found} has no {name}; it is for {', '.join(users)}; leave it out"


def check_weights_of_model(model: str, weights: str, where: str, section: str) -> None:
    """Check that the model's library has the weights that it is asked for, or that they are a file.

    Args:
        model: A model with a known name, or a network of the user's own.
        weights: The option ``weights``.
        where: The study file, as error messages name it.
        section: The part of the file that both come from; empty for ``[space]``.

    Raises:
        DefinitionError: If it has none of this name for the model; it says which there are.
    """
    key = f"{where}: {dotted_key(section, 'weights')}"
    if catalog.is_weights_file(model, weights) and not name_checks.is_file(weights):
        raise DefinitionError(
            f"{key}: model '{model}' has no weights {quote_value(weights)}, which are weights of timm, and "
            "there is no such file; for them name a model of timm, timm/NAME"
        )
    if not catalog.is_named_weights(model, weights):
        return
    if catalog.is_user_network(model):
        kind = "ImageNet weights" if weights == "imagenet" else f"weights {quote_value(weights)}"
        raise DefinitionError(
            f"{key}: there are no {kind} for '{model}', a network of your own; use 'none' or a file. "
            "Beside models of torchvision, search weights = "
            f'{{ choices = ["none"], when = {{ model = "{model}" }} }}'
        )
    if weights == "imagenet" and model in catalog.SMALLEST_IMAGE_SIZES:
        return
    library = library_of(model)
    if library.find_weights(model, weights):
        return
    names = library.weights_names(model)
    allowed = ", ".join(names) or "none; use 'none' or a file"
    raise DefinitionError(
        f"{key}: model '{model}' has no weights {quote_value(weights)}{suggestion(weights, names) or ';'} "
        f"it has {allowed}"
    )


def check_trainable(settings: Config, where: str, section: str) -> None:
    """Check that a model can be trained with these settings.

    For models that are not known beforehand, or with dropout or stochastic depth, this imports torch, which
    takes seconds. A network of the user's own is imported, built and run on two images, which runs the
    user's code.

    Args:
        settings: The complete settings of a trial.
        where: The study file, as error messages name it.
        section: The part of the file that the settings come from; empty for ``[space]``.

    Raises:
        DefinitionError: If the model lacks dropout or stochastic depth that the settings ask for, or does
            not accept their image size, or batches of one image; if it is one of timm's without a last
            layer that could be replaced; or if it is a network of the user's own that cannot be built, or
            does not say which layer ``tune = "head"`` trains.
    """
    model, size = settings.model, settings.image_size
    if catalog.is_user_network(model):
        _check_user_network(settings, where, section)
        return
    is_plain = settings.dropout is None and not settings.drop_path
    if is_plain and catalog.is_known_to_train(model, size, settings.batch_size):
        return
    if catalog.is_timm_model(model):
        _check_timm_head(model, where, section)
    library = library_of(model)
    problems = Problems(where)
    with problems.collect():
        if settings.dropout is not None and not library.has_dropout(model):
            raise _lacks("dropout", "dropout", model, where, section)
    with problems.collect():
        if settings.drop_path and not library.has_stochastic_depth(model):
            raise _lacks("drop_path", "stochastic depth", model, where, section)
    problems.report()
    if reason := library.image_size_problem(model, size, weights=settings.weights):
        fits = first_accepted_image_size(model, settings.weights)
        raise _image_size_refused(settings, reason, fits, where, section)
    if settings.batch_size == 1 and (
        reason := library.image_size_problem(model, size, 1, settings.weights)
    ):
        raise _single_images_refused(settings, reason, where, section)


def _check_timm_head(model: str, where: str, section: str) -> None:
    from hpo.training import timm_models  # takes seconds

    if problem := timm_models.head_problem(model):
        raise DefinitionError(f"{where}: {dotted_key(section, 'model')}: '{model}' {problem}")


def _check_user_network(settings: Config, where: str, section: str) -> None:
    """Do what ``check_trainable`` does, for a network of the user's own."""
    from hpo.training import user_network  # imports torch, which verbs that read a study need not do

    model, size = settings.model, settings.image_size
    option = f"{where}: {dotted_key(section, 'model')}"
    probe = user_network.probe_network(model, option)
    problems = Problems(where)
    with problems.collect():
        if settings.dropout is not None and not probe.has_dropout():
            raise _lacks("dropout", "dropout", model, where, section)
    with problems.collect():
        if settings.drop_path and not probe.has_stochastic_depth():
            raise _lacks("drop_path", "torchvision.ops.StochasticDepth", model, where, section)
    problems.report()
    if settings.tune == "head" and user_network.find_head(probe.module, model, option) is None:
        problem = user_network.describe_missing_head(model)
        raise DefinitionError(f"{where}: {dotted_key(section, 'tune')}: {problem}")
    if reason := probe.image_size_problem(size, 2, option):
        fits = probe.first_accepted_image_size(option)
        raise _image_size_refused(settings, reason, fits, where, section)
    if settings.batch_size == 1 and (reason := probe.image_size_problem(size, 1, option)):
        raise _single_images_refused(settings, reason, where, section)


def check_head(model: str, options: Sequence[str], where: str) -> None:
    """Check that a network of the user's own says which layer is its head, for options that need it.

    Args:
        model: ``package.module:function``, which returns it.
        options: The options, at least one.
        where: The study file, as error messages name it.

    Raises:
        DefinitionError: If it does not say so, or cannot be built.
    """
    from hpo.training import user_network  # imports torch, which verbs that read a study need not do

    option = f"{where}: model"
    if user_network.find_head(user_network.probe_network(model, option).module, model, option) is None:
        problem = user_network.describe_missing_head(model, f"leave out {', '.join(options)}")
        raise DefinitionError(f"{option}: {problem}")


def _lacks(option: str, what: str, model: str, where: str, section: str) -> DefinitionError:
    return DefinitionError(
        f"{where}: {dotted_key(section, option)}: model '{model}' has no {what}; leave it out, or "
        'search it with when = { model = "..." } for a model that has'
    )


def _image_size_refused(
    settings: Config, reason: str, fits: int | None, where: str, section: str
) -> DefinitionError:
    size = settings.image_size
    instead = f"; use {fits}, for example" if fits else ""
    return DefinitionError(
        f"{where}: {dotted_key(section, 'image_size')}: model '{settings.model}' does not accept images of "
        f"{size} x {size} pixels ({reason}){instead}"
    )


def _single_images_refused(settings: Config, reason: str, where: str, section: str) -> DefinitionError:
    size = settings.image_size
    return DefinitionError(
        f"{where}: {dotted_key(section, 'batch_size')}: model '{settings.model}' cannot be trained on "
        f"batches of one image of {size} x {size} pixels ({reason}); use 2 or more"
    )
