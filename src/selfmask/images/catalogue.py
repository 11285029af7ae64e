"""The data sets that are known by name: what they are, where they lie, where they come from, on what terms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

Fetch = Callable[[Path], None]


@dataclass(frozen=True)
class NamedData:
    """A data set that can be opened by name.

    megabytes: what its download weighs. folders: where it may lie below the root, in the layouts of torchvision and
    CoOp, the first being where a download puts it. marker: a path that exists in its folder once it is there. fetch:
    downloads, checks and unpacks it into a folder, of which all belongs into `below`. coop: its split file by Zhou et
    al. and that file's number on Google Drive; the paper's figures are on these splits, and they are used where the
    file lies in the set's folder. by_hand: how to have it where there is no `fetch`.
    """

    name: str
    images: int
    classes: int
    licence: str
    homepage: str
    folders: tuple[str, ...]
    marker: str
    megabytes: int = 0
    fetch: Fetch | None = None
    below: str = "."
    coop: tuple[str, str] | None = None
    by_hand: str | None = None

    def find(self, root: Path) -> Path | None:
        """Its folder, where it is complete enough to be opened."""
        places = (root / folder for folder in self.folders)
        return next((place for place in places if (place / self.marker).exists()), None)


def _torchvision(name: str, **versions: str) -> Fetch:
    """By the class of torchvision.datasets of this name, which knows the addresses and digests.

    versions: those to fetch, where there are several; each by the name that its archive gives to its folder.
    """

    def fetch(folder: Path) -> None:
        kind = getattr(import_module("torchvision.datasets"), name)
        for unpacked, version in versions.items():
            kind(folder, version=version, download=True)
            (folder / version).rename(folder / unpacked)
        if not versions:
            kind(folder, download=True)

    return fetch


def _cifar(file: str, md5: str) -> Fetch:
    """The binary version, which torchvision has no class for."""

    def fetch(folder: Path) -> None:
        download = import_module("torchvision.datasets.utils").download_and_extract_archive
        download(f"https://www.cs.toronto.edu/~kriz/{file}", folder, md5=md5)

    return fetch


_RESEARCH = "no licence stated; for research"
_CIFAR = "https://www.cs.toronto.edu/~kriz/cifar.html"
_VGG = "https://www.robots.ox.ac.uk/~vgg/data"

CATALOGUE: dict[str, NamedData] = {
    data.name: data
    for data in (
        NamedData(
            "cifar10", 60_000, 10, _RESEARCH, _CIFAR,
            ("cifar10/cifar-10-batches-bin", "cifar-10-batches-bin"), "test_batch.bin",
            170, _cifar("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"), "cifar10",
        ),
        NamedData(
            "cifar100", 60_000, 100, _RESEARCH, _CIFAR,
            ("cifar100/cifar-100-binary", "cifar-100-binary"), "test.bin",
            169, _cifar("cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8"), "cifar100",
        ),
        NamedData(
            "dtd", 5_640, 47, "for research", f"{_VGG}/dtd/",
            ("dtd/dtd", "dtd"), "labels/train1.txt",
            625, _torchvision("DTD"),
            coop=("split_zhou_DescribableTextures.json", "1u3_QfB467jqHgNXC00UIzbLZRQCg2S7x"),
        ),
        NamedData(
            "eurosat", 27_000, 10, "MIT", "https://github.com/phelber/EuroSAT",
            ("eurosat",), "2750",
            94, _torchvision("EuroSAT"),
            coop=("split_zhou_EuroSAT.json", "1Ip7yaCWFi0eaOFUGga0lUdVi_DDQth1o"),
        ),
        NamedData(
            "flowers102", 8_189, 102, _RESEARCH, f"{_VGG}/flowers/102/",
            ("flowers-102", "oxford_flowers", "flowers102"), "imagelabels.mat",
            345, _torchvision("Flowers102"),
            coop=("split_zhou_OxfordFlowers.json", "1Pp0sRXzZFZq15zVOzKjKBu4A9i01nozT"),
        ),
        NamedData(
            "oxford_pets", 7_349, 37, "CC BY-SA 4.0", f"{_VGG}/pets/",
            ("oxford-iiit-pet", "oxford_pets"), "annotations/trainval.txt",
            811, _torchvision("OxfordIIITPet"),
            coop=("split_zhou_OxfordPets.json", "1501r8Ber4nNKvmlFVQZ8SeUHTcdTTEqs"),
        ),
        NamedData(
            "food101", 101_000, 101, "no licence stated; photographs from foodspotting.com, for research (fair use)",
            "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
            ("food-101", "food101/food-101"), "meta/train.txt",
            4_996, _torchvision("Food101"),
            coop=("split_zhou_Food101.json", "1QK0tGi096I0Ba6kggatX1ee6dJFIcEJl"),
        ),
        NamedData(
            "sun397", 108_754, 397, "for research", "https://vision.princeton.edu/projects/2010/SUN/",
            ("sun397", "."), "SUN397",
            39_077, _torchvision("SUN397"), "sun397",
            coop=("split_zhou_SUN397.json", "1y2RD81BYuiyvebdN-JymPfyWYcd8_MUq"),
        ),
        NamedData(
            "ucf101", 13_320, 101, _RESEARCH, "https://www.crcv.ucf.edu/data/UCF101.php",
            ("ucf101",), "UCF-101-midframes",
            coop=("split_zhou_UCF101.json", "1I0S0q91hJfsV9Gf4xDIjgDq4AqBNJb1y"),
            by_hand="It is made of the middle frame of each UCF101 video: unpack UCF-101-midframes.zip, linked from "
            "CoOp's DATASETS.md on GitHub",
        ),
        NamedData(
            "inaturalist", 600_000, 10_000, "non-commercial research and education; iNaturalist terms of service",
            "https://github.com/visipedia/inat_comp/tree/master/2021",
            ("inaturalist", "inaturalist2021"), "val",
            50_400, _torchvision("INaturalist", train_mini="2021_train_mini", val="2021_valid"), "inaturalist",
        ),
    )
}  # fmt: skip
