"""DICOM: values by hand, the files that pydicom ships, and headers that lie."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from fmcache.extract.decode import ReaderOptions, Undecodable, count_slices, decode

READER = ReaderOptions()
FILES = Path(pydicom.__file__).parent / "data" / "test_files"
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")


def stored(name: str) -> bytes:
    return (FILES / name).read_bytes()


def made(values: np.ndarray, **tags) -> bytes:
    """A small uncompressed file of these stored values, [h, w] or [frames, h, w]."""
    source = Dataset()
    source.file_meta = FileMetaDataset()
    source.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    source.file_meta.MediaStorageSOPClassUID = CTImageStorage
    source.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    source.SOPClassUID, source.SOPInstanceUID = CTImageStorage, "1.2.3"
    source.Rows, source.Columns = values.shape[-2:]
    if values.ndim == 3:
        source.NumberOfFrames = values.shape[0]
    source.SamplesPerPixel, source.PhotometricInterpretation = 1, "MONOCHROME2"
    source.BitsAllocated = source.BitsStored = 8 * values.dtype.itemsize
    source.HighBit = source.BitsStored - 1
    source.PixelRepresentation = int(values.dtype.kind == "i")
    source.PixelData = values.tobytes()
    for tag, value in tags.items():
        if value is None:
            delattr(source, tag)
        else:
            setattr(source, tag, value)
    out = io.BytesIO()
    pydicom.dcmwrite(out, source, enforce_file_format=True)
    return out.getvalue()


def grey(data: bytes, reader: ReaderOptions = READER, slice: int = 0) -> list:
    return decode(data, slice=slice, reader=reader).tolist()


RAMP = np.array([[0, 1000, 2000, 3000, 4000]], np.uint16)


def test_without_a_window_the_frame_fills_the_range() -> None:
    assert grey(made(RAMP)) == [[0, 64, 128, 191, 255]]


def test_monochrome1_is_inverted() -> None:
    assert grey(made(RAMP, PhotometricInterpretation="MONOCHROME1")) == [[255, 191, 127, 64, 0]]


def test_a_linear_window_follows_the_standard() -> None:
    # PS3.3 C.11.2.1.2.1: y = ((x - (c - 1/2)) / (w - 1) + 1/2) * 255; with c = 2048, w = 4096: y = x / 4095 * 255
    data = made(RAMP, WindowCenter=2048, WindowWidth=4096)
    assert grey(data) == [[round(x / 4095 * 255) for x in (0, 1000, 2000, 3000, 4000)]]
    # c = 2, w = 3: x <= 0.5 gives 0, x = 1 gives 255 * ((1 - 1.5) / 2 + 0.5) = 63.75, x > 2.5 gives 255
    assert grey(made(np.array([[0, 1, 2, 3]], np.uint16), WindowCenter=2, WindowWidth=3)) == [
        [0, 64, 191, 255]
    ]


def test_an_exact_and_a_sigmoid_window() -> None:
    exact = made(RAMP, WindowCenter=2000, WindowWidth=2000, VOILUTFunction="LINEAR_EXACT")
    assert grey(exact) == [[0, 0, 128, 255, 255]]
    curve = made(RAMP, WindowCenter=2000, WindowWidth=2000, VOILUTFunction="SIGMOID")
    assert grey(curve) == [[round(255 / (1 + np.exp(-4 * (x - 2000) / 2000))) for x in RAMP[0].astype(float)]]


def test_the_first_of_several_windows_counts() -> None:
    several = made(RAMP, WindowCenter=[2048, 10], WindowWidth=[4096, 20])
    assert grey(several) == grey(made(RAMP, WindowCenter=2048, WindowWidth=4096))


def test_rescale_comes_before_the_readers_window() -> None:
    data = made(RAMP, RescaleSlope=1, RescaleIntercept=-1024, WindowCenter=0, WindowWidth=10)
    # Hounsfield -1024, -24, 976, …; 40 ± 200
    assert grey(data, ReaderOptions(window=(40, 400))) == [[0, round((-24 + 160) / 400 * 255), 255, 255, 255]]


def test_a_voi_table_wins_over_a_window() -> None:
    table = Dataset()
    table.LUTDescriptor = [4, 0, 8]
    table.LUTData = np.array([0, 10, 200, 255], "<u2").tobytes()
    data = made(np.array([[0, 1, 2, 3]], np.uint16), VOILUTSequence=[table], WindowCenter=2, WindowWidth=3)
    assert grey(data) == [[0, 10, 200, 255]]


def test_frames_are_slices() -> None:
    frames = np.arange(5 * 2 * 3, dtype=np.uint16).reshape(5, 2, 3)
    data = made(frames, WindowCenter=128, WindowWidth=256)
    assert count_slices(data, READER) == 5
    assert [grey(data, slice=i) for i in range(5)] == frames.tolist()
    few = ReaderOptions(slices=2)  # the middles of two halves of 5: floor(1.25), floor(3.75)
    assert count_slices(data, few) == 2
    assert [grey(data, few, i) for i in range(2)] == frames[[1, 3]].tolist()
    with pytest.raises(Undecodable, match="no slice 2"):
        grey(data, few, 2)


def test_8_bits_with_a_full_window_stay_as_they_are() -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert grey(made(values)) == values.tolist()


@pytest.mark.parametrize(
    "name",
    [
        "MR_small_RLE",
        "MR_small_jp2klossless",
        "MR_small_jpeg_ls_lossless",
        "MR_small_bigendian",
        "MR_small_implicit",
    ],
)
def test_lossless_compression_and_byte_order_change_nothing(name: str) -> None:
    assert grey(stored(f"{name}.dcm")) == grey(stored("MR_small.dcm"))


def test_colour_files() -> None:
    reference = decode(stored("SC_rgb_rle.dcm"), slice=0, reader=READER)
    assert reference.shape == (100, 100, 3)
    for name in ("SC_rgb_rle_16bit", "SC_rgb_rle_32bit", "SC_rgb_gdcm_KY", "SC_rgb_jpeg_gdcm"):
        assert (
            np.abs(decode(stored(f"{name}.dcm"), slice=0, reader=READER).astype(int) - reference).max() <= 1
        ), name
    ybr = decode(stored("SC_ybr_full_422_uncompressed.dcm"), slice=0, reader=READER)
    # 8-bit YCbCr cannot hold every RGB value: a green of 255 comes back as up to 6 less
    assert np.abs(ybr.astype(int) - reference).max() <= 6
    palette = decode(stored("examples_palette.dcm"), slice=0, reader=READER)
    assert palette.shape == (350, 800, 3)
    assert not np.array_equal(palette[..., 0], palette[..., 2])


def test_a_tiff_header_in_the_preamble_is_still_dicom() -> None:
    data = b"II*\0" + bytes(124) + made(RAMP)[128:]
    assert grey(data) == grey(made(RAMP))


def test_a_file_without_preamble_is_read() -> None:
    whole = stored("MR_small.dcm")
    assert grey(whole[132:]) == grey(whole)


def test_every_file_that_pydicom_ships_gives_pixels_or_a_reason() -> None:
    data_store = pytest.importorskip("data_store", reason="pip install pydicom-data==1.0.0 (make test does)")
    outcome: dict[str, int | str] = {}
    more = Path(data_store.__file__).parent / "data"
    for file in sorted([*FILES.glob("*.dcm"), *more.rglob("*.dcm")]):
        data = file.read_bytes()
        try:
            frames = [decode(data, slice=i, reader=READER) for i in range(count_slices(data, READER))]
        except Undecodable as error:
            outcome[file.stem] = error.reason
            assert "\n" not in error.reason  # noqa: PT017
            assert len(error.reason) < 140  # noqa: PT017
        else:
            assert all(frame.dtype == np.uint8 and frame.ndim in (2, 3) for frame in frames)
            outcome[file.stem] = len(frames)
    assert outcome["examples_ybr_color"] == 30
    assert outcome["rtplan"] == "The file declares no image size."
    assert outcome["MR_truncated"] == "The pixel data has 8,130 bytes where the header declares 8,192."
    assert outcome["JPEG-lossy"].startswith("No installed plug-in can decode")
    readable = [name for name, found in outcome.items() if isinstance(found, int)]
    assert (len(outcome), len(readable)) == (146, 123)
    reasons = Counter(found for found in outcome.values() if isinstance(found, str))
    # what COVID-CT-MD is compressed with (JPEG Lossless, process 14), and what pydicom alone cannot read
    assert outcome["JPEG-LL"] == outcome["JPGLosslessP14SV1_1s_1f_8b"] == 1
    # plans, reports, waveforms and fragments of headers have no picture in them
    assert reasons["The file declares no image size."] == 15
    assert sum(reasons.values()) == 23


@pytest.mark.parametrize(
    ("reason", "tags"),
    [
        ("declares 65535 x 65535 pixels", {"Rows": 65535, "Columns": 65535}),
        ("above the limit", {"NumberOfFrames": 2**31 - 1}),
        ("bytes where the header declares", {"NumberOfFrames": 100_000}),
        ("bytes where the header declares", {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}),
        ("bytes where the header declares", {"PixelData": b"\0" * 4}),
        ("without pixels", {"Rows": 0}),
        ("no pixel data", {"PixelData": None}),
        ("no image size", {"Rows": None}),
        ("do not fit into the 11 bits", {"BitsStored": 11, "HighBit": 10}),
        ("rescale slope", {"RescaleSlope": 0, "RescaleIntercept": 0}),
        ("window", {"WindowCenter": 10, "WindowWidth": 0}),
        ("photometric", {"PhotometricInterpretation": "HSV"}),
    ],
)
def test_a_header_that_lies(reason: str, tags: dict) -> None:
    with pytest.raises(Undecodable, match=reason):
        grey(made(RAMP, **tags))


def test_signed_values_outside_their_bits() -> None:
    values = np.array([[-3000, 0, 100]], np.int16)
    assert grey(made(values))[0][0] == 0
    with pytest.raises(Undecodable, match="12 bits"):
        grey(made(values, BitsStored=12, HighBit=11))


def test_a_missing_plugin_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Bare:
        is_available = False

    monkeypatch.setattr("fmcache.extract.dicom.pixels.get_decoder", lambda uid: Bare())
    expected = {
        "SC_rgb_jpeg_gdcm.dcm": "pip install pylibjpeg pylibjpeg-libjpeg",
        "MR_small_jp2klossless.dcm": "pip install pylibjpeg pylibjpeg-openjpeg",
        "MR_small_jpeg_ls_lossless.dcm": "pip install pylibjpeg pylibjpeg-libjpeg",
    }
    for name, command in expected.items():
        with pytest.raises(Undecodable) as caught:
            grey(stored(name))
        assert caught.value.reason.endswith(command)


@pytest.mark.parametrize("name", ["CT_small.dcm", "SC_rgb_rle_2frame.dcm", "MR_small_jp2klossless.dcm"])
def test_a_truncated_file_is_refused_or_complete(name: str) -> None:
    data = stored(name)
    reference, refused = decode(data, slice=0, reader=READER), 0
    for end in np.linspace(0, len(data) - 1, 60).astype(int):
        try:
            got = decode(data[:end], slice=0, reader=READER)
        except Undecodable:
            refused += 1
        else:
            assert np.array_equal(got, reference), f"cut at {end} of {len(data)}"
    assert refused >= 40
