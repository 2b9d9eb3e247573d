import io
import threading

import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

from hpo.artifacts import checkpoint
from hpo.training import batches, datasets, events, loop, transforms
from hpo.training.config import Config, FinalConfig

CPU = torch.device("cpu")


def config(**settings) -> Config:
    small = {"model": "shufflenet_v2_x0_5", "image_size": 32, "limit": 32, "batch_size": 8, "epochs": 2}
    return Config(**({"dataset": "digits", "weights": "none"} | small | settings))


def dataset(settings: Config, tmp_path) -> datasets.Dataset:
    return datasets.load_dataset(settings, tmp_path)


def without_seconds(history: list[loop.Epoch]) -> list[tuple]:
    return [(e.number, e.train_loss, e.train_accuracy, e.loss, e.accuracy, e.lr) for e in history]


def report_network(name: str) -> nn.Module:
    """Return an untrained network without dropout, with its last layer replaced as the report did it."""
    network = getattr(torchvision.models, name)()
    if name == "resnet18":
        network.fc = nn.Linear(512, 10)
    else:
        network.classifier[-1] = nn.Linear(network.classifier[-1].in_features, 10)
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return network


def plain_losses(name: str, optimizer: str, settings: Config, split: batches.Split) -> list[float]:
    """Return the mean training loss of each epoch of a plain loop that prepares images singly with PIL."""
    prepare = torchvision.transforms.Compose(
        [
            torchvision.transforms.Resize((settings.image_size, settings.image_size)),
            torchvision.transforms.ToTensor(),
            torchvision.transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    pictures = [Image.fromarray(i.squeeze(0).numpy()).convert("RGB") for i in split.images]
    inputs = torch.stack([prepare(picture) for picture in pictures])
    torch.manual_seed(loop.derive_seed(settings.seed))
    network = report_network(name)
    if optimizer == "sgd":
        updates = torch.optim.SGD(network.parameters(), lr=settings.lr, momentum=settings.momentum)
    else:
        updates = torch.optim.Adam(network.parameters(), lr=settings.lr)
    decay = torch.optim.lr_scheduler.StepLR(updates, settings.step_size, settings.gamma)
    losses = []
    for epoch in range(1, settings.epochs + 1):
        generator = torch.Generator().manual_seed(loop.derive_seed(settings.seed, epoch))
        order = torch.randperm(len(split), generator=generator)
        network.train()
        total = 0.0
        for chosen in (order[:16], order[16:]):  # 33 images: the one left over joins the second batch
            updates.zero_grad()
            loss = nn.functional.cross_entropy(network(inputs[chosen]), split.labels[chosen])
            loss.backward()
            updates.step()
            total += loss.item() * len(chosen)
        decay.step()
        losses.append(total / len(split))
    return losses


LARGE_PAIRS = (("alexnet", "sgd"), ("alexnet", "adam"), ("vgg16", "sgd"), ("resnet18", "adam"))


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [
        ("resnet18", "sgd"),
        ("mobilenet_v3_small", "adam"),
        *(pytest.param(*pair, marks=pytest.mark.slow) for pair in LARGE_PAIRS),
    ],
)
def test_a_plain_pytorch_loop_gives_the_same_losses(name, optimizer, tmp_path):
    settings = config(
        model=name,
        optimizer=optimizer,
        image_size=64,
        limit=33,
        batch_size=16,
        step_size=1,
        lr=1e-4,
        # VGG16 has 134 million parameters, and one epoch of two steps compares them all
        epochs=1 if name == "vgg16" else 2,
        dropout=None if name == "resnet18" else 0.0,
    )
    images = dataset(settings, tmp_path)
    expected = plain_losses(name, optimizer, settings, images.train)
    history = [epoch.train_loss for epoch in loop.TrainingRun(settings, images, CPU).epochs()]
    assert history == pytest.approx(expected, rel=2e-4)


@pytest.mark.parametrize(
    ("optimizer", "steps"),
    [
        ("sgd", 0),
        ("adam", 1),
        ("rmsprop", 3),
        *(
            pytest.param(optimizer, steps, marks=pytest.mark.slow)
            for optimizer, steps in (
                ("sgd", 1),
                ("sgd", 3),
                ("adam", 0),
                ("adam", 3),
                ("rmsprop", 0),
                ("rmsprop", 1),
            )
        ),
    ],
)
def test_a_run_resumed_from_a_state_is_bit_identical(optimizer, steps, tmp_path):
    settings = config(
        model="mobilenet_v3_small",  # batch norm and dropout
        optimizer=optimizer,
        augmentation="crop+flip",
        schedule="onecycle",
        epochs=3,
        sampling="balanced" if optimizer == "rmsprop" else "shuffle",
    )
    images = dataset(settings, tmp_path)
    whole = loop.TrainingRun(settings, images, CPU)
    expected = list(whole.epochs())

    stop = threading.Event()

    def set_stop() -> bool:  # called after each step
        if len(first.history) == 1 and first.step == steps:
            stop.set()
        return False

    first = loop.TrainingRun(settings, images, CPU, stop=stop, wants_pause=set_stop)
    epochs = first.epochs()
    next(epochs)
    if steps == 0:
        stop.set()
    assert list(epochs) == []
    assert (len(first.history), first.step) == (1, steps)

    name = checkpoint.save(tmp_path, first.state(), attempt=1)
    torch.manual_seed(99)  # whatever else ran in between
    second = loop.TrainingRun(settings, images, CPU, state=checkpoint.load(tmp_path / name))
    rest = list(second.epochs())
    assert without_seconds(second.history) == without_seconds(expected)
    assert [epoch.number for epoch in rest] == [2, 3]
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[key]), key


