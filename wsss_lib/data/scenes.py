"""The embedded dataset: scenes drawn from a seed, in the layout of PASCAL VOC, with the failure that WSSS cures.

Six classes of invented animals live in five kinds of places. The *head* of an animal (3-12 % of its area) belongs to
its class alone; its *body* shares poses, coats and colours with the other classes and with the clutter, and is only
weak evidence. A classifier therefore looks at the heads, and its class activation maps miss the bodies, as they miss
the bodies of cats and dogs in photos. What photos lack is drawn too: masks of the discriminative part, true
sub-types (pose, proportions, coat, size, favourite place), occluded shares and the place of each picture.

`curlhorn` and `forkhorn` look alike (as cow and sheep); a `tagalong` nearly always comes with a `starnose`, on whose
back it rides (as person and bicycle).
"""

import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from io import BytesIO
from itertools import count
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from PIL import Image
from scipy import ndimage

from wsss_lib.data.scene_backdrops import CONTEXTS, draw_backdrop
from wsss_lib.data.scene_figures import COATS, Figure, animal, clutter, render
from wsss_lib.data.scene_textures import blend, hsv

IGNORE = 255


@dataclass(frozen=True)
class Subtype:
    """A true sub-type: how often it is drawn within its class, how it looks and where it lives."""

    name: str
    frequency: float
    pose: str
    coat: str
    stretch: float
    size: float
    context: str


SUBTYPES: dict[str, tuple[Subtype, ...]] = {
    "curlhorn": (
        Subtype("grazing", 0.45, "grazer", "shaggy", 1.0, 1.0, "meadow"),
        Subtype("tall", 0.25, "strider", "plain", 1.1, 1.1, "woodland"),
        Subtype("resting", 0.20, "sitter", "patches", 1.0, 0.9, "street"),
        Subtype("dwarf", 0.10, "roundling", "saddle", 1.0, 0.75, "shore"),
    ),
    "forkhorn": (
        Subtype("grazing", 0.40, "grazer", "patches", 1.1, 1.0, "meadow"),
        Subtype("tall", 0.35, "strider", "spots", 1.0, 1.1, "woodland"),
        Subtype("resting", 0.25, "sitter", "plain", 0.9, 0.9, "room"),
    ),
    "ringeye": (
        Subtype("perched", 0.40, "biped", "spots", 0.85, 0.9, "woodland"),
        Subtype("crouched", 0.30, "sitter", "stripes", 1.0, 1.0, "room"),
        Subtype("round", 0.20, "roundling", "shaggy", 1.0, 0.9, "meadow"),
        Subtype("creeping", 0.10, "crawler", "plain", 0.9, 1.0, "street"),
    ),
    "starnose": (
        Subtype("digging", 0.45, "grazer", "plain", 0.85, 1.15, "woodland"),
        Subtype("stout", 0.30, "roundling", "patches", 1.1, 1.1, "shore"),
        Subtype("long", 0.25, "crawler", "saddle", 1.0, 1.1, "street"),
    ),
    "fancrest": (
        Subtype("strutting", 0.45, "biped", "stripes", 1.1, 1.0, "street"),
        Subtype("long-necked", 0.35, "strider", "shaggy", 0.9, 1.05, "shore"),
        Subtype("squat", 0.20, "roundling", "plain", 0.9, 0.8, "room"),
    ),
    "tagalong": (
        Subtype("upright", 0.50, "biped", "saddle", 0.9, 0.8, "meadow"),
        Subtype("crouched", 0.30, "sitter", "plain", 1.0, 0.8, "room"),
        Subtype("creeping", 0.20, "crawler", "spots", 0.8, 0.8, "shore"),
    ),
}
CLASSES = tuple(SUBTYPES)
HUES = dict(zip(CLASSES, (0.08, 0.11, 0.76, 0.60, 0.38, 0.98), strict=True))
HOST, RIDER = "starnose", "tagalong"

# How much the body and the place tell about the class: the dials of the calibration.
HUE_RELIABILITY = 0.5
COAT_RELIABILITY = 0.75
CONTEXT_RELIABILITY = 0.55


