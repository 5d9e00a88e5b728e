"""Plain images: what each mode becomes, and that no hostile file does anything but give a reason."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fmcache.extract.decode import ReaderOptions, Undecodable, count_slices, decode, read_input

READER = ReaderOptions()
RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (37, 53), dtype=np.uint8)
COLOUR = np.asarray(
    Image.fromarray(RNG.integers(0, 256, (9, 13, 3), dtype=np.uint8)).resize(
        (53, 37), Image.Resampling.BICUBIC
    )
)
FORMATS = {
    "PNG": {},
    "JPEG": {"quality": 90},
    "TIFF": {"compression": "tiff_lzw"},
    "WEBP": {"lossless": True},
    "BMP": {},
}


def encoded(image: Image.Image, form: str = "PNG", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def pixels(data: bytes, reader: ReaderOptions = READER, **options) -> np.ndarray:
    return decode(data, slice=0, reader=reader, **options)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "BMP"])
def test_grey_stays_one_channel(form: str) -> None:
    assert np.array_equal(pixels(encoded(Image.fromarray(GREY), form)), GREY)


def test_grey_jpeg_stays_one_channel() -> None:
    data = encoded(Image.fromarray(GREY), "JPEG", quality=95)
    assert np.array_equal(pixels(data), np.asarray(Image.open(io.BytesIO(data))))
    assert pixels(data).ndim == 2


@pytest.mark.parametrize("form", ["PNG", "TIFF", "BMP", "WEBP"])
def test_rgb_is_exact(form: str) -> None:
    assert np.array_equal(pixels(encoded(Image.fromarray(COLOUR), form, **FORMATS[form])), COLOUR)


def test_rgb_with_equal_channels_stays_rgb() -> None:
    same = np.repeat(GREY[:, :, None], 3, axis=2)
    assert np.array_equal(pixels(encoded(Image.fromarray(same))), same)


def test_palette_becomes_rgb() -> None:
    image = Image.fromarray(COLOUR).quantize(16)
    assert np.array_equal(pixels(encoded(image)), np.asarray(image.convert("RGB")))


def test_transparent_palette_becomes_rgb_without_a_warning() -> None:
    image = Image.fromarray(COLOUR).quantize(16)
    data = encoded(image, transparency=bytes(range(16)))
    assert np.array_equal(pixels(data), np.asarray(image.convert("RGB")))


def test_alpha_is_dropped_not_blended() -> None:
    alpha = np.concatenate([COLOUR, np.full((*GREY.shape, 1), 7, np.uint8)], axis=2)
    assert np.array_equal(pixels(encoded(Image.fromarray(alpha))), COLOUR)
    grey_alpha = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(255 - GREY)])
    assert np.array_equal(pixels(encoded(grey_alpha)), GREY)


def test_one_bit_becomes_black_and_white() -> None:
    bits = GREY > 127
    assert np.array_equal(pixels(encoded(Image.fromarray(bits))), np.where(bits, 255, 0))


def test_cmyk_becomes_rgb() -> None:
    image = Image.fromarray(COLOUR).convert("CMYK")
    data = encoded(image, "TIFF")
    assert np.array_equal(pixels(data), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_16_bit_grey_uses_its_full_range(form: str) -> None:
    deep = np.array([[0, 128, 129, 257], [32767, 32768, 65406, 65535]], np.uint16)
    expected = [[0, 0, 1, 1], [127, 128, 254, 255]]  # round(v / 257): 128/257 < 1/2 < 129/257
    assert pixels(encoded(Image.fromarray(deep), form)).tolist() == expected


def test_16_bit_grey_through_a_window() -> None:
    deep = np.array([[0, 1000, 1500, 2000, 65535]], np.uint16)
    reader = ReaderOptions(window=(1500, 1000))
    assert pixels(encoded(Image.fromarray(deep)), reader).tolist() == [[0, 0, 128, 255, 255]]


def test_32_bit_pixels_need_a_window() -> None:
    data = encoded(Image.fromarray(np.array([[0.0, 0.5, 2.0]], np.float32)), "TIFF")
    with pytest.raises(Undecodable, match="set `window`"):
        pixels(data)
    assert pixels(data, ReaderOptions(window=(0.5, 1.0))).tolist() == [[0, 128, 255]]


def test_32_bit_pixels_that_are_not_finite() -> None:
    data = encoded(Image.fromarray(np.array([[0.0, np.nan]], np.float32)), "TIFF")
    with pytest.raises(Undecodable, match="not finite"):
        pixels(data, ReaderOptions(window=(0.5, 1.0)))


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to view
    data = encoded(Image.fromarray(COLOUR), "JPEG", exif=exif, quality=95)
    plain = encoded(Image.fromarray(COLOUR), "JPEG", quality=95)
    assert np.array_equal(pixels(data), np.rot90(pixels(plain), -1))


@pytest.mark.parametrize(
    ("target", "expected"), [(512, 2048), (500, 1024), (400, 1024), (100, 256), (50, 256)]
)
def test_scaled_decoding_never_falls_below_the_target(target: int, expected: int) -> None:
    ramp = np.tile(np.arange(2048, dtype=np.float32) / 8, (1000, 1)).astype(np.uint8)
    data = encoded(Image.fromarray(ramp), "JPEG")
    small = pixels(data, target=target)
    assert min(small.shape) >= target
    assert small.shape[1] == expected
    step = 2048 // expected
    mean = ramp.reshape(1000 // step, step, -1, step).mean((1, 3))
    assert np.abs(small.astype(float)[:100, 10:-10] - mean[:100, 10:-10]).max() < 4


def test_scaled_decoding_leaves_other_formats_alone() -> None:
    assert np.array_equal(pixels(encoded(Image.fromarray(GREY)), target=8), GREY)


@pytest.mark.parametrize("form", FORMATS)
def test_a_truncated_file_is_refused_or_complete(form: str) -> None:
    data = encoded(Image.fromarray(COLOUR), form, **FORMATS[form])
    reference, refused = pixels(data), 0
    offsets = sorted(
        {*np.linspace(0, len(data) - 1, 120).astype(int).tolist(), *range(len(data) - 20, len(data))}
    )
    for end in offsets:
        try:
            got = pixels(data[:end])
        except Undecodable as error:
            refused += 1
            assert "\n" not in error.reason  # noqa: PT017
        else:
            assert np.array_equal(got, reference), f"cut at {end} of {len(data)}: other pixels, no complaint"
    assert refused >= 100


@pytest.mark.parametrize("form", FORMATS)
def test_flipped_bits_give_pixels_or_a_reason(form: str) -> None:
    data = encoded(Image.fromarray(COLOUR), form, **FORMATS[form])
    rng = np.random.default_rng(1)
    refused = 0
    for at in rng.integers(0, len(data), 200):
        damaged = bytearray(data)
        damaged[at] ^= 1 << int(rng.integers(8))
        try:
            got = pixels(bytes(damaged))
            assert got.dtype == np.uint8
        except Undecodable:
            refused += 1
    if form == "PNG":
        assert refused > 150  # a PNG checks itself; the others are why the file's digest is stored


def bomb(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    squeeze = zlib.compressobj(9)
    body = b"".join(squeeze.compress(b"\0" * (width // 8 + 1)) for _ in range(height)) + squeeze.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [7_100, 12_000, 20_000])
def test_a_decompression_bomb_is_refused_by_its_header(side: int) -> None:
    data = bomb(side, side)
    assert len(data) < 60_000
    with pytest.raises(Undecodable, match="limit"):
        pixels(data)


def test_the_pixel_limit_is_an_option() -> None:
    data = encoded(Image.fromarray(GREY))
    assert pixels(data, ReaderOptions(max_pixels=GREY.size)).shape == GREY.shape
    with pytest.raises(Undecodable, match="limit is 1,960"):
        pixels(data, ReaderOptions(max_pixels=GREY.size - 1))


@pytest.mark.parametrize(
    "data",
    [
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n",
        b"GIF89a" + bytes(40),
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"",
        b"\0",
        b"BM",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff",
        b"II*\0",
        b"RIFF\0\0\0\0WEBP",
    ],
)
def test_other_content_is_refused_whatever_its_name(data: bytes) -> None:
    with pytest.raises(Undecodable):
        pixels(data)


def test_a_file_of_two_pages_is_refused() -> None:
    page = Image.fromarray(GREY)
    with pytest.raises(Undecodable, match="holds 2 images"):
        pixels(encoded(page, "TIFF", save_all=True, append_images=[page]))


def test_plain_images_have_one_slice() -> None:
    data = encoded(Image.fromarray(GREY))
    assert count_slices(data, READER) == 1
    with pytest.raises(Undecodable, match="single slice"):
        decode(data, slice=1, reader=READER)


# ------------------------------------------------------------------------------------------------- reading the bytes


def test_a_plain_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.png").write_bytes(b"bytes")
    assert read_input(tmp_path, "a/b.png", 5) == b"bytes"
    with pytest.raises(Undecodable, match=r"5 bytes; the limit is 4\."):
        read_input(tmp_path, "a/b.png", 4)


@pytest.mark.timeout(20)
def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").touch()
    reasons = {"pipe": "a pipe", "folder": "a directory", "empty": "empty", "none": "no such file"}
    for name, reason in reasons.items():
        with pytest.raises(Undecodable, match=reason):
            read_input(tmp_path, name)


def test_links_may_not_leave_the_root(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside.png"
    root.mkdir()
    outside.write_bytes(b"secret")
    (root / "in.png").write_bytes(b"inside")
    (root / "good").symlink_to("in.png")
    (root / "bad").symlink_to(outside)
    (root / "up").symlink_to("..")
    (root / "circle").symlink_to("circle")
    (root / "zero").symlink_to("/dev/zero")
    assert read_input(root, "good") == b"inside"
    for name, reason in {
        "bad": "out of",
        "up/outside.png": "out of",
        "zero": "out of",
        "circle": "circle",
    }.items():
        with pytest.raises(Undecodable, match=reason):
            read_input(root, name)
    (tmp_path / "link").symlink_to(root)
    assert read_input(tmp_path / "link", "in.png") == b"inside"  # the root itself may be a link


@pytest.mark.parametrize(
    "path", ["../x", "a/../../x", "/etc/passwd", "C:\\x", "c:/x", "\\\\host\\x", "a\0b", "", "a\\..\\b"]
)
def test_paths_that_lead_elsewhere(tmp_path: Path, path: str) -> None:
    with pytest.raises(Undecodable):
        read_input(tmp_path, path)


def test_no_reason_names_the_path(tmp_path: Path) -> None:
    for path in ("patient-4711.png", "../patient-4711.png", "x" * 300 + "patient-4711"):
        with pytest.raises(Undecodable) as caught:
            read_input(tmp_path, path)
        assert "4711" not in caught.value.reason


def test_options_travel_between_processes() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(Undecodable("why")))
    assert error.reason == "why"
    assert pickle.loads(pickle.dumps(READER)) == READER
