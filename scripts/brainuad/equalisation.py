"""Contrast-limited adaptive histogram equalisation (CLAHE) of a batch of slices at once.

Equal, bit for bit, to ``skimage.exposure.equalize_adapthist`` with its defaults, slice by slice, which the anomaly map
of the reversed autoencoder (Bercea et al., MIDL 2023) is made of; that spends most of its time in loops over tiles.
"""

import numpy as np

__all__ = ["equalise"]

LEVELS = 2**14  # of grey
BINS = 256
CLIP = 0.01  # of the pixels of a tile, the most in a bin
TILES = 8  # along each side
CHUNK = 4  # slices at once


def equalise(images: np.ndarray) -> np.ndarray:
    """Slices (n, height, width) in [-1, 1], float32 → equalised, each stretched to [0, 1]; constant ones become 1."""
    return np.concatenate([_equalise(images[start : start + CHUNK]) for start in range(0, len(images), CHUNK)])


def _equalise(images: np.ndarray) -> np.ndarray:
    """The same of a few, whose histograms fit into the cache."""
    from skimage.exposure import rescale_intensity
    from skimage.util import img_as_uint

    tile = tuple(max(side // TILES, 1) for side in images.shape[1:])
    before, after = zip(*(padding(side, size) for side, size in zip(images.shape[1:], tile, strict=True)), strict=True)
    grey = [np.round(rescale_intensity(image, out_range=(0, LEVELS - 1))) for image in img_as_uint(images)]
    width = [(0, 0), *zip(before, after, strict=True)]
    places = np.pad(np.stack(grey).astype(np.uint16), width, mode="reflect") // (1 + LEVELS // BINS)
    maps = grey_maps(places, tile, before)
    mixed = interpolated(places, maps, tile)
    inside = tuple(slice(low, side - high) for low, high, side in zip(before, after, mixed.shape[1:], strict=True))
    return np.stack([rescale_intensity(image.astype(np.float32)) for image in mixed[(slice(None), *inside)]])


def padding(side: int, tile: int) -> tuple[int, int]:
    """Pixels to add before and after a side, so that it holds whole tiles and half a tile more at either end."""
    return tile // 2, (tile - side % tile) % tile + -(-tile // 2)


def tiled(array: np.ndarray, tile: tuple[int, int]) -> np.ndarray:
    """(n, rows × height, columns × width) → (n, rows, columns, height × width) of a tile."""
    count, rows, columns = len(array), array.shape[1] // tile[0], array.shape[2] // tile[1]
    parts = array.reshape(count, rows, tile[0], columns, tile[1]).swapaxes(2, 3)
    return parts.reshape(count, rows, columns, tile[0] * tile[1])


def grey_maps(places: np.ndarray, tile: tuple[int, int], before: tuple[int, int]) -> np.ndarray:
    """What each bin becomes in each tile, (n, rows + 2, columns + 2, bins): those at the edges are there twice."""
    whole = [side // size - 1 for side, size in zip(places.shape[1:], tile, strict=True)]
    middle = tuple(slice(low, low + number * size) for low, number, size in zip(before, whole, tile, strict=True))
    own = tiled(places[(slice(None), *middle)], tile)
    pixels = own.shape[-1]
    own = own.reshape(-1, pixels)
    shifted = own + BINS * np.arange(len(own))[:, None]
    counts = np.bincount(shifted.ravel(), minlength=BINS * len(own)).reshape(len(own), BINS).astype(np.int32)
    clip(counts, max(int(CLIP * pixels), 1))
    levels = np.cumsum(counts, axis=-1).astype(float) * ((LEVELS - 1) / pixels)
    levels = np.floor(levels.clip(None, LEVELS - 1)).reshape(len(places), *whole, BINS)
    return np.pad(levels, [(0, 0), (1, 1), (1, 1), (0, 0)], mode="edge")


def clip(counts: np.ndarray, limit: int) -> None:
    """Cut histograms (n, bins) at a limit, in place, and spread what was cut over the other bins.

    What is left after an even share goes one by one to every so many-th bin that has room, from the first bin on.
    """
    excess = (counts - limit).clip(0).sum(1)
    np.minimum(counts, limit, out=counts)
    share = excess // BINS
    enough = (limit - share)[:, None]
    low = counts < enough
    excess -= low.sum(1) * share
    counts += low * share[:, None]
    high = (counts >= enough) & (counts < limit)
    excess -= ((limit - counts) * high).sum(1)
    counts[high] = limit
    bins = np.arange(BINS)
    while len(left := np.flatnonzero(excess > 0)):
        previous = excess[left].copy()
        for first in range(BINS):
            room = counts[left] < limit
            step = np.maximum(room.sum(1) // excess[left], 1)
            room &= (bins >= first) & ((bins - first) % step[:, None] == 0)
            counts[left] += room
            excess[left] -= room.sum(1)
            still = excess[left] > 0
            left, previous = left[still], previous[still]
            if not len(left):
                break
        excess[left[excess[left] == previous]] = 0  # no bin has room


def interpolated(places: np.ndarray, maps: np.ndarray, tile: tuple[int, int]) -> np.ndarray:
    """The grey levels (n, height, width) by the maps of the four tiles around each pixel, weighted by its distance."""
    parts = tiled(places, tile)
    count, rows, columns = parts.shape[:3]
    across, down = np.meshgrid(*(np.arange(size) / size for size in tile[::-1]), indexing="ij")
    across, down = across.T.ravel(), down.T.ravel()
    numbers = np.arange(maps[..., 0].size).reshape(maps.shape[:3])[:, :rows, :columns, None]  # of the first of four
    places, maps = (numbers * BINS + parts).astype(np.intp), maps.reshape(-1)
    result = np.zeros(parts.shape, np.float32)
    for row in range(2):
        for column in range(2):
            weight = (across if column else 1 - across) * (down if row else 1 - down)
            near = maps[(row * (columns + 1) + column) * BINS :]
            result += (near.take(places, mode="clip") * weight).astype(np.float32)
    levels = result.astype(np.uint16).reshape(count, rows, columns, *tile).swapaxes(2, 3)
    return levels.reshape(count, rows * tile[0], columns * tile[1])