@dataclass(frozen=True)
class SceneObject:
    """One visible object: a row of objects.csv. Shares are of the picture (area) and of the object (occluded)."""

    object: int
    class_name: str
    subtype: str
    area: float
    occluded: float
    xmin: int
    ymin: int
    xmax: int
    ymax: int


@dataclass(frozen=True)
class Scene:
    """A drawn picture (H, W, 3) uint8 with its truth: class ids and parts (H, W) uint8, 255 on outlines.

    `mask` holds 0 for background and 1..C for `CLASSES`; `parts` holds 1 on heads (discriminative), 2 elsewhere on
    objects. Boxes are in pixels, both ends inclusive.
    """

    image: np.ndarray
    mask: np.ndarray
    parts: np.ndarray
    objects: list[SceneObject]
    context: str


@dataclass
class _Thing:
    """A figure and where its feet are; `owner` is the number of the object, 0 for clutter."""

    figure: Figure
    x: float
    y: float
    size: float
    mirrored: bool
    owner: int = 0
    subtype: str = ""


def draw_scene(seed: int, split: str, index: int, image_size: tuple[int, int]) -> Scene:
    """Draw picture `index` of a split; the result depends on nothing but the arguments.

    Args:
        image_size: height and width in pixels, at least 48.
    """
    height, width = image_size
    if min(height, width) < 48:
        raise ValueError(
            f"image_size {tuple(image_size)} is too small to draw in; use at least 48 x 48 pixels."
        )
    for attempt in count():
        rng = np.random.default_rng([seed, zlib.crc32(split.encode()), index, attempt])
        scene = _try_scene(rng, height, width)
        if scene is not None:
            return scene
    raise AssertionError  # pragma: no cover (count() does not end)


def _try_scene(rng: np.random.Generator, height: int, width: int) -> Scene | None:
    """One composition, or None where an object came out too small, too large or hidden."""
    context, cast = _cast(rng)
    horizon = rng.uniform(0.22, 0.5)
    y = ((np.arange(height, dtype=np.float32) + 0.5) / height)[:, None]
    x = ((np.arange(width, dtype=np.float32) + 0.5) / height)[None]
    image = draw_backdrop(rng, context, y, x, horizon)
    ground = np.median(image[int(0.7 * height) :: 4, ::4], axis=(0, 1))
    things = _place(rng, context, cast, horizon, width / height, ground)
    light = np.array([rng.choice([-1, 1]) * rng.uniform(0.3, 0.7), -rng.uniform(0.4, 0.8), 0.6])
    light /= np.linalg.norm(light)

    owner = np.zeros((height, width), np.uint8)
    head = np.zeros((height, width), bool)
    full = np.zeros(len(cast) + 1)
    heads = np.zeros(len(cast) + 1)
    haze = image[: max(int(horizon * height), 1)].mean((0, 1))
    for thing in things:
        sprite = render(
            rng, thing.figure, thing.x, thing.y, thing.size, thing.mirrored, light, (height, width)
        )
        if sprite is None:
            continue
        _shadow(image, thing, y, x, light)
        near = np.clip((thing.y - horizon) / (1 - horizon), 0, 1)
        sprite.rgb += 0.3 * (1 - near) ** 2 * (haze - sprite.rgb)
        blend(image[sprite.rows, sprite.columns], sprite.rgb, sprite.alpha)
        covered = sprite.alpha > 0.5
        owner[sprite.rows, sprite.columns][covered] = thing.owner
        head[sprite.rows, sprite.columns][covered] = (sprite.head > 0.5)[covered]
        if thing.owner:
            full[thing.owner] += covered.sum()
            heads[thing.owner] += (sprite.head > 0.5).sum()
    visible = np.bincount(owner.ravel(), minlength=len(full))
    seen = np.bincount(owner[head], minlength=len(full))
    share = visible[1:] / owner.size
    if (share < 0.01).any() or (share > 0.6).any() or (visible[1:] < 0.4 * full[1:]).any():
        return None
    if (seen[1:] < 0.6 * heads[1:]).any() or ((seen[1:] < 0.012 * visible[1:]).any() and rng.random() < 0.8):
        return None
    numbers = [
        CLASSES.index(thing.figure.kind) + 1 for thing in sorted(things, key=lambda t: t.owner) if thing.owner
    ]
    lookup = np.array([0, *numbers], np.uint8)
    outline = ndimage.maximum_filter(owner, 3) != ndimage.minimum_filter(owner, 3)
    mask = np.where(outline, IGNORE, lookup[owner])
    parts = np.where(outline, IGNORE, np.where(owner == 0, 0, np.where(head, 1, 2))).astype(np.uint8)
    objects = []
    boxes = ndimage.find_objects(owner, max_label=len(cast))
    for thing in sorted(things, key=lambda t: t.owner):
        if thing.owner:
            rows, columns = boxes[thing.owner - 1]
            objects.append(
                SceneObject(
                    thing.owner,
                    thing.figure.kind,
                    thing.subtype,
                    round(float(share[thing.owner - 1]), 5),
                    round(float(1 - visible[thing.owner] / full[thing.owner]), 5),
                    columns.start,
                    rows.start,
                    columns.stop - 1,
                    rows.stop - 1,
                )
            )
    return Scene(_photograph(rng, image), mask, parts, objects, context)


