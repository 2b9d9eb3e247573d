"""What ``search.strategy = "auto"`` chooses for a study whose file names neither a sampler nor a pruner.

Why it chooses so is measured: for one objective by ``benchmarks/many_studies.py``, for several by
``benchmarks/fronts.py``.
"""

from typing import Any

from hpo.study.definition import Definition
from hpo.study.search_options import Pruner, Search


def with_strategy(search: Search) -> Search:
    """Return ``[search]`` with the sampler and the pruner that suit it best, where it names neither.

    The seed of a sampler names none. If it names one of the two, its strategy is None. A study with several
    objectives that names a pruner alone has the sampler NSGA-II, too, as in Optuna.

    Args:
        search: As it was read from a file, so that it knows what the file gave.
    """
    names_pruner = "pruner" in search.model_fields_set
    if "name" in search.sampler.model_fields_set:
        return search.model_copy(update={"strategy": None})
    default = "tpe" if names_pruner else "freeze_thaw"
    name = "nsgaii" if search.objectives else default
    chosen: dict[str, Any] = {"sampler": search.sampler.model_copy(update={"name": name})}
    if names_pruner:
        chosen["strategy"] = None
    else:
        chosen["pruner"] = Pruner.model_validate({"name": "asha" if search.objectives else "freeze_thaw"})
    return search.model_copy(update=chosen)


def describe_strategy(found: Definition) -> str | None:
    """Return in one line what was chosen and why; None if the file names it, or nothing is searched."""
    search = found.search
    if search.strategy is None or not found.searched_trials:
        return None
    if search.objectives:
        return f"strategy auto: sampler nsgaii and pruner asha, for {len(search.objectives)} objectives"
    if found.max_epochs() == 1:
        return "strategy auto: sampler freeze_thaw; with one epoch no trial ends early"
    return (
        "strategy auto: sampler and pruner freeze_thaw; a model of all learning curves decides which "
        "setting begins and which trial continues"
    )
