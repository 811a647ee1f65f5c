"""One adapter of several users, trained with PerCE: the paper's setting, but for LoRA."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adapt.dataset import fingerprint
from perce.adapter import save_adapter
from perce.adapter_files import model_fingerprint
from perce.hyperparameters import Hyperparameters
from scripts.attune.bench.base import Base
from scripts.attune.bench.kept import Kept, name_of
from scripts.attune.bench.users.measure import adapted
from scripts.attune.bench.users.subject import Subject


@dataclass(frozen=True, slots=True)
class Population:
    """A population adapter's folder, and the seconds of its training."""

    folder: Path
    seconds: float


@dataclass(frozen=True, slots=True)
class Populations:
    """Trains population adapters; what is trained stays in a folder, and is not trained again.

    Adapters of other texts, base models or settings lie in it side by side.
    """

    base: Base
    kept: Kept
    work: Path

    def of(self, subjects: Sequence[Subject], hyper: Hyperparameters) -> Population:
        """Return the adapter of these users' pasts.

        Raises:
            perce.train.TrainingDiverged: The learning rate is too high.
        """
        examples = [example for subject in subjects for example in subject.train]
        model = model_fingerprint(self.base.model.name_or_path)
        name = f"population-{name_of(fingerprint(examples), model, asdict(hyper))}"
        folder = self.work / name

        def train() -> dict[str, Any]:
            with adapted(self.base, examples, hyper) as trained:
                save_adapter(trained.model, folder)
                return {"seconds": trained.seconds}

        return Population(folder, **self.kept.recall(name, train))