def _cast(rng: np.random.Generator) -> tuple[str, list[tuple[str, Subtype]]]:
    """The place and who is in it: mostly a place its first animal likes, and others that like it too."""

    def subtype(name: str, context: str | None = None) -> Subtype:
        weights = np.array([s.frequency * (2.0 if s.context == context else 1.0) for s in SUBTYPES[name]])
        return SUBTYPES[name][rng.choice(len(weights), p=weights / weights.sum())]

    names = [str(rng.choice(CLASSES))]
    first = subtype(names[0])
    context = first.context if rng.random() < CONTEXT_RELIABILITY else str(rng.choice(list(CONTEXTS)))
    if names[0] == RIDER and rng.random() < 0.88:
        names = [HOST, RIDER]
    else:
        others = [name for name in CLASSES if name != RIDER]
        names += [str(rng.choice(others)) for _ in range(rng.choice(3, p=[0.62, 0.28, 0.1]))]
    cast = [(name, first if name == names[0] and name != HOST else subtype(name, context)) for name in names]
    return context, cast


def _colours(rng: np.random.Generator, hue: float, ground: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two coat colours; the first is tried again where it would vanish in the ground."""
    for _ in range(6):
        saturation, value = rng.uniform(0.1, 0.6), rng.uniform(0.3, 0.95)
        base = hsv(hue + rng.normal(0, 0.03), saturation, value)
        if np.linalg.norm(base - ground) > 0.28:
            break
    change = rng.uniform(0.35, 0.55)
    second = hsv(hue + rng.normal(0, 0.06), saturation * 0.8, value + (change if value < 0.55 else -change))
    return base, second


def _place(
    rng: np.random.Generator,
    context: str,
    cast: list[tuple[str, Subtype]],
    horizon: float,
    aspect: float,
    ground: np.ndarray,
) -> list[_Thing]:
    """Stand the cast and some clutter on the ground, far to near; size falls with the distance below the horizon."""
    things: list[_Thing] = []
    camera = None
    riding = [name for name, _ in cast] == [HOST, RIDER] and rng.random() < 0.6
    for number, (name, subtype) in enumerate(cast, 1):
        hue = HUES[name] if rng.random() < HUE_RELIABILITY else rng.random()
        coat = subtype.coat if rng.random() < COAT_RELIABILITY else str(rng.choice(COATS))
        share = rng.uniform(0.06, 0.11)
        stretch = subtype.stretch * rng.uniform(0.92, 1.08)
        figure = animal(rng, name, subtype.pose, coat, _colours(rng, hue, ground), stretch, share)
        y = horizon + (1.04 - horizon) * rng.uniform(0.35, 1.0)
        if camera is None:  # the first animal decides how near the camera is
            wanted = np.sqrt(aspect * np.exp(rng.normal(np.log(0.22 if len(cast) == 1 else 0.17), 0.55)))
            camera = wanted / (subtype.size * (y - horizon))
        size = float(np.clip(camera * subtype.size * (y - horizon), 0.16, 0.85))
        mirrored = bool(rng.random() < 0.5)
        if riding and number == 2:
            host = things[0]
            size = 0.62 * host.size
            bones = host.figure.trunk
            back = (bones[0, 1] - bones[0, 2]) * host.size
            x, y = host.x + (0.5 - rng.random()) * 0.3 * host.size, host.y + 0.93 * back
        else:
            x = _free_place(rng, figure, size, mirrored, things, aspect)
        things.append(_Thing(figure, x, y, size, mirrored, number, subtype.name))
    order = {thing.owner: thing.y for thing in things}
    if riding:
        order[2] = order[1] + 1e-3
    for _ in range(rng.choice(6, p=[0.15, 0.2, 0.25, 0.2, 0.12, 0.08])):
        outdoors = context in ("meadow", "woodland", "shore")
        form = str(rng.choice(["rock", "bush", "log"] if outdoors else ["bench", "post", "rock"]))
        y = horizon + (1.12 - horizon) * rng.uniform(0.08, 1.0)
        size = float(np.clip(camera * (y - horizon) * rng.uniform(0.2, 0.75), 0.05, 0.4))
        figure = clutter(rng, form, str(rng.choice(COATS)), _colours(rng, rng.random(), ground))
        x = rng.uniform(-0.1, aspect + 0.1)
        things.append(_Thing(figure, x, y, size, bool(rng.random() < 0.5)))
    return sorted(things, key=lambda thing: order[thing.owner] if thing.owner else thing.y)


def _free_place(
    rng: np.random.Generator, figure: Figure, size: float, mirrored: bool, others: list[_Thing], aspect: float
) -> float:
    """The emptiest of a few places, mostly such that the head lies inside the picture."""
    head = (-1 if mirrored else 1) * figure.head[0] * size
    candidates = rng.uniform(0.08 * aspect, 0.92 * aspect, 5) - (head if rng.random() < 0.6 else 0.4 * head)
    if not others:
        return float(candidates[0])
    gaps = [min(abs(x - other.x) / (size + other.size) for other in others) for x in candidates]
    return float(candidates[int(np.argmax(gaps))])


def _shadow(image: np.ndarray, thing: _Thing, y: np.ndarray, x: np.ndarray, light: np.ndarray) -> None:
    """Darken the ground under the feet, away from the light."""
    xmin, _, xmax, _ = thing.figure.extent()
    half = 0.4 * (xmax - xmin) * thing.size
    dy = (y - thing.y + 0.02 * thing.size) / (0.16 * thing.size)
    dx = (x - thing.x + 0.35 * light[0] * thing.size) / half
    image *= 1 - 0.5 * np.exp(-(dx**4) - dy**2)[..., None]


def _photograph(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Light and lens: vignette, white balance, exposure, softness and sensor noise; uint8."""
    height, width = image.shape[:2]
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None]
    image = np.clip(image, 0, 1.3) * (1 - rng.uniform(0, 0.22) * (x**2 + y**2) / 2)[..., None]
    warmth = rng.normal(0, 0.06)
    image = image * np.array([1 + warmth, 1, 1 - warmth]) * rng.uniform(0.75, 1.15)
    image = np.clip(image, 0, 1) ** rng.uniform(0.8, 1.2)
    softness = rng.uniform(0.2, 0.6) * height / 160
    image = ndimage.gaussian_filter(image, (softness, softness, 0), truncate=2.5)
    image += rng.normal(0, rng.uniform(0.003, 0.015), (height, width, 1))
    return (np.clip(image, 0, 1) * 255).round().astype(np.uint8)


