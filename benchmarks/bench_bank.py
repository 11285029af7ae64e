"""What a bank of masks costs, side by side with what one would do without it, interleaved in one process.

    python benchmarks/bench_bank.py [--part switch] [--part batches] [--part many] [--network ResNet-18]
        [--masks 1000] [--rounds 15] [--threads 2]

switch: from one mask to another, beside a copy of the masked weights' bytes and beside `apply` and `remove`, with 10
and with 1 000 masks in memory. batches: 64 images over 1, 4, 16 and 64 masks, beside one mask that is on (for all, and
in as many groups), LoRAs in a mixed batch of peft's (`adapter_names`), and whole models read from files. many: what
opening, holding and decoding many masks takes, in processor time (of more than 1 000, the first 1 000 are decoded).
Weights are the real ones where the folder `shared` is, else random; masks are drawn, 2 % off.
"""

from __future__ import annotations

import argparse
import copy
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import peft
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import selfmask
from selfmask._common.modes import eval_mode
from selfmask.backbones.backbone import Backbone
from selfmask.features.features import features
from selfmask.images.image_set import ImageSet
from selfmask.maskfile.fingerprint import base_tensors
from selfmask.maskfile.saving import save_mask
from selfmask.masking.selection import Selection
from selfmask.run.process import keep_freed_memory

SHARED = Path(__file__).resolve().parents[2] / "shared" / "weights"
NETWORKS = {
    "ResNet-18": ("timm:resnet18", "resnet18_in1k.safetensors"),
    "ResNet-50": ("timm:resnet50", "resnet50_in1k.safetensors"),
    "ViT-S/14": ("timm:vit_small_patch14_dinov2", "vit_small_patch14_dinov2_224.safetensors"),
}
# Network, side of the images in pixels, and the layers that get a LoRA.
BATCHES = (("ResNet-18", 64, "conv"), ("ResNet-18", 224, "conv"), ("ViT-S/14", 112, "qkv|proj|fc1|fc2"))
IMAGES, OFF, DISTINCT, RANK = 64, 0.02, 20, 8
MOST_DECODED = 1000


def network(name: str, size: int | None = None) -> Backbone:
    """A backbone of `NETWORKS`, at its own size or another."""
    spec, file = NETWORKS[name]
    weights = SHARED / file
    torch.manual_seed(0)
    found = selfmask.build(
        spec, weights=weights if weights.is_file() else None, image_size=size, pretrained=weights.is_file()
    )
    found.lay_out()
    return found


def mask_files(folder: Path, backbone: Backbone, amount: int, distinct: int = DISTINCT) -> list[Path]:
    """`amount` mask files, the first `distinct` of them drawn, the others links to those: a bank cannot tell."""
    chosen = Selection("auto").choose(backbone.module)[0]
    tensors = base_tensors(backbone.module)
    theta = {name: tensors[name] for name in chosen}
    rest = {name: t for name, t in tensors.items() if name not in theta}
    paths = [folder / f"m{i:04d}.mask.safetensors" for i in range(amount)]
    for i, path in enumerate(paths):
        if i >= distinct:
            os.link(paths[i % distinct], path)
            continue
        generator = torch.Generator().manual_seed(i)
        masks = {name: torch.rand(t.shape, generator=generator) >= OFF for name, t in theta.items()}
        moved = {
            name: t + torch.rand(t.shape, generator=generator).to(t) / 100
            for name, t in rest.items()
            if name.endswith(("running_mean", "running_var"))
        }
        save_mask(path, theta=theta, masks=masks, rest=rest, statistics=moved)
    return paths


def interleaved(acts: dict[str, Callable[[], object]], rounds: int, warm: int = 2) -> dict[str, list[float]]:
    """Seconds of each, one after the other in every round, each round in another order."""
    times: dict[str, list[float]] = {name: [] for name in acts}
    order, draw = list(acts), random.Random(0)
    for i in range(rounds + warm):
        draw.shuffle(order)
        for name in order:
            begin = time.perf_counter()
            acts[name]()
            if i >= warm:
                times[name].append(time.perf_counter() - begin)
    return times


def ratio(times: dict[str, list[float]], name: str, to: str) -> float:
    """The median over rounds of one's time to another's."""
    return statistics.median(a / b for a, b in zip(times[name], times[to], strict=True))


