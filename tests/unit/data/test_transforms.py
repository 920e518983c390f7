"""Training transform: image and mask stay aligned, sizes are exact, all randomness comes from the generator."""

import collections
import pickle

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from fcn.config import AugmentationConfig
from fcn.data.transforms import PAD_COLOR, TrainTransform

PLAIN = AugmentationConfig()
JITTER = AugmentationConfig(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
EVERYTHING = AugmentationConfig(scale=[0.5, 2.0], flip=0.5, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)

sides = st.integers(1, 40)
seeds = st.integers(0, 2**32)
# No deadline: the cores are shared, and the first call of an operator is slow.
examples = settings(deadline=None, max_examples=50)

torch.set_num_threads(1)


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def coded(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return image and mask whose values encode the position: column + 7 * row, modulo 97, in all channels."""
    mask = ((torch.arange(width) + 7 * torch.arange(height)[:, None]) % 97).to(torch.uint8)
    return mask.expand(3, -1, -1).clone(), mask


def random_pair(height: int, width: int) -> tuple[Tensor, Tensor]:
    values = rng(height * 1000 + width).integers(0, 256, (4, height, width), dtype=np.uint8)
    pixels = torch.from_numpy(values)
    return pixels[:3], pixels[3] % 21


@examples
@given(
    size=st.tuples(sides, sides),
    crop=st.tuples(sides, sides),
    scale=st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)).map(sorted),
    jitter=st.sampled_from([0.0, 0.4]),
    seed=seeds,
)
@example(size=(8, 8), crop=(8, 8), scale=[1.0, 1.0], jitter=0.0, seed=0)  # the crop is the image
@example(size=(8, 8), crop=(4, 4), scale=[1.0, 1.0], jitter=0.0, seed=0)
@example(size=(8, 8), crop=(12, 12), scale=[1.0, 1.0], jitter=0.0, seed=0)
def test_crop_has_exact_size_own_memory_and_no_new_label(
    size: tuple[int, int], crop: tuple[int, int], scale: list[float], jitter: float, seed: int
) -> None:
    image, mask = random_pair(*size)
    before = image.clone(), mask.clone()
    augmentation = AugmentationConfig(scale=scale, flip=0.5, brightness=jitter)
    out_image, out_mask = TrainTransform(crop, augmentation)(image, mask, rng(seed))
    assert out_image.shape == (3, *crop)
    assert out_mask.shape == crop
    assert out_image.dtype == out_mask.dtype == torch.uint8
    assert out_image.permute(1, 2, 0).is_contiguous()
    assert out_mask.is_contiguous()
    assert set(out_mask.unique().tolist()) <= {*mask.unique().tolist(), 255}
    assert (out_mask != 255).any()
    out_image.fill_(0)  # shares no memory with the input
    out_mask.fill_(0)
    assert torch.equal(image, before[0])
    assert torch.equal(mask, before[1])


@examples
@given(
    size=st.tuples(sides, sides),
    crop=st.tuples(sides, sides),
    flip=st.sampled_from([0.0, 0.5, 1.0]),
    seed=seeds,
)
def test_image_and_mask_stay_aligned_and_padding_is_exact(
    size: tuple[int, int], crop: tuple[int, int], flip: float, seed: int
) -> None:
    image, mask = TrainTransform(crop, AugmentationConfig(flip=flip))(*coded(*size), rng(seed))
    padding = mask == 255
    expected = torch.where(padding, torch.tensor(PAD_COLOR)[:, None, None], mask.expand(3, -1, -1))
    assert torch.equal(image, expected.to(torch.uint8))
    shown = min(size[0], crop[0]) * min(size[1], crop[1])
    assert int((~padding).sum()) == shown


@examples
@given(size=st.tuples(st.integers(8, 40), st.integers(8, 40)), seed=seeds)
def test_default_is_the_random_crop_of_d2l(size: tuple[int, int], seed: int) -> None:
    """The output is one window of image and mask, bit for bit."""
    image, mask = random_pair(*size)
    out_image, out_mask = TrainTransform((8, 8), PLAIN)(image, mask, rng(seed))
    windows = [
        (F.crop(image, top, left, 8, 8), F.crop(mask, top, left, 8, 8))
        for top in range(size[0] - 7)
        for left in range(size[1] - 7)
    ]
    assert any(torch.equal(out_image, i) and torch.equal(out_mask, m) for i, m in windows)


def test_flip_is_exact_and_keeps_the_crop() -> None:
    image, mask = coded(30, 40)
    for seed in range(5):
        straight = TrainTransform((16, 24), AugmentationConfig(flip=0.0))(image, mask, rng(seed))
        flipped = TrainTransform((16, 24), AugmentationConfig(flip=1.0))(image, mask, rng(seed))
        assert torch.equal(flipped[0], torch.flip(straight[0], [2]))
        assert torch.equal(flipped[1], torch.flip(straight[1], [1]))


def test_flip_probability() -> None:
    image, mask = coded(1, 2)
    transform = TrainTransform((1, 2), AugmentationConfig(flip=0.3))
    generator = rng(0)
    flipped = sum(int(transform(image, mask, generator)[1][0, 0]) for _ in range(2000))
    assert abs(flipped / 2000 - 0.3) < 4 * (0.3 * 0.7 / 2000) ** 0.5


@pytest.mark.parametrize(
    ("size", "crop", "places"),
    [((7, 9), (5, 6), 3 * 4), ((5, 6), (7, 9), 3 * 4), ((7, 6), (5, 9), 3 * 4), ((5, 6), (5, 6), 1)],
    ids=["crop", "pad", "crop and pad", "exact"],
)
def test_crop_positions_are_uniform(size: tuple[int, int], crop: tuple[int, int], places: int) -> None:
    image, mask = coded(*size)
    transform = TrainTransform(crop, PLAIN)
    generator = rng(0)
    draws = 200 * places
    seen = collections.Counter(transform(image, mask, generator)[1].numpy().tobytes() for _ in range(draws))
    assert len(seen) == places
    chi_square = sum((count - 200) ** 2 / 200 for count in seen.values())
    assert chi_square < 31.3  # the 99.9 % point for 11 degrees of freedom


def test_scales_are_uniform_in_their_range() -> None:
    """The scale is measured on a ramp over columns: the labels of a crop span crop / scale columns."""
    mask = torch.arange(200, dtype=torch.uint8).expand(200, -1)
    transform = TrainTransform((50, 50), AugmentationConfig(scale=[0.5, 2.0]))
    generator = rng(0)
    spans = []
    for _ in range(400):
        _, out = transform(mask.expand(3, -1, -1), mask, generator)
        spans.append(int(out.max()) - int(out.min()) + 1)
    scales = 50 / np.array(spans)
    assert 0.5 <= scales.min() < 0.52
    assert 1.9 < scales.max() <= 2.2  # 50 / 23: the last columns fall between samples
    assert abs(np.mean(scales) - 1.25) < 0.08


@pytest.mark.parametrize("scale", [0.25, 0.5, 0.7, 1.5, 2.0, 4.0])
def test_scaled_image_and_mask_are_aligned(scale: float) -> None:
    """On a ramp, bilinear values are sample positions and nearest values are pixel positions. They differ by at most
    half a pixel, without the constant shift of nearest neighbour at pixel corners."""
    ramp = torch.arange(200, dtype=torch.uint8).expand(160, -1)
    image, mask = TrainTransform((48, 48), AugmentationConfig(scale=[scale, scale]))(
        ramp.expand(3, -1, -1), ramp, rng(1)
    )
    shown = mask != 255
    # Antialiasing at the border of the cut is one-sided: ignore one sample on each side.
    difference = (image[0].double() - mask.double())[:, 2:-2][shown[:, 2:-2]]
    assert difference.abs().max() <= 1
    assert abs(difference.mean()) < 0.26  # rounding of half pixels up adds 0.25 at scale 0.5


def triangles(side: int, length: int) -> np.ndarray:
    """Return the weights of `side` source pixels in `length` target pixels: triangles as wide as the larger pixel."""
    scale = side / length
    distances = np.arange(side) + 0.5 - scale * (np.arange(length)[:, None] + 0.5)
    weights = np.maximum(0, 1 - np.abs(distances) / max(scale, 1))
    return weights / weights.sum(axis=1, keepdims=True)


@examples
@given(crop=st.tuples(sides, sides), scale=st.floats(0.2, 5))
@example(crop=(1, 1), scale=0.5)  # torch's uint8 kernel fails here
@example(crop=(7, 1), scale=0.5)  # and is wrong here, as it is in floating point with channels first
def test_scaling_is_antialiased_bilinear(crop: tuple[int, int], scale: float) -> None:
    """If the cut is the whole image, the crop is the resized image."""
    size = max(1, round(crop[0] / scale)), max(1, round(crop[1] / scale))
    image, mask = random_pair(*size)
    out, _ = TrainTransform(crop, AugmentationConfig(scale=[scale, scale]))(image, mask, rng(0))
    rows, columns = (triangles(*sides) for sides in zip(size, crop, strict=True))
    reference = np.einsum("ij,cjk,lk->cil", rows, image.double().numpy(), columns)
    # Rows and columns are each rounded to whole values, with weights of 16 bits.
    assert np.abs(out.numpy() - reference).max() < 1.1


@pytest.mark.parametrize(
    ("size", "expected"), [((375, 500), (512, 683)), ((500, 334), (766, 512)), ((64, 64), (512, 512))]
)
def test_shorter_side_has_the_given_size_at_scale_one(size: tuple[int, int], expected: tuple[int, int]) -> None:
    """As `Resize` of mmsegmentation with a scale of (2048, 512) and `keep_ratio`, whatever the native size."""
    mask = torch.ones(size, dtype=torch.uint8)
    for factor in (0.5, 1, 2):
        augmentation = AugmentationConfig(scale=[factor, factor], short_side=512)
        _, out = TrainTransform((2000, 2000), augmentation)(mask.expand(3, -1, -1), mask, rng(0))
        visible = int((out == 1).any(1).sum()), int((out == 1).any(0).sum())
        assert visible == pytest.approx([factor * side for side in expected], abs=2)  # half a source pixel, rounded


@pytest.mark.parametrize("size", [(40, 80), (90, 60)])
def test_short_side_multiplies_the_scale_and_draws_no_number(size: tuple[int, int]) -> None:
    image, mask = random_pair(*size)
    factor = 30 / min(size)
    scaled = AugmentationConfig(scale=[0.5 * factor, 2 * factor], flip=0.5)
    relative = AugmentationConfig(scale=[0.5, 2.0], short_side=30, flip=0.5)
    generators = rng(3), rng(3)
    outputs = [
        TrainTransform((32, 32), augmentation)(image, mask, generator)
        for augmentation, generator in zip((scaled, relative), generators, strict=True)
    ]
    assert all(torch.equal(*pair) for pair in zip(*outputs, strict=True))
    assert generators[0].bit_generator.state == generators[1].bit_generator.state


def test_image_smaller_than_the_crop_keeps_its_aspect_ratio() -> None:
    mask = torch.ones(40, 80, dtype=torch.uint8)
    transform = TrainTransform((100, 100), AugmentationConfig(scale=[0.5, 0.5]))
    image, out = transform(torch.full((3, 40, 80), 9, dtype=torch.uint8), mask, rng(0))
    rows, columns = (out == 1).any(1).sum(), (out == 1).any(0).sum()
    assert (int(rows), int(columns)) == (20, 40)
    assert torch.equal((image == 9).all(0), out == 1)


@settings(deadline=None, max_examples=20)
@given(seed=seeds)
def test_output_depends_only_on_the_generator(seed: int) -> None:
    image, mask = random_pair(50, 60)
    transform = TrainTransform((32, 40), EVERYTHING)
    torch.manual_seed(0)
    first = transform(image, mask, rng(seed))
    torch.manual_seed(1)
    global_state = torch.get_rng_state()
    second = pickle.loads(pickle.dumps(transform))(image, mask, rng(seed))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert torch.equal(torch.get_rng_state(), global_state)


@settings(deadline=None, max_examples=20)
@given(seed=seeds)
def test_jitter_changes_only_the_image(seed: int) -> None:
    image, mask = random_pair(20, 30)
    plain_image, plain_mask = TrainTransform((24, 24), PLAIN)(image, mask, rng(seed))
    image, mask = TrainTransform((24, 24), JITTER)(image, mask, rng(seed))
    assert torch.equal(mask, plain_mask)
    assert not torch.equal(image, plain_image)
    padding = mask == 255
    assert torch.equal(image[:, padding], plain_image[:, padding])


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_jitter_is_torchvisions_with_a_factor_in_range(name: str) -> None:
    image, mask = random_pair(8, 8)
    strength = 0.3
    adjust = getattr(F, f"adjust_{name}")
    middle = 0.0 if name == "hue" else 1.0
    transform = TrainTransform((8, 8), AugmentationConfig(**{name: strength}))
    column = 4 + ["brightness", "contrast", "saturation", "hue"].index(name)
    for seed in range(5):
        factor = middle + strength * (2 * rng(seed).random(8)[column] - 1)
        assert torch.equal(transform(image, mask, rng(seed))[0], adjust(image, factor))


# Grayscale, blur, rotation


NEW = {"grayscale": 1.0, "blur": 1.0, "rotation": 30.0}


def draws_of(seed: int) -> list[float]:
    """Return the numbers of a sample: eight for crop, flip and jitter, then four, drawn apart."""
    generator = rng(seed)
    return [*generator.random(8).tolist(), *generator.random(4).tolist()]


@pytest.mark.parametrize("seed", range(3))
def test_grayscale_blur_and_rotation_are_torchvisions(seed: int) -> None:
    image, mask = random_pair(24, 30)
    draws = draws_of(seed)

    def changed(**keys: float) -> tuple[Tensor, Tensor]:
        return TrainTransform((24, 30), AugmentationConfig(**keys))(image, mask, rng(seed))

    assert torch.equal(changed(grayscale=1)[0], F.rgb_to_grayscale(image, num_output_channels=3))
    sigma = 0.1 + 1.9 * draws[10]
    size = 2 * int(np.ceil(3 * sigma)) + 1
    assert torch.equal(changed(blur=1)[0], F.gaussian_blur(image, [size, size], [sigma, sigma]))
    angle = 30 * (2 * draws[11] - 1)
    turned, labels = changed(rotation=30)
    assert torch.equal(turned, F.rotate(image, angle, F.InterpolationMode.BILINEAR, fill=[124.0, 116.0, 104.0]))
    assert torch.equal(labels, F.rotate(mask[None], angle, F.InterpolationMode.NEAREST, fill=[255.0])[0])


@examples
@given(size=st.tuples(sides, sides), crop=st.tuples(sides, sides), seed=seeds)
def test_every_size_can_be_changed(size: tuple[int, int], crop: tuple[int, int], seed: int) -> None:
    image, mask = random_pair(*size)
    given_image, given_mask = image.clone(), mask.clone()
    transform = TrainTransform(crop, AugmentationConfig(scale=[0.5, 2.0], flip=0.5, **NEW), cat_max_ratio=0.75)
    changed_image, changed_mask = transform(image, mask, rng(seed))
    assert changed_image.shape == (3, *crop)
    assert changed_mask.shape == crop
    assert changed_image.permute(1, 2, 0).is_contiguous()
    assert (changed_image.dtype, changed_mask.dtype) == (torch.uint8, torch.uint8)
    assert set(changed_mask.unique().tolist()) <= {*mask.unique().tolist(), 255}
    assert torch.equal(image, given_image)
    assert torch.equal(mask, given_mask)


def test_rotation_moves_image_and_mask_together() -> None:
    mask = torch.zeros(64, 64, dtype=torch.uint8)
    mask[20:44, 10:40] = 1
    image = (mask * 200).expand(3, -1, -1).clone()
    for seed in range(10):
        turned, labels = TrainTransform((64, 64), AugmentationConfig(rotation=180))(image, mask, rng(seed))
        inside = labels != 255
        agree = (turned[0] > 100) == (labels == 1)
        assert agree[inside].float().mean() > 0.97


@pytest.mark.parametrize("key", NEW)
def test_new_changes_leave_position_and_flip_unchanged(key: str) -> None:
    image, mask = random_pair(50, 60)
    for seed in range(5):
        plain = TrainTransform((24, 24), EVERYTHING).draw((50, 60), rng(seed), lambda: mask)
        changed = TrainTransform((24, 24), AugmentationConfig(scale=[0.5, 2.0], flip=0.5, **{key: NEW[key]}))
        other = changed.draw((50, 60), rng(seed), lambda: mask)
        assert (plain.rows, plain.columns, plain.flip) == (other.rows, other.columns, other.flip)
    off = TrainTransform((24, 24), AugmentationConfig(scale=[0.5, 2.0], **{key: 0.0}))(image, mask, rng(1))
    assert torch.equal(off[0], TrainTransform((24, 24), AugmentationConfig(scale=[0.5, 2.0]))(image, mask, rng(1))[0])


# Crops with several classes


def reference_position(mask: np.ndarray, crop: int, ratio: float, seed: int) -> tuple[int, int]:
    """Return the place of a crop as mmsegmentation chooses it, from the numbers of this project."""
    generator = rng(seed)
    _, vertical, horizontal = generator.random(8)[:3]
    generator.random(4)
    for _ in range(10):
        top, left = int(vertical * (mask.shape[0] - crop + 1)), int(horizontal * (mask.shape[1] - crop + 1))
        labels, counts = np.unique(mask[top : top + crop, left : left + crop], return_counts=True)
        counts = counts[labels != 255]
        if len(counts) > 1 and np.max(counts) / np.sum(counts) < ratio:
            break
        vertical, horizontal = generator.random(2)
    return int(vertical * (mask.shape[0] - crop + 1)), int(horizontal * (mask.shape[1] - crop + 1))


@examples
@given(seed=seeds, ratio=st.sampled_from([0.3, 0.6, 0.75, 0.95]), num_classes=st.integers(1, 3))
def test_crop_filled_by_one_class_is_drawn_again(seed: int, ratio: float, num_classes: int) -> None:
    blocks = rng(seed).choice([*range(num_classes), 255], (4, 5)).astype(np.uint8)
    mask = np.kron(blocks, np.ones((8, 8), np.uint8))
    rows = torch.arange(32, dtype=torch.uint8)[:, None].expand(32, 40)
    columns = torch.arange(40, dtype=torch.uint8).expand(32, 40)
    image = torch.stack([rows, columns, rows])
    crop, labels = TrainTransform((10, 10), PLAIN, cat_max_ratio=ratio)(image, torch.from_numpy(mask), rng(seed))
    top, left = reference_position(mask, 10, ratio, seed)
    assert (crop[0, 0, 0].item(), crop[1, 0, 0].item()) == (top, left)
    np.testing.assert_array_equal(labels.numpy(), mask[top : top + 10, left : left + 10])