FOLDERS = {
    "JPEGImages": ".jpg",
    "SegmentationClass": ".png",
    "SegmentationPart": ".png",
    "Saliency": ".png",
    "Annotations": ".json",
}


def generate_scenes(
    root: Path, sizes: Mapping[str, int], image_size: tuple[int, int], seed: int = 0, processes: int = 2
) -> None:
    """Draw a dataset in VOC layout; pictures that are already there are kept, so a stopped run goes on.

    Picture i of a split is the same whatever the sizes and the number of processes: a larger set contains the
    smaller. Beside JPEGImages, SegmentationClass and ImageSets/Segmentation it writes classes.txt, labels.csv,
    SegmentationPart, Saliency, Annotations (per-picture JSON), objects.csv and context.csv.

    Args:
        root: folder to write into, created if need be.
        sizes: pictures per split, such as {"train": 400, "val": 120}.
        image_size: height and width in pixels, at least 48.

    Raises:
        ValueError: sizes or image_size out of range, or `root` holds scenes of another seed or size.
        NotADirectoryError: `root` is a file.
    """
    root = Path(root)
    if not sizes or any(int(n) != n or n < 1 for n in sizes.values()):
        raise ValueError(
            f"sizes {dict(sizes)} must give each split at least one picture, as in {{'train': 400}}."
        )
    if min(image_size) < 48:
        raise ValueError(
            f"image_size {tuple(image_size)} is too small to draw in; use at least 48 x 48 pixels."
        )
    if root.exists() and not root.is_dir():
        raise NotADirectoryError(f"Scenes cannot be written to {root}, which is a file; name a folder.")
    for folder in (*FOLDERS, "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    origin = {"seed": seed, "image_size": list(image_size)}
    if (root / "origin.json").exists():
        if json.loads((root / "origin.json").read_text()) != origin:
            raise ValueError(f"{root} holds scenes of another seed or image size; choose an empty folder.")
    _write(root / "origin.json", json.dumps(origin).encode())

    ids = {split: [f"{split}_{index:05d}" for index in range(n)] for split, n in sizes.items()}
    missing = [
        (split, index)
        for split, names in ids.items()
        for index, name in enumerate(names)
        if not all((root / folder / (name + suffix)).exists() for folder, suffix in FOLDERS.items())
    ]
    Parallel(n_jobs=processes)(
        delayed(_write_scene)(root, seed, split, index, tuple(image_size)) for split, index in missing
    )
    for split, names in ids.items():
        _write(
            root / "ImageSets" / "Segmentation" / f"{split}.txt", "".join(f"{n}\n" for n in names).encode()
        )
    _write(root / "classes.txt", "".join(f"{name}\n" for name in CLASSES).encode())
    _write_tables(root, [name for names in ids.values() for name in names])


def _write_tables(root: Path, ids: list[str]) -> None:
    notes = {name: json.loads((root / "Annotations" / f"{name}.json").read_text()) for name in ids}
    labels = [
        {"id": name, **{c: int(any(o["class"] == c for o in note["objects"])) for c in CLASSES}}
        for name, note in notes.items()
    ]
    objects = [{"id": name, **o} for name, note in notes.items() for o in note["objects"]]
    contexts = [{"id": name, "context": note["context"]} for name, note in notes.items()]
    for file, rows in (("labels.csv", labels), ("objects.csv", objects), ("context.csv", contexts)):
        lines = [",".join(rows[0]), *(",".join(str(value) for value in row.values()) for row in rows)]
        _write(root / file, ("\n".join(lines) + "\n").encode())


def _write_scene(root: Path, seed: int, split: str, index: int, image_size: tuple[int, int]) -> None:
    scene = draw_scene(seed, split, index, image_size)
    objects = [asdict(item) for item in scene.objects]
    objects = [{("class" if key == "class_name" else key): v for key, v in item.items()} for item in objects]
    files = {
        "JPEGImages": _encode(Image.fromarray(scene.image), "JPEG", quality=92),
        "SegmentationClass": _encode(_with_palette(scene.mask), "PNG"),
        "SegmentationPart": _encode(_with_palette(scene.parts), "PNG"),
        "Saliency": _encode(Image.fromarray(np.where(scene.parts > 0, 255, 0).astype(np.uint8)), "PNG"),
        "Annotations": json.dumps({"context": scene.context, "objects": objects}).encode(),
    }
    for folder, content in files.items():
        _write(root / folder / f"{split}_{index:05d}{FOLDERS[folder]}", content)


def _encode(image: Image.Image, kind: str, **options: int) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _with_palette(ids: np.ndarray) -> Image.Image:
    """A palette image with the VOC colour map, in which id bits are spread over the colours' high bits."""
    number, colours = np.arange(256), np.zeros((256, 3), np.uint8)
    for bit in range(3):
        for channel in range(3):
            colours[:, channel] |= ((number >> (3 * bit + channel) & 1) << (7 - bit)).astype(np.uint8)
    image = Image.fromarray(ids)
    image.putpalette(colours.ravel().tolist())
    return image


def _write(path: Path, content: bytes) -> None:
    """Write a whole file or nothing."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_bytes(content)
    os.replace(partial, path)
