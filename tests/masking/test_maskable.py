"""Models and weights that no mask can be learnt on: refused when the mask set or its optimizer is made, in words."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from selfmask.errors import SelectionError, SettingsError
from selfmask.maskset import MaskSet


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 2))


def old_weight_norm(model: nn.Sequential) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        nn.utils.weight_norm(model[0])


def pruned(model: nn.Sequential) -> None:
    prune.l1_unstructured(model[0], "weight", amount=0.5)


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        (lambda m: parametrizations.weight_norm(m[0]), "remove_parametrizations"),
        (lambda m: parametrizations.spectral_norm(m[0]), "remove_parametrizations"),
        (
            lambda m: parametrize.register_parametrization(m[0], "weight", nn.Identity()),
            "remove_parametrizations",
        ),
        (old_weight_norm, "remove_weight_norm"),
        (lambda m: nn.utils.spectral_norm(m[0]), "remove_spectral_norm"),
        (pruned, r"prune\.remove"),
    ],
)
def test_parametrised_weights(change: Callable[[nn.Sequential], Any], remedy: str) -> None:
    model = network()
    change(model)
    with pytest.raises(SelectionError, match=rf"^0\..*is parametrised: .*{remedy}"):
        MaskSet(model, ["0.*", "2.weight"])
    MaskSet(model, "2.weight").remove()  # the others can be masked


def test_quantised_modules() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model = torch.ao.quantization.quantize_dynamic(network(), {nn.Linear}, dtype=torch.qint8)
        except (RuntimeError, AttributeError, NotImplementedError) as error:
            pytest.skip(f"torch cannot quantise here: {error}")
    model.extra = nn.Linear(20, 20)
    with pytest.raises(SelectionError, match=r"^0 is quantised \(Linear\): .*quantise what comes out"):
        MaskSet(model, "extra.weight")


def test_weights_without_values() -> None:
    with torch.device("meta"):
        model = network()
    with pytest.raises(SelectionError, match=r"^0\.weight has no values yet"):
        MaskSet(model, "*.weight")
    for select in ("0.weight", "1.weight"):
        with pytest.raises(SelectionError, match=r"^1\.weight has no values yet"):
            MaskSet(nn.Sequential(nn.Linear(3, 3), nn.LazyLinear(3)), select)


def test_weights_made_for_inference_only() -> None:
    with torch.inference_mode():
        model = network()
    with pytest.raises(SelectionError, match=r"^0\.weight was made under torch\.inference_mode"):
        MaskSet(model, "*.weight")


def test_weights_that_are_no_plain_tensors() -> None:
    class Packed(torch.Tensor):
        pass

    model = network()
    model[0].weight = nn.Parameter(torch.randn(20, 20).as_subclass(Packed))
    with pytest.raises(SelectionError, match=r"^0\.weight is held as Packed"):
        MaskSet(model, "*.weight")
    model[0].weight = nn.Parameter(torch.randn(20, 20).to_sparse())
    with pytest.raises(SelectionError, match=r"^0\.weight is held as Tensor \(torch\.sparse_coo\)"):
        MaskSet(model, "*.weight")


@pytest.mark.slow
def test_sharded_weights(tmp_path: Path) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = network()
        fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
        with pytest.raises(
            SelectionError, match=r"^0\.weight is sharded \(a DTensor.*DistributedDataParallel"
        ):
            MaskSet(model, "*.weight")
    finally:
        dist.destroy_process_group()


def test_models_that_shard_themselves() -> None:
    wrapper = type("FullyShardedDataParallel", (nn.Sequential,), {})
    with pytest.raises(SelectionError, match=r"^the model is sharded \(FullyShardedDataParallel\)"):
        MaskSet(wrapper(network()), "*.weight")


def test_a_refused_model_is_left_as_it_was() -> None:
    model = network()
    parametrizations.weight_norm(model[0])
    before = {n: (p.detach().clone(), p.requires_grad) for n, p in model.named_parameters()}
    with pytest.raises(SelectionError, match="parametrised"):
        MaskSet(model, "*")
    assert all(torch.equal(p, before[n][0]) and p.requires_grad for n, p in model.named_parameters())
    MaskSet(model, "2.weight").remove()


def test_an_optimizer_that_passes_through_the_model_many_times_a_step() -> None:
    masks = MaskSet(network(), "*.weight")
    with pytest.raises(SettingsError, match="optimizer: LBFGS needs a closure"):
        masks.optimizer(torch.optim.LBFGS, lr=1.0)
    masks.optimizer(torch.optim.Adam, lr=0.1)
