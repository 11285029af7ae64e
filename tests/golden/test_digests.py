"""Golden digests of short runs: a change of the package that is to change no result changes none of these.

Each case runs commands as a user does, by `python -m selfmask`, in a process of its own with one thread, and digests
what is in the files: mask bits, moved statistics and head by tensor name, router and fusions of a cascade, losses.
Not the files' bytes: their coding and metadata may change. To make `digests.json` anew, after a change that is meant:

    python tests/golden/test_digests.py --write [CASE …]

Floating-point kernels differ between CPUs, so the process asks for those that all x86-64 CPUs of this decade share
(`PORTABLE`). Where machine and libraries are those that `digests.json` names, all must be equal. Elsewhere a few
weights fall on the other side of the threshold, and `NEAR` says how far all may be off: a weaker net.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

import selfmask

GOLDEN = Path(__file__).with_name("digests.json")
SAMPLED = (
    397  # every so manieth bit of a mask is in `digests.json` itself, for the comparison on other machines
)

# ---- how to run: all that a change of the command line or of a run's folder would change in this file

IMAGES = "images"  # the folder of images, beside the runs
COMMON = ["--size", "32", "--batch", "16", "--threads", "1", "--seed", "0"]
ADAPT = ["adapt", IMAGES, *COMMON, "--steps", "20", "--no-evaluate"]
LABELLED = [*ADAPT, "--objective", "supervised", "--supervised.label-smoothing", "0.1"]
MAGNITUDE = ["--scores", "magnitude", "--lr", "0.01"]
CASES: dict[str, list[list[str]]] = {
    "labels": [
        [*LABELLED, "--out", "labels", "--lr", "0.07"],
        [*LABELLED, "--out", "sgd", "--optimizer", "sgd", "--lr", "0.15"],
        ["combine", "labels/mask.safetensors", "sgd/mask.safetensors", "--out", "and.safetensors",
         "--operation", "and"],
        ["combine", "labels/mask.safetensors", "sgd/mask.safetensors", "--out", "or.safetensors",
         "--operation", "or"],
        ["compact", "labels/mask.safetensors", "--data", IMAGES, "--out", "small.safetensors", "--bits", "0.5",
         "--images", "48"],
        [*LABELLED, "--out", "topk", "--rule", "topk", "--density", "0.95", *MAGNITUDE,
         "--norm-stats", "adapt"],
        [*LABELLED, "--out", "progressive", "--rule", "progressive", "--density", "0.97", *MAGNITUDE],
    ],
    "unlabelled": [
        [*ADAPT, "--objective", "distil", "--out", "distil"],
        [*ADAPT, "--objective", "swav", "--optimizer", "tensor-adam", "--out", "swav"],
        ["cascade", IMAGES, *COMMON, "--objective", "distil", "--out", "cascade", "--experts", "2", "--steps", "12",
         "--no-pictures", "--no-evaluate"],
    ],
}  # fmt: skip


def selfmask_command(arguments: list[str]) -> None:
    """`python -m selfmask ARGUMENTS` in this process. Raises where it does not end well."""
    before = sys.argv
    sys.argv = ["selfmask", *arguments]
    try:
        runpy.run_module("selfmask", run_name="__main__")
    except SystemExit as end:
        if end.code not in (0, None):
            raise RuntimeError(f"selfmask {' '.join(arguments)}: exit status {end.code}") from end
    finally:
        sys.argv = before


def losses(log: Path) -> list[float]:
    """The losses that a run has logged, in order."""
    return [json.loads(line)["loss"] for line in log.read_text(encoding="utf-8").splitlines()]


def found_in(folder: Path) -> dict[str, Any]:
    """The digests of all mask files, cascade files and logs below `folder`, by their paths in it."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*.safetensors")):
        name = path.relative_to(folder).as_posix()
        if path.name == "cascade.safetensors":  # its masks lie in the folder one by one as well
            plain = {n: t for n, t in load_file(path).items() if n.startswith(("router/", "fusion/"))}
            found[name] = {"tensors": tensors_found(plain)}
        elif path.name not in ("checkpoint.safetensors", "router.safetensors", "split.safetensors"):
            mask = selfmask.load(path)
            found[name] = {
                "masks": masks_found(mask.masks()),
                "statistics": tensors_found(mask.statistics),
                "head": tensors_found(mask.head),
            }
    for path in sorted(folder.rglob("log.jsonl")):
        found[path.relative_to(folder).as_posix()] = {"losses": [float(f"{x:.5g}") for x in losses(path)]}
    return found


