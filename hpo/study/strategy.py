"""What ``search.strategy = "auto"`` chooses for a study whose file names neither a sampler nor a pruner.

Why it chooses so is measured: for one objective by ``benchmarks/many_studies.py``, for several by
``benchmarks/fronts.py``.
"""

from hpo.study.definition import Definition
from hpo.study.search_options import Pruner


def with_strategy(found: Definition) -> Definition:
    """Return a definition with the sampler and the pruner that suit it best; unchanged if it names some.

    Args:
        found: The definition; the seed of its sampler is kept.
    """
    search = found.search
    if search.strategy is None:
        return found
    sampler, pruner = ("nsgaii", "asha") if search.objectives else ("freeze_thaw", "freeze_thaw")
    chosen = {
        "sampler": search.sampler.model_copy(update={"name": sampler}),
        "pruner": Pruner.model_validate({"name": pruner}),
    }
    return found.model_copy(update={"search": search.model_copy(update=chosen)})


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
