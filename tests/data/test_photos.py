import numpy as np
import pytest
from PIL import Image

from wsss_lib.data.photos import read_image, read_image_size

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (6, 9), np.uint8)
RGB = RNG.integers(0, 256, (6, 9, 3), np.uint8)


def saved(image, path, **options):
    image.save(path, **options)
    return path


def test_rgb_png_is_read_exactly(tmp_path):
    image = read_image(saved(Image.fromarray(RGB), tmp_path / "a.png"))
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, RGB)


def test_grey_is_repeated_over_the_channels(tmp_path):
    image = read_image(saved(Image.fromarray(GREY), tmp_path / "a.png"))
    np.testing.assert_array_equal(image, np.repeat(GREY[..., None], 3, 2))


def test_sixteen_bit_grey_keeps_its_high_byte(tmp_path):
    sixteen = RNG.integers(0, 2**16, (6, 9), np.uint16)
    image = read_image(saved(Image.fromarray(sixteen), tmp_path / "a.png"))
    np.testing.assert_array_equal(image, np.repeat(sixteen[..., None] // 256, 3, 2))


def test_palette_is_resolved_to_colours(tmp_path):
    indices = RNG.integers(0, 4, (6, 9), np.uint8)
    colours = RNG.integers(0, 256, (4, 3), np.uint8)
    image = Image.fromarray(indices, mode="P")
    image.putpalette(colours.tobytes())
    np.testing.assert_array_equal(read_image(saved(image, tmp_path / "a.png")), colours[indices])


@pytest.mark.parametrize("colour", [RGB, GREY[..., None]], ids=["RGBA", "LA"])
def test_transparency_is_laid_on_white(tmp_path, colour):
    alpha = RNG.integers(0, 256, (6, 9, 1), np.uint8)
    alpha[0], alpha[1] = 0, 255
    image = read_image(saved(Image.fromarray(np.concatenate([colour, alpha], 2)), tmp_path / "a.png"))
    expected = colour * (alpha / 255) + 255 * (1 - alpha / 255)
    assert np.abs(image - expected).max() <= 1
    assert (image[0] == 255).all()
    np.testing.assert_array_equal(image[1], np.broadcast_to(colour[1], (9, 3)))


def test_cmyk_jpeg_has_the_colours_of_its_inks(tmp_path):
    inks = np.zeros((16, 16, 4), np.uint8)
    inks[..., 0] = 255  # full cyan
    image = read_image(saved(Image.fromarray(inks, mode="CMYK"), tmp_path / "a.jpg", quality=95))
    assert np.abs(image.astype(int) - (0, 255, 255)).max() <= 6


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    # Blocks of 8 pixels survive JPEG; the upright picture is what EXIF's table says of the stored one.
    stored = np.kron(RNG.integers(0, 256, (2, 3), np.uint8), np.ones((8, 8), np.uint8))
    upright = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.T,
        6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].T,
        8: np.rot90(stored),
    }[orientation]
    path = saved(Image.fromarray(stored), tmp_path / "a.jpg", exif=exif, quality=98)
    image = read_image(path)
    assert read_image_size(path) == upright.shape == image.shape[:2]
    assert np.abs(image[..., 0].astype(int) - upright).max() <= 4


@pytest.mark.parametrize("odd", [0, 9, 255, 65535])
def test_an_orientation_that_there_is_not_is_upright(tmp_path, odd):
    exif = Image.Exif()
    exif[0x0112] = odd
    path = saved(Image.new("RGB", (24, 16)), tmp_path / "a.jpg", exif=exif)
    assert read_image_size(path) == (16, 24) == read_image(path).shape[:2]


@pytest.mark.parametrize("value", ["six", (6, 6), 6.5])
def test_an_orientation_that_is_no_number_is_upright(tmp_path, value, monkeypatch):
    path = saved(Image.new("RGB", (24, 16)), tmp_path / "a.jpg")
    monkeypatch.setattr(Image.Image, "getexif", lambda image: {0x0112: value})
    assert read_image_size(path) == (16, 24) == read_image(path).shape[:2]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_metadata_are_passed_over(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = exif.tobytes()
    path = tmp_path / "a.jpg"
    for damaged in (
        whole[:10],
        whole[:-9],
        whole[:6] + b"\xff" * 20,
        b"Exif\x00\x00",
        whole[:6] + whole[14:],
    ):
        Image.new("RGB", (24, 16)).save(path, exif=damaged)
        assert read_image_size(path) == read_image(path).shape[:2] == (16, 24)


def test_the_orientation_is_applied_though_another_entry_is_damaged(tmp_path):
    """`PIL.ImageOps.exif_transpose` fails here: it writes the other entries anew."""
    exif = Image.Exif()
    exif[0x0112], exif[0x0128] = 6, 2
    whole = exif.tobytes()
    damaged = whole.replace(b"\x01\x28\x00\x03", b"\x01\x28\x00\x02")  # a number said to be a text
    assert damaged != whole
    path = saved(Image.new("RGB", (24, 16)), tmp_path / "a.jpg", exif=damaged)
    assert read_image_size(path) == read_image(path).shape[:2] == (24, 16)


def test_a_photo_beyond_what_pillow_opens_is_a_sentence(tmp_path, monkeypatch):
    path = saved(Image.new("RGB", (24, 16)), tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for read in (read_image, read_image_size):
        with pytest.raises(ValueError, match=r"a\.png is too large to be read .*; scale it down\.$"):
            read(path)


def test_size_is_read_from_the_header_alone(tmp_path):
    path = saved(Image.fromarray(np.resize(RGB, (200, 300, 3))), tmp_path / "a.jpg")
    path.write_bytes(path.read_bytes()[:800])  # the header and hardly any pixels
    assert read_image_size(path) == (200, 300)
    with pytest.raises(ValueError, match=r"a\.jpg is damaged .*truncated.*replace"):
        read_image(path)


def test_what_is_no_photo_is_named(tmp_path):
    (tmp_path / "a.jpg").write_text("not a photo")
    with pytest.raises(ValueError, match=r"a\.jpg is damaged or no image"):
        read_image(tmp_path / "a.jpg")
    with pytest.raises(FileNotFoundError, match=r"no file .*b\.jpg"):
        read_image(tmp_path / "b.jpg")
    with pytest.raises(ValueError, match=r"c\.tiff holds F pixels"):
        read_image(saved(Image.fromarray(GREY.astype(np.float32)), tmp_path / "c.tiff"))