# ---- what is digested


def masks_found(masks: dict[str, Tensor]) -> dict[str, Any]:
    """A digest of all bits by name, how many are off in each tensor, and a sample of the bits in hexadecimal."""
    digest = hashlib.sha256()
    for name in sorted(masks):
        digest.update(f"{name}{tuple(masks[name].shape)}".encode())
        digest.update(np.packbits(masks[name].numpy().reshape(-1)).tobytes())
    every = np.concatenate([masks[name].numpy().reshape(-1) for name in sorted(masks)])
    return {
        "sha256": digest.hexdigest(),
        "weights": int(every.size),
        "off": {name: int((~masks[name]).sum()) for name in sorted(masks)},
        "sample": np.packbits(every[::SAMPLED]).tobytes().hex(),
    }


def tensors_found(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """A digest of all elements by name, and the norm of each tensor to five digits."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        t = tensors[name].contiguous()
        digest.update(f"{name}{t.dtype}{tuple(t.shape)}".encode())
        digest.update(t.numpy().tobytes())
    norms = {name: float(f"{float(tensors[name].double().norm()):.5g}") for name in sorted(tensors)}
    return {"sha256": digest.hexdigest(), "norms": norms}


def make_images(folder: Path) -> None:
    """Four classes of 32 pictures, from integers only: noise, a tint, a bar that stands or lies; half are bright."""
    random = np.random.Generator(np.random.PCG64(7))
    for label in range(4):
        (folder / f"kind-{label}").mkdir(parents=True)
        for number in range(32):
            pixels = random.integers(0, 80, (32, 32, 3), dtype=np.uint8)
            pixels[..., label % 3] += 10
            at = int(random.integers(4, 22))
            if label < 2:
                pixels[at : at + 6] += 30
            else:
                pixels[:, at : at + 6] += 30
            if number % 2:  # two kinds, for the router of a cascade to find
                pixels = 255 - pixels
            Image.fromarray(pixels).save(folder / f"kind-{label}" / f"{number:02}.png")


# ---- the same on every machine, as far as it goes

PORTABLE = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "COMPATIBLE",
    "OPENBLAS_CORETYPE": "Haswell",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
LIBRARIES = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "pillow", "timm")


def machine() -> dict[str, str]:
    """What exact equality depends on."""
    about = {"architecture": platform.machine(), "cpu": torch.backends.cpu.get_cpu_capability()}
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
        told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        about["model"] = " ".join(told.get(key, "?") for key in ("vendor_id", "cpu family", "model"))
    return about | {name: version(name) for name in LIBRARIES}


def run_case(case: str) -> dict[str, Any]:
    """Run a case in a process of its own; its `machine` and what it `found`."""
    environment = {**os.environ, **(PORTABLE if platform.machine() in ("x86_64", "AMD64") else {})}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, __file__, "--run", case],
            cwd=folder, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(
                f"{case}: exit status {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
            )
        return json.loads(Path(folder, "found.json").read_text(encoding="utf-8"))


def run_here(case: str) -> None:
    """The process of `run_case`: everything is written below the working directory."""
    torch.set_num_threads(1)
    make_images(Path(IMAGES))
    for arguments in CASES[case]:
        selfmask_command(arguments)
    content = {"machine": machine(), "found": found_in(Path())}
    Path("found.json").write_text(json.dumps(content), encoding="utf-8")


# ---- comparing

NEAR = {"losses": 0.02, "norms": 0.02, "off": 0.1, "sample": 0.2}
"""How far another machine may be off: losses and norms relatively; the off-weights of a tensor as a share of them (or
ten weights); the sampled bits that differ as a share of those that are off. Measured with kernels without AVX: losses
0.006 (in swav, whose targets move with the network, 0.08, and in topk, whose batch norms do, 0.15), off-weights of a
whole mask 0.004, sampled bits 0.13. A rate that is 1 % higher is further off than this in both cases."""
LOOSER = {"swav/log.jsonl/losses": 0.2, "topk/log.jsonl/losses": 0.3}


def differences(expected: Any, found: Any, *, exact: bool, where: str = "") -> Iterable[str]:
    """What of `found` is not as `expected`, one line each."""
    key = where.rpartition("/")[2]
    if isinstance(expected, dict) and isinstance(found, dict):
        if list(expected) != list(found):
            yield f"{where}: expected {sorted(expected)}, found {sorted(found)}"
            return
        for name in expected:
            if name == "off" and not exact:
                yield from _far_off(expected[name], found[name], f"{where}/off")
            elif name == "norms" and not exact:
                yield from _far(list(expected[name].values()), list(found[name].values()), f"{where}/norms")
            else:
                yield from differences(expected[name], found[name], exact=exact, where=f"{where}/{name}")
    elif key == "losses" and not exact:
        yield from _far(expected, found, where)  # pyright: ignore[reportArgumentType]
    elif key == "sample" and not exact:
        yield from _far_bits(str(expected), str(found), where)
    elif (exact or key != "sha256") and expected != found:
        yield f"{where}: expected {_short(expected)}, found {_short(found)}"


def _far(expected: list[float], found: list[float], where: str) -> Iterable[str]:
    rest = where.partition("/")[2]
    if found != pytest.approx(expected, rel=LOOSER.get(rest, NEAR[where.rpartition("/")[2]]), abs=1e-4):
        yield f"{where}: expected {expected}, found {found}"


def _far_off(expected: dict[str, int], found: dict[str, int], where: str) -> Iterable[str]:
    if list(expected) != list(found):
        yield f"{where}: expected the tensors {list(expected)}, found {list(found)}"
        return
    for name, off in expected.items():
        if abs(off - found[name]) > 10 + NEAR["off"] * off:
            yield f"{where}/{name}: expected {off} off, found {found[name]}"


def _far_bits(expected: str, found: str, where: str) -> Iterable[str]:
    a, b = (np.unpackbits(np.frombuffer(bytes.fromhex(x), np.uint8)) for x in (expected, found))
    off, differ = int((a == 0).sum()), int((a != b).sum())
    if differ > 3 + NEAR["sample"] * off:
        yield f"{where}: {differ} bits differ, {off} are off"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 200 else text[:200] + " …"


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_nothing_changed(case: str) -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    expected = golden[case]
    run = run_case(case)
    # A net with holes: a run that flipped nothing, or wrote nothing, would always be equal.
    assert all(sum(f["masks"]["off"].values()) > 0 for f in expected["found"].values() if "masks" in f)
    exact = run["machine"] == expected["machine"]
    wrong = list(differences(expected["found"], run["found"], exact=exact, where=case))
    how = "exactly" if exact else f"nearly: {run['machine']} is not {expected['machine']}"
    assert not wrong, f"compared {how}\n" + "\n".join(wrong)


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["--run"]:
        return run_here(arguments[1])
    if arguments[:1] != ["--write"] or not set(arguments[1:]) <= set(CASES):
        sys.exit(f"usage: {__file__} --write [CASE …]   cases: {', '.join(CASES)}")
    golden = json.loads(GOLDEN.read_text(encoding="utf-8")) if GOLDEN.is_file() else {}
    made = {case: run_case(case) for case in arguments[1:] or CASES}
    golden = {case: made.get(case) or golden[case] for case in CASES if case in made or case in golden}
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")
    return None


if __name__ == "__main__":
    main(sys.argv[1:])
