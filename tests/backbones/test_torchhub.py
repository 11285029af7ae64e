"""torch.hub against a local repository of the same form as the authors' ones: no network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from selfmask.backbones.spec import backbone_of, build, rebuild
from selfmask.errors import BackboneError
from selfmask.maskfile.loading import load
from selfmask.maskfile.saving import save_mask

HUBCONF = '''
import torch
import torchvision

dependencies = ["torch", "torchvision"]

def resnet18(pretrained=True, **kwargs):
    """As SwAV's: a torchvision network, its `fc` at random."""
    model = torchvision.models.resnet18(**kwargs)
    if pretrained:
        torch.manual_seed(7)
        for p in model.parameters():
            torch.nn.init.normal_(p, std=0.05)
    return model

def nonsense(pretrained=True):
    return {"not": "a network"}

def gone(pretrained=True):
    raise OSError("no route to the weights")
'''


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "hubconf.py").write_text(HUBCONF)
    return folder


def test_a_repository_s_network_loses_its_classifier(repository: Path) -> None:
    backbone = build(f"torchhub:{repository}:resnet18", image_size=64)
    assert (backbone.width, backbone.family) == (512, "resnet")
    assert backbone.module(torch.zeros(2, 3, 64, 64)).shape == (2, 512)
    names = {name for name, _ in backbone.module.named_parameters()}
    assert names == {
        n for n, _ in torchvision.models.resnet18().named_parameters() if not n.startswith("fc.")
    }
    again = build(f"torchhub:{repository}:resnet18", image_size=64)
    assert torch.equal(
        again.module.state_dict()["conv1.weight"], backbone.module.state_dict()["conv1.weight"]
    )


def test_a_file_takes_the_place_of_the_repository_s_weights(repository: Path, tmp_path: Path) -> None:
    source = torchvision.models.resnet18()
    path = tmp_path / "w.pth"
    torch.save({f"module.{key}": one for key, one in source.state_dict().items()}, path)
    backbone = build(f"torchhub:{repository}:resnet18", weights=path, image_size=64)
    assert torch.equal(backbone.module.state_dict()["conv1.weight"], source.conv1.weight)
    assert backbone.weights == "w.pth"


def test_a_repository_fetched_before_needs_no_network(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = tmp_path / "hub"
    hub.mkdir()
    repository.rename(hub / "someone_networks_main")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(hub))
    for name in ("someone/networks", "someone/networks:main"):
        backbone = build(f"torchhub:{name}:resnet18", pretrained=False, image_size=64)
        assert isinstance(backbone.module, nn.Module)
        assert backbone.spec == f"torchhub:{name}:resnet18"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (":resnet19", r"could not build 'resnet19'.*did you mean 'resnet18'\?"),
        (":nonsense", "is no network but a dict"),
        (":gone", "no route to the weights; without a network"),
        ("", "names no entry"),
    ],
)
def test_entries_that_fail(repository: Path, entry: str, message: str) -> None:
    spec = f"torchhub:{repository}{entry}" if entry else "torchhub:someone"
    with pytest.raises(BackboneError, match=message):
        build(spec)


def test_a_repository_that_is_none() -> None:
    with pytest.raises(BackboneError, match="neither OWNER/NAME nor a folder with a hubconf"):
        build("torchhub:/nowhere:resnet18")


def test_no_file_says_whose_code_is_run(tmp_path: Path) -> None:
    folder = tmp_path / "evil"
    folder.mkdir()
    (folder / "hubconf.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    spec = f"torchhub:{folder}:resnet18"
    with pytest.raises(BackboneError, match="because a file says so: if you trust it, name it yourself"):
        rebuild({"spec": spec, "weights": None, "pretrained": True, "image_size": None})
    model = nn.Linear(40, 50)
    weight = model.weight.detach()
    gift = save_mask(
        tmp_path / "gift",
        theta={"weight": weight},
        masks={"weight": weight.abs() < weight.abs().quantile(0.8)},
        rest={"bias": model.bias},
        metadata={"backbone": {"spec": spec}},
    )
    with pytest.raises(BackboneError, match="name it yourself"):
        backbone_of(load(gift))
    assert not (tmp_path / "ran").exists()
