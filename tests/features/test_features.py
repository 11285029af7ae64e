"""Features and moved statistics on a small network: values, modes, memory, restoration to the bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from selfmask.backbones.backbone import Backbone
from selfmask.backbones.from_module import from_module
from selfmask.backbones.preprocessing import Preprocessing
from selfmask.errors import DataError, SettingsError
from selfmask.features.features import features
from selfmask.features.features import features as features_function
from selfmask.features.knn import knn
from selfmask.features.measure import measure, measure_both
from selfmask.features.statistics import moved_statistics
from selfmask.features.whitening import Whitening
from selfmask.images.image_set import ImageSet


class Small(nn.Module):
    def __init__(self, norm: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6) if norm else nn.GroupNorm(2, 6)
        self.drop = nn.Dropout(0.5)
        self.batches: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.batches.append(len(x))
        return self.drop(self.norm(self.conv(x)).relu()).mean((2, 3))


def small(norm: bool = True) -> Backbone:
    return from_module(Small(norm))


def pictures(count: int = 40) -> ImageSet:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(count) % 2
    pixels = torch.randint(0, 128, (count, 3, 12, 10), generator=generator, dtype=torch.uint8)
    pixels[labels == 1, 0] += 90
    return ImageSet.from_array(pixels, labels)


def test_features_are_the_modules_in_evaluation_mode_whatever_the_batch() -> None:
    backbone, images = small(), pictures()
    backbone.module.train()
    backbone.module.get_submodule("drop").eval()
    before = {name: value.clone() for name, value in backbone.module.state_dict().items()}
    x = features(backbone, images, size=8, batch_size=7)
    modes = [part.training for part in backbone.module.modules()]
    assert modes == [True, True, True, False]  # each sub-module's own mode is back

    settings = backbone.preprocessing
    view = settings.normalise(images.resized(8, settings.crop, settings.interpolation))
    backbone.module.eval()
    with torch.no_grad():
        expected = backbone.module(view)
    assert x.dtype == torch.float32
    assert torch.allclose(x, expected, atol=1e-6)
    assert torch.allclose(features(backbone, images, size=8, channels_last=True), expected, atol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in backbone.module.state_dict().items())
    x.requires_grad_().sum().backward()  # not an inference tensor


def test_a_view_too_large_to_keep_is_made_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, images = small(), pictures()
    whole = features(backbone, images, size=8, batch_size=9)
    sizes: list[int] = []
    resized = ImageSet.resized

    def spy(self: ImageSet, *args: object, **kwargs: object) -> Tensor:
        sizes.append(len(self))
        return resized(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(ImageSet, "resized", spy)
    batches = features_function.__globals__["view_batches"]
    monkeypatch.setitem(batches.__globals__, "WHOLE_VIEW_BYTES", 100)
    assert torch.allclose(features(backbone, images, size=8, batch_size=9), whole, atol=1e-6)
    assert sizes == [9, 9, 9, 9, 4]


def test_another_module_stands_in() -> None:
    backbone, other = small(), Small()
    x = features(backbone, pictures(), size=8, module=other)
    assert not torch.allclose(x, features(backbone, pictures(), size=8))
    with pytest.raises(DataError, match="the set is empty"):
        features(backbone, pictures().subset([]), size=8)
    with pytest.raises(SettingsError, match="batch_size"):
        features(backbone, pictures(), size=8, batch_size=0)


def test_statistics_move_to_the_images_and_come_back_to_the_bit() -> None:
    backbone, images = small(), pictures()
    module = backbone.module
    module.eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    state = torch.random.get_rng_state()
    with moved_statistics(backbone, images, size=8, batch_size=20) as moved:
        assert moved == 2
        assert not any(part.training for part in module.modules())
        settings = backbone.preprocessing
        view = settings.normalise(images.resized(8, settings.crop, settings.interpolation))
        with torch.no_grad():
            reached = module.get_submodule("conv")(view)
        assert torch.allclose(module.get_buffer("norm.running_mean"), reached.mean((0, 2, 3)), atol=0.02)
        spread = reached.var((0, 2, 3))
        assert torch.allclose(module.get_buffer("norm.running_var"), spread, rtol=0.1)
        assert torch.equal(module.get_parameter("conv.weight"), before["conv.weight"])
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_statistics_come_back_after_an_error_and_are_repeatable() -> None:
    backbone, images = small(), pictures()
    before = {name: value.clone() for name, value in backbone.module.state_dict().items()}
    seen: list[Tensor] = []

    def interrupted() -> None:
        with moved_statistics(backbone, images, size=8, batch_size=16, seed=4):
            seen.append(backbone.module.get_buffer("norm.running_mean").clone())
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        interrupted()
    assert all(torch.equal(value, before[name]) for name, value in backbone.module.state_dict().items())
    with moved_statistics(backbone, images, size=8, batch_size=16, seed=4):
        assert torch.equal(backbone.module.get_buffer("norm.running_mean"), seen[0])
    own = [torch.zeros(4, 3, 8, 8)] * 3
    with moved_statistics(backbone, images, batches=own):
        assert int(backbone.module.get_buffer("norm.num_batches_tracked")) == 3


def test_a_network_without_running_statistics_is_not_run() -> None:
    backbone = small(norm=False)
    module = backbone.module
    assert isinstance(module, Small)
    module.batches.clear()
    with moved_statistics(backbone, pictures(), size=8) as moved:
        assert moved == 0
    assert module.batches == []


def test_steps_and_small_sets() -> None:
    backbone = small()
    module = backbone.module
    assert isinstance(module, Small)
    module.batches.clear()
    with moved_statistics(backbone, pictures(10), size=8, batch_size=4, steps=5):
        assert module.batches == [4] * 5
    module.batches.clear()
    with moved_statistics(backbone, pictures(3), size=8):
        assert module.batches == [3] * 50
    module.batches.clear()
    with moved_statistics(backbone, pictures(1_010), size=8, batch_size=2):
        assert module.batches == [2] * 500
    with pytest.raises(DataError, match="at least 2 images"), moved_statistics(backbone, pictures(1), size=8):
        pass


def test_measure_leaves_unlabelled_images_out() -> None:
    backbone, images = small(), pictures(60)
    train = images.subset(range(40))
    labels = train.labels
    labels[:10] = -1
    outcome = measure(
        "pretrained",
        backbone,
        train.with_labels(labels),
        images.subset(range(40, 60)),
        size=8,
        head=(torch.zeros(2, 6), torch.tensor([0.0, 1.0])),
    )
    assert outcome.probe is not None
    assert outcome.head is not None
    assert len(outcome.probe) == 20
    assert outcome.probe.float().mean() == 1  # class 1 is much redder
    assert outcome.head.float().mean() == 0.5  # this head always says 1
    other = ImageSet.from_array(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), [0, 1, 2, 0])
    with pytest.raises(DataError, match="one class list"):
        measure("pretrained", backbone, train, other, size=8)


def test_a_network_that_makes_all_images_one_point_is_measured_without_whitening() -> None:
    images = pictures()
    dead = nn.Conv2d(3, 6, 3)
    for weight in dead.parameters():
        nn.init.zeros_(weight)
    backbone = from_module(nn.Sequential(dead, nn.ReLU()), preprocessing=Preprocessing(size=12))
    found = measure_both("masked", backbone, images, images, size=8)
    assert [outcome.name for outcome in found] == ["masked"]


def test_a_buffer_that_is_assigned_anew_is_put_back() -> None:
    class Averaging(Small):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("ema", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.ema = 0.9 * self.ema + 0.1 * x.mean()
            return super().forward(x)

    backbone = from_module(Averaging(), preprocessing=Preprocessing(size=12))
    module = backbone.module
    before, own = {name: b.clone() for name, b in module.named_buffers()}, module.get_buffer("ema")
    with moved_statistics(backbone, pictures(), size=8, batch_size=16):
        assert not torch.equal(module.get_buffer("ema"), before["ema"])
    assert module.get_buffer("ema") is own
    assert all(torch.equal(b, before[name]) for name, b in module.named_buffers())


def test_the_row_s_dropout_is_drawn_by_its_own_seed() -> None:
    class Dropping(Small):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(self.drop(x))

    backbone, found = from_module(Dropping(), preprocessing=Preprocessing(size=12)), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        with moved_statistics(backbone, pictures(), size=8, batch_size=16, seed=4):
            found.append(backbone.module.get_buffer("norm.running_mean").clone())
    assert torch.equal(*found)


def test_test_images_are_whitened_by_the_training_images() -> None:
    train, test = pictures(), pictures().subset(range(9))
    backbone = from_module(Small(), preprocessing=Preprocessing(size=12, crop=1.0))
    whitened = measure_both("masked", backbone, train, test, size=8)[1]
    x, z = (features(backbone, images, size=8) for images in (train, test))
    by = Whitening.of(x)
    assert whitened.knn is not None
    assert torch.equal(whitened.knn, knn(by.apply(x), train.labels, by.apply(z)) == test.labels)