def test_a_run_saved_in_a_pause_within_an_epoch_resumes_from_there(tmp_path):
    settings = config(epochs=1)
    images = dataset(settings, tmp_path)
    whole = loop.TrainingRun(settings, images, CPU)
    list(whole.epochs())
    paused = loop.TrainingRun(settings, images, CPU, wants_pause=lambda: True)
    results = paused.epochs()
    assert [next(results), next(results)] == [None, None]
    assert paused.step == 2
    name = checkpoint.save(tmp_path, paused.state(), attempt=1)
    *pauses, epoch = results
    assert pauses == [None]  # after the third of four steps; after the fourth the epoch is over
    assert without_seconds([epoch]) == without_seconds(whole.history)
    resumed = loop.TrainingRun(settings, images, CPU, state=checkpoint.load(tmp_path / name))
    assert without_seconds(list(resumed.epochs())) == without_seconds(whole.history)


def test_a_run_resumed_after_a_step_whose_loss_was_not_finite_still_names_that_step(tmp_path):
    settings = config(limit=640, batch_size=8)
    images = dataset(settings, tmp_path)
    run = loop.TrainingRun(settings, images, CPU, wants_pause=lambda: True)
    original = run.loss
    run.loss = lambda logits, labels: original(logits, labels) * torch.nan
    next(run.epochs())
    resumed = loop.TrainingRun(settings, images, CPU, state=checkpoint.snapshot(run.state()))
    with pytest.raises(events.Diverged, match="epoch 1, step 1 of 80"):
        list(resumed.epochs())


def test_runs_with_one_seed_are_equal_and_another_seed_changes_them(tmp_path):
    settings = config(epochs=1)
    images = dataset(settings, tmp_path)
    one, same = (list(loop.TrainingRun(settings, images, CPU).epochs()) for _ in range(2))
    other = list(loop.TrainingRun(settings.model_copy(update={"seed": 1}), images, CPU).epochs())
    assert without_seconds(one) == without_seconds(same)
    assert without_seconds(one) != without_seconds(other)


def test_a_loss_that_is_not_finite_ends_the_run_well_before_an_epoch_is_over(tmp_path):
    settings = config(lr=100.0, limit=1200, batch_size=8, momentum=0.99, image_size=16)
    run = loop.TrainingRun(settings, dataset(settings, tmp_path), CPU)
    with pytest.raises(events.Diverged, match=r"epoch 1, step \d+ of 150"):
        list(run.epochs())
    assert run.step <= 75
    assert run.history == []


