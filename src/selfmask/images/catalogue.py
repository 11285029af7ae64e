"""The data sets that are known by name: what they are, where they lie, where they come from, on what terms.

They live below one folder (see `named`) in the layouts of CoOp or of torchvision. Lengths and SHA-256 digests of
downloads are those of TensorFlow Datasets' url_checksums.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from selfmask.images.cifar import cifar10_listing, cifar100_listing
from selfmask.images.download import Download
from selfmask.images.layouts import (
    dtd_listing,
    eurosat_listing,
    flowers102_listing,
    food101_listing,
    inaturalist_listing,
    oxford_pets_listing,
    sun397_listing,
    ucf101_listing,
)
from selfmask.images.listing import Listing


@dataclass(frozen=True)
class NamedData:
    """A data set that can be opened by name.

    marker: a path that exists in its folder once it is there. folders: where to look for it below the root, the
    first being where it is downloaded to. coop: name of its split file by Zhou et al.; the paper's figures are
    on these splits, and they are used where the file lies in the set's folder. by_hand: what to put there where
    no download is known.
    """

    name: str
    images: int
    classes: int
    licence: str
    homepage: str
    folders: tuple[str, ...]
    marker: str
    read: Callable[[Path], Listing]
    downloads: tuple[Download, ...] = ()
    coop: str | None = None
    coop_link: str | None = None
    by_hand: str | None = None

    @property
    def download_size(self) -> int:
        return sum(download.size for download in self.downloads)

    def find(self, root: Path) -> Path | None:
        """Its folder, where it is complete enough to be opened."""
        places = (root / folder for folder in self.folders)
        return next((place for place in places if (place / self.marker).exists()), None)


_RESEARCH = "no licence stated; for research"
_DRIVE = "https://drive.google.com/file/d/"
_VGG = "https://www.robots.ox.ac.uk/~vgg/data"

CATALOGUE: dict[str, NamedData] = {
    data.name: data
    for data in (
        NamedData(
            name="cifar10",
            images=60_000,
            classes=10,
            licence=_RESEARCH,
            homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
            folders=("cifar10/cifar-10-batches-bin", "cifar-10-batches-bin"),
            marker="test_batch.bin",
            read=cifar10_listing,
            downloads=(
                Download(
                    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                    170_052_171,
                    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
                    unpack="..",
                ),
            ),
        ),
        NamedData(
            name="cifar100",
            images=60_000,
            classes=100,
            licence=_RESEARCH,
            homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
            folders=("cifar100/cifar-100-binary", "cifar-100-binary"),
            marker="test.bin",
            read=cifar100_listing,
            downloads=(
                Download(
                    "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
                    168_513_733,
                    "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
                    unpack="..",
                ),
            ),
        ),
        NamedData(
            name="dtd",
            images=5_640,
            classes=47,
            licence="for research",
            homepage=f"{_VGG}/dtd/",
            folders=("dtd", "dtd/dtd"),
            marker="labels/train1.txt",
            read=dtd_listing,
            downloads=(
                Download(
                    f"{_VGG}/dtd/download/dtd-r1.0.1.tar.gz",
                    625_239_812,
                    "e42855a52a4950a3b59612834602aa253914755c95b0cff9ead6d07395f8e205",
                    unpack="..",
                ),
            ),
            coop="split_zhou_DescribableTextures.json",
            coop_link=f"{_DRIVE}1u3_QfB467jqHgNXC00UIzbLZRQCg2S7x",
        ),
        NamedData(
            name="eurosat",
            images=27_000,
            classes=10,
            licence="MIT",
            homepage="https://github.com/phelber/EuroSAT",
            folders=("eurosat",),
            marker="2750",
            read=eurosat_listing,
            downloads=(
                Download(
                    "https://huggingface.co/datasets/torchgeo/eurosat/resolve/c877bcd43f099cd0196738f714544e355477f3fd/EuroSAT.zip",
                    94_280_567,
                    "8ebea626349354c5328b142b96d0430e647051f26efc2dc974c843f25ecf70bd",
                ),
            ),
            coop="split_zhou_EuroSAT.json",
            coop_link=f"{_DRIVE}1Ip7yaCWFi0eaOFUGga0lUdVi_DDQth1o",
        ),
        NamedData(
            name="flowers102",
            images=8_189,
            classes=102,
            licence=_RESEARCH,
            homepage=f"{_VGG}/flowers/102/",
            folders=("oxford_flowers", "flowers-102", "flowers102"),
            marker="imagelabels.mat",
            read=flowers102_listing,
            downloads=(
                Download(
                    f"{_VGG}/flowers/102/102flowers.tgz",
                    344_862_509,
                    "2d01ecc807db462958cfe3d92f57a8c252b4abd240eb955770201e45f783b246",
                ),
                Download(
                    f"{_VGG}/flowers/102/setid.mat",
                    14_989,
                    "46b8678f91fd95d3c8f4feab80d271a6c834a1dd896fe29fd3e6ad9ce5c8dccd",
                    unpack=None,
                ),
                # Last, because it is the marker of a complete set.
                Download(
                    f"{_VGG}/flowers/102/imagelabels.mat",
                    502,
                    "4903e94206bac23bf772aadf06451916df56b58fc483a62db32a97b82656651d",
                    unpack=None,
                ),
            ),
            coop="split_zhou_OxfordFlowers.json",
            coop_link=f"{_DRIVE}1Pp0sRXzZFZq15zVOzKjKBu4A9i01nozT",
        ),
        NamedData(
            name="oxford_pets",
            images=7_349,
            classes=37,
            licence="CC BY-SA 4.0",
            homepage=f"{_VGG}/pets/",
            folders=("oxford_pets", "oxford-iiit-pet"),
            marker="annotations/trainval.txt",
            read=oxford_pets_listing,
            downloads=(
                Download(
                    f"{_VGG}/pets/data/images.tar.gz",
                    791_918_971,
                    "67195c5e1c01f1ab5f9b6a5d22b8c27a580d896ece458917e61d459337fa318d",
                ),
                Download(
                    f"{_VGG}/pets/data/annotations.tar.gz",
                    19_173_078,
                    "52425fb6de5c424942b7626b428656fcbd798db970a937df61750c0f1d358e91",
                ),
            ),
            coop="split_zhou_OxfordPets.json",
            coop_link=f"{_DRIVE}1501r8Ber4nNKvmlFVQZ8SeUHTcdTTEqs",
        ),
        NamedData(
            name="food101",
            images=101_000,
            classes=101,
            licence="no licence stated; photographs from foodspotting.com, for research (fair use)",
            homepage="https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
            folders=("food-101", "food101/food-101"),
            marker="meta/train.txt",
            read=food101_listing,
            downloads=(
                Download(
                    "https://data.vision.ee.ethz.ch/cvl/food-101.tar.gz",
                    4_996_278_331,
                    "d97d15e438b7f4498f96086a4f7e2fa42a32f2712e87d3295441b2b6314053a4",
                    unpack="..",
                ),
            ),
            coop="split_zhou_Food101.json",
            coop_link=f"{_DRIVE}1QK0tGi096I0Ba6kggatX1ee6dJFIcEJl",
        ),
        NamedData(
            name="sun397",
            images=108_754,
            classes=397,
            licence="for research",
            homepage="https://vision.princeton.edu/projects/2010/SUN/",
            folders=("sun397", "."),
            marker="SUN397",
            read=sun397_listing,
            downloads=(
                Download(
                    "https://vision.princeton.edu/projects/2010/SUN/download/Partitions.zip",
                    18_293_705,
                    "e3311ea5f812d4cc6faef194688343d1111f6cd6f70f2c62f393c2b8d6ba1ec9",
                ),
                Download(
                    "https://vision.princeton.edu/projects/2010/SUN/SUN397.tar.gz",
                    39_077_296_924,
                    "f404130965a7ad77bed5ececc71e720ab50f3cc1e1bb257257610d38f3b928ec",
                ),
            ),
            coop="split_zhou_SUN397.json",
            coop_link=f"{_DRIVE}1y2RD81BYuiyvebdN-JymPfyWYcd8_MUq",
        ),
        NamedData(
            name="ucf101",
            images=13_320,
            classes=101,
            licence=_RESEARCH,
            homepage="https://www.crcv.ucf.edu/data/UCF101.php",
            folders=("ucf101",),
            marker="UCF-101-midframes",
            read=ucf101_listing,
            coop="split_zhou_UCF101.json",
            coop_link=f"{_DRIVE}1I0S0q91hJfsV9Gf4xDIjgDq4AqBNJb1y",
            by_hand=(
                "It is made of the middle frame of each UCF101 video: unpack UCF-101-midframes.zip, linked from "
                "CoOp's DATASETS.md on GitHub."
            ),
        ),
        NamedData(
            name="inaturalist",
            images=600_000,
            classes=10_000,
            licence="non-commercial research and education; iNaturalist terms of service",
            homepage="https://github.com/visipedia/inat_comp/tree/master/2021",
            folders=("inaturalist", "inaturalist2021"),
            marker="val",
            read=inaturalist_listing,
            by_hand=(
                "Unpack train_mini.tar.gz (42 GB) and val.tar.gz (8.4 GB) of iNaturalist 2021, or any part of their "
                "class folders, and list the class folders to use in subset.txt."
            ),
        ),
    )
}
