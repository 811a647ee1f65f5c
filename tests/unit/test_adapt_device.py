import pytest

from adapt.device import Placement, choose_placement
from adapt.errors import PlacementError
from server.settings import Settings


def chosen(gpus: int, **settings: object) -> Placement:
    return choose_placement(Settings.model_validate({"train_threads": 3, **settings}), gpus)


def test_without_a_gpu_training_steps_back_on_the_cpu() -> None:
    assert chosen(0) == Placement("cpu", "cpu", 3, niceness=10)


def test_a_shared_gpu_s_default_share_is_what_the_engine_leaves() -> None:
    assert chosen(1) == Placement("cuda:0", "shared", 3, memory_share=0.35)
    assert chosen(2, train_device="cuda:1", train_memory_share=0.2).memory_share == 0.2


def test_a_gpu_of_its_own_and_a_window_have_no_share() -> None:
    dedicated = chosen(2, train_gpu="dedicated", train_device="cuda:1")
    assert (dedicated.device, dedicated.memory_share) == ("cuda:1", None)
    assert chosen(1, train_gpu="window") == Placement("cuda:0", "window", 3)


def test_the_only_gpu_may_be_training_s_where_the_engine_is_on_another_machine() -> None:
    engines = ("http://engine-1:8001",)
    placement = chosen(1, train_gpu="dedicated", train_device="cuda:0", engine_urls=engines)
    assert placement.device == "cuda:0"


@pytest.mark.parametrize(
    ("gpus", "settings", "words"),
    [
        (0, {"train_device": "gpu"}, "use 'cpu', 'cuda', or a GPU such as 'cuda:1'"),
        (0, {"train_device": "cuda"}, "finds no GPUs"),
        (1, {"train_device": "cuda:1"}, "finds 1 GPU:"),
        (0, {"train_gpu": "window"}, "engine's sleep frees nothing"),
        (1, {"train_gpu": "dedicated", "train_device": "cpu"}, "training runs on the CPU"),
        (0, {"train_memory_share": 0.3}, "share of a GPU's memory"),
        (1, {"train_memory_share": 0.5}, r"\(0.5\) and the engine's \(0.55\) do not fit"),
        (1, {"engine_memory_share": 0.95}, "do not fit"),
        (2, {"train_gpu": "dedicated"}, "name training's GPU"),
        (1, {"train_gpu": "dedicated", "train_device": "cuda:0"}, "use 'shared' or 'window'"),
        (1, {"train_gpu": "window", "train_memory_share": 0.3}, "leave the share out"),
    ],
)
def test_what_cannot_work_together_is_refused(
    gpus: int, settings: dict[str, object], words: str
) -> None:
    with pytest.raises(PlacementError, match=words):
        chosen(gpus, **settings)