def test_the_step_named_is_the_first_whose_loss_was_not_finite(tmp_path):
    settings = config(limit=640, batch_size=8)
    run = loop.TrainingRun(settings, dataset(settings, tmp_path), CPU)
    original, losses = run.loss, []

    def loss(logits, labels):
        losses.append(original(logits, labels))
        return losses[-1] * (torch.nan if len(losses) == 6 else 1.0)

    run.loss = loss
    with pytest.raises(events.Diverged, match="epoch 1, step 6 of 80"):
        list(run.epochs())
    assert len(losses) == 8  # twenty checks an epoch: after every fourth step


@pytest.mark.parametrize(
    ("images", "size", "expected"),
    [
        (10, 4, [(0, 4), (4, 10)]),
        (9, 4, [(0, 4), (4, 9)]),
        (8, 4, [(0, 4), (4, 8)]),
        (12, 8, [(0, 8), (8, 12)]),
        (11, 8, [(0, 11)]),
        (1, 4, [(0, 1)]),
        (5, 2, [(0, 2), (2, 5)]),
        (2, 1, [(0, 1), (1, 2)]),
    ],
)
def test_the_last_batch_is_kept_unless_it_is_too_small(images, size, expected):
    assert batches.batch_bounds(images, size) == expected


def test_an_epoch_reports_loss_accuracy_and_speed(tmp_path):
    settings = config(epochs=1, limit=96)
    images = dataset(settings, tmp_path)
    run = loop.TrainingRun(settings, images, CPU)
    (epoch,) = run.epochs()
    run.model.eval()
    with torch.no_grad():
        logits = run.model(
            transforms.normalise(transforms.resize(images.selection.images, settings.image_size))
        )
    expected = nn.functional.cross_entropy(logits, images.selection.labels)
    assert epoch.loss == pytest.approx(expected.item(), rel=1e-5)
    correct = (logits.argmax(1) == images.selection.labels).float().mean()
    assert epoch.accuracy == pytest.approx(correct.item())
    assert epoch.images_per_second == pytest.approx(96 / epoch.train_seconds)
    assert epoch.evaluation_seconds > 0
    assert epoch.lr == settings.lr


def test_accuracy_is_measured_on_the_split_that_selection_names(tmp_path):
    chosen = config(epochs=1)
    with_test = chosen.model_copy(update={"selection": "test"})
    assert dataset(with_test, tmp_path).valid is None
    images = dataset(chosen, tmp_path)
    assert torch.equal(images.selection.images, images.valid.images)


class RecordingRun(loop.TrainingRun):
    """A run that records each evaluation: after how many epochs, and of how many images."""

    def __init__(self, *args, **options) -> None:
        super().__init__(*args, **options)
        self.evaluations: list[tuple[int, int]] = []

    def evaluate(self, split):
        self.evaluations.append((len(self.history), len(split)))
        return super().evaluate(split)


def test_a_final_run_evaluates_the_test_images_once_and_resumes_bit_identically(tmp_path):
    settings = FinalConfig(**config(epochs=3).model_dump(exclude={"selection"}))
    images = dataset(settings, tmp_path)
    whole = RecordingRun(settings, images, CPU)
    assert [epoch.accuracy is None for epoch in whole.epochs()] == [True, True, False]
    assert whole.evaluations == [(2, len(images.test))]
    assert whole.best_epoch is whole.history[-1]

    paused = RecordingRun(settings, images, CPU, wants_pause=lambda: True)
    results = paused.epochs()
    while (len(paused.history), paused.step) != (1, 2):
        next(results)
    assert (paused.best_epoch.number, paused.evaluations) == (1, [])
    name = checkpoint.save(tmp_path, paused.state(), attempt=1)
    resumed = RecordingRun(settings, images, CPU, state=checkpoint.load(tmp_path / name))
    list(resumed.epochs())
    assert without_seconds(resumed.history) == without_seconds(whole.history)
    assert resumed.evaluations == whole.evaluations


