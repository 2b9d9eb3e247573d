"""The weights of a best epoch: a copy that training does not change, and the file that it goes to.

The header of a weights file also contains the confusion matrix of the evaluation by which the epoch was
chosen, as JSON (``hpo.training.confusion``). So the weights and how good they are appear together.
"""

import json
from typing import TYPE_CHECKING, Any

import safetensors.torch

from hpo.artifacts import checkpoint, durable
from hpo.artifacts.folders import TrialFolder
from hpo.training import custom
from hpo.training.confusion import HEADER_KEY, Confusion

if TYPE_CHECKING:
    from hpo.training import loop

    Run = loop.TrainingRun | custom.CustomRun

WEIGHTS_PATTERN = "weights-*"  # of the names of weights files


class Weights:
    """The weights after an epoch; of a custom objective, its whole state.

    Args:
        epoch: The number of the epoch, from 1.
        content: Tensors by name, or the state of a custom objective.
        objective: The name of the custom objective; None for built-in training.
        confusion: Of the evaluation after the epoch; None if there was none.
    """

    def __init__(
        self,
        epoch: int,
        content: Any,
        objective: str | None = None,
        confusion: Confusion | None = None,
    ) -> None:
        self.epoch, self.content, self.objective = epoch, content, objective
        self.confusion = confusion

    @classmethod
    def copy_from(cls, run: "Run") -> "Weights":
        """Return the present weights of a run; those that training changes are copied to the CPU."""
        epoch, weights = run.history[-1].number, run.weights()
        if isinstance(run, custom.CustomRun):
            return cls(epoch, checkpoint.snapshot(weights), run.config.objective)
        frozen = run.frozen_weights()
        changing = {name: tensor for name, tensor in weights.items() if name not in frozen}
        content = {**weights, **checkpoint.snapshot(changing)}
        return cls(epoch, content, confusion=run.confusion)

    @staticmethod
    def attempt_of(name: str) -> int:
        """Return the number of the attempt that wrote a weights file, which is part of its name."""
        return int(name.partition(".")[0].rpartition("-")[2])

    def write(self, folder: TrialFolder, attempt: int) -> str:
        """Write the weights durably to the trial's folder; the caller publishes them.

        The file is ``weights-EEEE-AAA``, by epoch and attempt, with the suffix ``.safetensors``; for the
        state of a custom objective it is ``.pt``.

        Args:
            folder: The folder of the trial.
            attempt: The number of the attempt, which becomes part of the file's name.

        Returns:
            The name of the file in the artifacts.

        Raises:
            TypeError: If the state of a custom objective could not be loaded again.
            OSError: If the file cannot be written.
        """
        stem = f"weights-{self.epoch:04d}-{attempt:03d}"
        with durable.atomic_file(folder.path) as draft:
            if self.objective is not None:
                draft.name = f"{stem}.pt"
                checkpoint.dump_own_state(self.content, draft, self.objective, self.content)
            else:
                draft.name = f"{stem}.safetensors"
                for part in self._safetensors():
                    draft.file.write(part)
        return f"{folder.name}/{draft.name}"

    def _safetensors(self) -> tuple[bytes | memoryview, ...]:
        """Return the content of a safetensors file in parts: the header's length, the header, the tensors.

        The matrix is added here and not by the library, which writes several facts in random order
        (safetensors issue 584): equal weights would then have different files.
        """
        tensors = {key: tensor.contiguous() for key, tensor in self.content.items()}
        plain = safetensors.torch.save(tensors, {"format": "pt"})
        start = 8 + int.from_bytes(plain[:8], "little")
        header = json.loads(plain[8:start])
        if self.confusion is not None:
            header["__metadata__"][HEADER_KEY] = self.confusion.model_dump_json()
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # the tensors are aligned to 8 bytes
        return len(text).to_bytes(8, "little"), text, memoryview(plain)[start:]