def switches(name: str, amounts: Sequence[int], rounds: int, folder: Path) -> None:
    """Print what a switch costs with each of `amounts` masks in memory."""
    backbone = network(name)
    paths = mask_files(folder, backbone, max(amounts))
    chosen = Selection("auto").choose(backbone.module)[0]
    with ExitStack() as stack:
        acts: dict[str, Callable[[], object]] = {}
        for amount in amounts:
            own = copy.deepcopy(backbone)
            bank = stack.enter_context(selfmask.Bank(own, paths[:amount], memory="100 GB"))
            for one in bank.names:
                bank.card(one)  # decodes it
            acts[f"{amount} masks"] = switcher(bank)
        plain = copy.deepcopy(backbone).module
        weights = [plain.get_parameter(n).detach() for n in chosen]
        theta = [w.clone() for w in weights]
        acts["copy"] = lambda: [w.copy_(t) for w, t in zip(weights, theta, strict=True)]
        loaded = [selfmask.load(path) for path in paths[:2]]
        turn = iter(range(10**9))
        acts["apply, remove"] = lambda: loaded[next(turn) % 2].apply(backbone.module).remove()
        times = interleaved(acts, rounds)
    size = sum(w.numel() for w in weights)
    print(f"{name}: {size:,} masked weights in {len(weights)} tensors")
    for act, found in times.items():
        print(
            f"    {act:<14} {1e3 * statistics.median(found):>8.2f} ms  {ratio(times, act, 'copy'):>6.2f} x a copy"
        )


def switcher(bank: selfmask.Bank) -> Callable[[], object]:
    """A function that puts on a mask of the bank other than the last, through `use`, and gives the model back."""
    draw, names = random.Random(1), list(bank.names)
    last = [names[0]]

    def act() -> None:
        name = draw.choice(names[: names.index(last[0])] + names[names.index(last[0]) + 1 :])
        last[0] = name
        with bank.use(name):
            pass

    return act


def loras(module: nn.Module, layers: str, amount: int) -> nn.Module:
    """The network with that many LoRAs, whose weights are drawn, so that each does something."""
    targets = [
        name
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear | nn.Conv2d) and any(word in name for word in layers.split("|"))
        and "patch_embed" not in name
    ]  # fmt: skip
    config = peft.LoraConfig(r=RANK, target_modules=targets, init_lora_weights=False)
    model = peft.get_peft_model(copy.deepcopy(module), config, adapter_name="m0")  # pyright: ignore[reportArgumentType]
    for i in range(1, amount):
        model.add_adapter(f"m{i}", config)
    return model.eval()


def batches(name: str, size: int, layers: str, rounds: int, folder: Path) -> None:
    """Print images a second of mixed batches."""
    backbone = network(name, size)
    last = backbone.prefers_channels_last
    paths = mask_files(folder, backbone, IMAGES)
    whole = copy.deepcopy(backbone.module)
    state = {name: t.contiguous() for name, t in whole.state_dict().items()}
    for i in range(DISTINCT):
        save_file(state, folder / f"whole{i}.safetensors")
    pixels = torch.randint(0, 256, (IMAGES, 3, size, size), dtype=torch.uint8)
    adapted = loras(backbone.module, layers, IMAGES)
    plain = copy.deepcopy(backbone)
    handle = selfmask.load(paths[0]).apply(plain.module)
    with selfmask.Bank(backbone, paths, memory="100 GB") as bank:
        for one in bank.names:
            bank.card(one)
        acts: dict[str, Callable[[], object]] = {
            "one mask, on": lambda: features(plain, ImageSet.from_array(pixels), channels_last=last)
        }
        for amount in (1, 4, 16, 64):
            each = [f"m{i % amount:04d}" for i in range(IMAGES)]
            acts[f"groups, {amount}"] = lambda n=amount: in_groups(plain, pixels, n)
            acts[f"bank, {amount}"] = lambda each=each: bank.embed(pixels, each)
            lora = [f"m{i % amount}" for i in range(IMAGES)]
            acts[f"LoRA, {amount}"] = lambda lora=lora: mixed(adapted, backbone, pixels, lora)
            acts[f"whole, {amount}"] = lambda n=amount: from_files(whole, folder, plain, pixels, n)
        times = interleaved(acts, rounds, warm=1)
    handle.remove()
    print(f"{name} at {size} px, {IMAGES} images: images a second, and their share of what one mask gives")
    for act, found in times.items():
        share = 1 / ratio(times, act, "one mask, on")
        print(f"    {act:<14} {IMAGES / statistics.median(found):>8.1f}  {share:>5.2f}")