def unequal_images(tmp_path) -> datasets.Dataset:
    """Return the digits 0 and 1, nine times as many of the first as of the second."""
    whole = dataset(config(limit=600), tmp_path)

    def choose(split: batches.Split, zeros: int) -> datasets.Split:
        found = [(split.labels == label).nonzero()[:, 0] for label in (0, 1)]
        chosen = torch.cat([found[0][:zeros], found[1][: zeros // 9]])
        return batches.Split(images=split.images[chosen], labels=split.labels[chosen])

    return datasets.Dataset(
        name="digits",
        classes=("0", "1"),
        train=choose(whole.train, 54),
        valid=choose(whole.selection, 9),
        test=choose(whole.test, 9),
    )


def test_balanced_sampling_draws_every_class_as_often_and_shuffling_each_image_once(tmp_path, monkeypatch):
    images, drawn = unequal_images(tmp_path), []
    batch = batches.Split.batch

    def record(split, chosen):
        drawn.extend([] if isinstance(chosen, slice) else chosen.tolist())
        return batch(split, chosen)

    monkeypatch.setattr(batches.Split, "batch", record)
    list(loop.TrainingRun(config(image_size=8, epochs=1), images, CPU).epochs())
    assert sorted(drawn) == list(range(60))
    drawn.clear()
    list(loop.TrainingRun(config(image_size=8, epochs=4, sampling="balanced"), images, CPU).epochs())
    assert len(drawn) == 4 * 60
    assert 0.4 < sum(images.train.labels[drawn].tolist()) / len(drawn) < 0.6
    assert drawn[:60] != drawn[60:120]


def test_class_weights_change_training_and_not_the_loss_of_the_selection_split(tmp_path):
    images = unequal_images(tmp_path)
    settings = config(image_size=8)
    weighted_settings = settings.model_copy(update={"class_weights": "balanced"})
    plain, weighted = (loop.TrainingRun(each, images, CPU) for each in (settings, weighted_settings))
    before = [run.evaluate(images.selection).figures() for run in (plain, weighted)]
    assert before[0] == before[1]
    assert next(plain.epochs()).train_loss != next(weighted.epochs()).train_loss


@pytest.mark.parametrize("loss", ["cross_entropy", "multi_margin", "focal"])
@pytest.mark.parametrize("tune", ["all", "head"])
def test_training_learns(loss, tune, tmp_path):
    settings = config(
        loss=loss, tune=tune, model="resnet18", epochs=3, limit=96, batch_size=16, lr=0.01, image_size=16
    )
    history = list(loop.TrainingRun(settings, dataset(settings, tmp_path), CPU).epochs())
    assert history[-1].train_loss < history[0].train_loss


def test_a_state_holds_nothing_that_safe_loading_refuses(tmp_path):
    settings = config(optimizer="adam", epochs=1, limit=16)
    run = loop.TrainingRun(settings, dataset(settings, tmp_path), CPU)
    list(run.epochs())
    file = io.BytesIO()
    torch.save(run.state(), file)
    file.seek(0)
    assert torch.load(file, weights_only=True)["epoch"] == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("controls", [{}, {"clip_grad_norm": 1.0, "accumulate_steps": 2, "ema_decay": 0.9}])
def test_a_training_step_does_not_synchronize_with_the_gpu(controls, tmp_path):
    settings = config(limit=640, augmentation="crop+flip", **controls)
    stop = threading.Event()

    def refuse_waiting() -> bool:
        torch.cuda.set_sync_debug_mode("error")  # after the first step, which may compile and wait
        if run.step == 10:
            stop.set()
        return False

    run = loop.TrainingRun(
        settings, dataset(settings, tmp_path), torch.device("cuda"), stop=stop, wants_pause=refuse_waiting
    )
    try:
        assert list(run.epochs()) == []
    finally:
        torch.cuda.set_sync_debug_mode("default")
