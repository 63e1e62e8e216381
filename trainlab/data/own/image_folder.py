"""Images of one's own: a folder with a subfolder for each class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps

from ...errors import TrainlabError
from ..dataset import Dataset

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
_NO_DATA = {"thumbs.db", "desktop.ini"}  # what file managers leave behind
_LARGEST = 2e9  # bytes of one tensor of images
_TURNED = range(5, 9)  # the values of a camera's orientation that swap height and width


def read_images(folder: Path, size: int | tuple[int, int] | None) -> Dataset:
    """All images of a folder as (N, channels, height, width), 0 to 1; the class is the subfolder's name.

    size: height and width in pixels, or both in one number, that images are stretched to.
    Raises TrainlabError if the folder holds anything else, or images of different sizes without `size`.
    """
    files = _image_files(folder)
    paths = [(path, label) for label, found in enumerate(files.values()) for path in found]
    forms = [_form(path) for path, _ in paths]
    height, width = _one_size(folder, [form[:2] for form in forms]) if size is None else _checked_size(size)
    channels = 1 if all(grey for *_, grey in forms) else 3
    needed = 4 * len(paths) * channels * height * width
    if needed > _LARGEST:
        raise TrainlabError(
            f"{len(paths)} images of {height}x{width} take {needed / 1e9:.1f} GB of memory, more than "
            f"{_LARGEST / 1e9:.0f}: give a smaller size, such as load({folder.name!r}, size=64)"
        )
    images = torch.empty(len(paths), channels, height, width)
    for place, (path, _) in enumerate(paths):
        images[place] = _pixels(path, (height, width), channels)
    return Dataset(folder.name, images, torch.tensor([label for _, label in paths]), tuple(files))


def _checked_size(size: int | tuple[int, int]) -> tuple[int, int]:
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise TrainlabError(f"size={size!r} is no height and width in pixels: use 64 or (64, 48), say")
    return sides[0], sides[1]


def _image_files(folder: Path) -> dict[str, list[Path]]:
    """The image files of each class, a class being a subfolder."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(classes) < 2:
        raise TrainlabError(
            f"{str(folder)!r} has {len(classes)} subfolder(s): put the images of each class into a folder of "
            "its own, called as the class"
        )
    found = {}
    for label in classes:
        entries = sorted(
            path
            for path in label.iterdir()
            if not path.name.startswith(".") and path.name.lower() not in _NO_DATA
        )
        if any(path.is_dir() for path in entries):
            raise TrainlabError(
                f"there are folders inside {label.name!r}: give the folder whose subfolders are the classes, "
                f"such as {str(label)!r}, and split afterwards"
            )
        strange = [path.name for path in entries if path.suffix.lower() not in IMAGES]
        if strange or not entries:
            what = f"{len(strange)} file(s) that are no images ({strange[0]})" if strange else "no image"
            raise TrainlabError(
                f"the folder {label.name!r} holds {what}: give each class images ({', '.join(IMAGES)}) and "
                "nothing else"
            )
        found[label.name] = entries
    return found


def _unreadable(path: Path, error: object) -> TrainlabError:
    return TrainlabError(
        f"{path.parent.name}/{path.name} cannot be read as an image ({error}): replace or remove it"
    )


def _form(path: Path) -> tuple[int, int, bool]:
    """Height and width as the image is to be seen, and whether it is grey; from the file's first bytes."""
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(ExifTags.Base.Orientation) in _TURNED
            height, width = (image.width, image.height) if turned else (image.height, image.width)
            return height, width, image.mode in ("1", "L", "I;16")
    except Exception as error:  # a damaged image raises almost anything
        raise _unreadable(path, error) from error


def _one_size(folder: Path, sizes: list[tuple[int, int]]) -> tuple[int, int]:
    if len(set(sizes)) > 1:
        least = tuple(min(size[side] for size in sizes) for side in (0, 1))
        raise TrainlabError(
            f"the images have {len(set(sizes))} sizes, the smallest height and width are {least[0]} and "
            f"{least[1]}: say which they should get, such as load({folder.name!r}, size={min(least)})"
        )
    return sizes[0]


def _pixels(path: Path, size: tuple[int, int], channels: int) -> torch.Tensor:
    """The image as (channels, height, width), 0 to 1, upright, stretched to `size`, on white paper."""
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)  # cameras only note how they were held
    except Exception as error:
        raise _unreadable(path, error) from error
    if image.mode in ("I", "F"):
        raise _unreadable(path, "its values have 32 bits, 8 or 16 are known")
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    image = image.convert("L" if channels == 1 else "RGB")
    if (image.height, image.width) != size:
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(image)).float() / 255
    return pixels.unsqueeze(0) if channels == 1 else pixels.permute(2, 0, 1)  # (H,W,3) -> (3,H,W)