def in_groups(backbone: Backbone, pixels: Tensor, amount: int) -> Tensor:
    """The images in so many batches, all by the one mask that is on: what a mixed batch costs beside switching."""
    last = backbone.prefers_channels_last
    parts = [ImageSet.from_array(pixels[i::amount]) for i in range(amount)]
    return torch.cat([features(backbone, part, channels_last=last) for part in parts])


def views(backbone: Backbone, pixels: Tensor) -> Tensor:
    """What the network sees of the images, made anew by everyone who is compared."""
    recipe, images = backbone.preprocessing, ImageSet.from_array(pixels)
    layout = torch.channels_last if backbone.prefers_channels_last else torch.contiguous_format
    seen = images.resized(recipe.size, recipe.crop, recipe.interpolation)
    return recipe.normalise(seen).contiguous(memory_format=layout)


@torch.no_grad()
def mixed(model: nn.Module, backbone: Backbone, pixels: Tensor, names: list[str]) -> Tensor:
    """peft's mixed batch: each image by its own LoRA, in one pass."""
    return model(views(backbone, pixels), adapter_names=names)


@torch.no_grad()
def from_files(model: nn.Module, folder: Path, backbone: Backbone, pixels: Tensor, amount: int) -> Tensor:
    """Each image by its own model, which is read from its file (in the system's cache) for its group of images."""
    x = views(backbone, pixels)
    found = torch.empty(len(x), backbone.width)
    with eval_mode(model):
        for i in range(amount):
            model.load_state_dict(load_file(folder / f"whole{i % DISTINCT}.safetensors"))
            found[i::amount] = model(x[i::amount])
    return found


def resident() -> int:
    """Bytes of memory that this process has in use."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmRSS")).split()[1])


def many(name: str, amounts: Sequence[int], folder: Path) -> None:
    """Print what it takes to open, to hold and to decode that many masks."""
    backbone = network(name)
    paths = mask_files(folder, backbone, max(amounts))
    print(f"{name}: {paths[0].stat().st_size:,} bytes a file, 2 % of the masked weights off")
    for amount in amounts:
        before, begin = resident(), time.process_time()
        with selfmask.Bank(backbone, paths[:amount], memory="100 GB") as bank:
            opened, listed = time.process_time() - begin, resident()
            begin, first = time.process_time(), bank.names[:MOST_DECODED]
            for one in first:
                bank.card(one)
            decoded = time.process_time() - begin
            held, counted, n = resident() - listed, bank._shelf.nbytes, len(first)
        print(
            f"    {amount:>5} masks: opened in {opened:>6.2f} s ({1e3 * opened / amount:.1f} ms each, "
            f"{(listed - before) / amount / 1e3:.1f} kB), decoded in {1e3 * decoded / n:.1f} ms each, "
            f"{counted / n / 1e6:.3f} MB each ({held / n / 1e6:.3f} by the system)"
        )


def main() -> None:
    """Print the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", action="append", choices=["switch", "batches", "many"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--masks", type=int, default=1000, help="the most masks in a bank")
    parser.add_argument("--network", action="append", choices=list(NETWORKS))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    parts = arguments.part or ["switch", "batches", "many"]
    networks = arguments.network or list(NETWORKS)
    weights = "real" if SHARED.is_dir() else "random"
    print(f"{arguments.threads} threads, {arguments.rounds} rounds, medians; {weights} weights")
    if "switch" in parts:
        for name in networks:
            with tempfile.TemporaryDirectory() as folder:
                switches(name, (10, arguments.masks), arguments.rounds, Path(folder))
    if "batches" in parts:
        for name, size, layers in (case for case in BATCHES if case[0] in networks):
            with tempfile.TemporaryDirectory() as folder:
                batches(name, size, layers, max(arguments.rounds // 3, 1), Path(folder))
    if "many" in parts:
        for name in networks:
            with tempfile.TemporaryDirectory() as folder:
                many(name, (10, 100, arguments.masks), Path(folder))


if __name__ == "__main__":
    main()
