import os
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from ramify.data import load
from ramify.errors import RamifyError

RANDOM = np.random.default_rng(0)


def image(mode="RGB", size=(5, 4)):
    shape = (size[1], size[0], len(mode)) if len(mode) > 1 else (size[1], size[0])
    return Image.fromarray(RANDOM.integers(0, 256, shape, dtype=np.uint8), mode=None)


def fill(root, **files):
    """Write each image as the PNG file of its name, where '__' stands for '/'."""
    for name, content in files.items():
        path = root / (name.replace("__", "/") + ".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        content.save(path)


@pytest.fixture
def pets(tmp_path):
    root = tmp_path / "pets"
    fill(
        root,
        train__dog__b=image(),
        train__dog__a=image(),
        train__cat__a=image(),
        test__cat__a=image(),
        test__dog__a=image(),
    )
    return root


def pixels(data, images):
    """Undo the normalisation."""
    mean, std = (torch.tensor(value)[:, None, None] for value in (data.mean, data.std))
    return ((images * std + mean) * 255).round().to(torch.uint8)


def read(path, mode="RGB"):
    array = np.asarray(Image.open(path).convert(mode))
    return torch.tensor(array.reshape(*array.shape[:2], -1)).permute(2, 0, 1)


def test_images_and_labels_in_the_order_of_names(pets):
    data = load(str(pets))
    assert data.name == "pets"
    assert data.classes == ("cat", "dog")
    assert data.y_train.tolist() == [0, 1, 1]
    assert data.y_test.tolist() == [0, 1]
    assert not data.augment
    train = ["cat/a.png", "dog/a.png", "dog/b.png"]
    expected = torch.stack([read(pets / "train" / name) for name in train])
    assert torch.equal(pixels(data, data.x_train), expected)
    expected = torch.stack([read(pets / "test" / name) for name in ("cat/a.png", "dog/a.png")])
    assert torch.equal(pixels(data, data.x_test), expected)


def test_all_images_take_the_size_of_the_first(pets):
    fill(pets, train__dog__c=image(size=(9, 20)), test__cat__c=image(size=(2, 3)))
    data = load(str(pets))
    assert data.shape == (3, 4, 5)
    large = Image.open(pets / "train/dog/c.png").resize((5, 4), Image.Resampling.BILINEAR)
    expected = torch.tensor(np.asarray(large)).permute(2, 0, 1)
    assert torch.equal(pixels(data, data.x_train)[-1], expected)


@pytest.mark.parametrize(
    ("size", "reduced"), [((2048, 6), (1024, 3)), ((3, 4000), (1, 1024)), ((1024, 2), (1024, 2))]
)
def test_large_images_are_reduced(pets, size, reduced):
    fill(pets, train__cat__a=image(size=size))
    data = load(str(pets))
    assert data.shape == (3, *reversed(reduced))
    first = Image.open(pets / "train/cat/a.png").resize(reduced, Image.Resampling.BILINEAR)
    assert torch.equal(
        pixels(data, data.x_train)[0], torch.tensor(np.asarray(first)).permute(2, 0, 1)
    )


def test_folders_that_are_one_level_too_deep_are_named(pets):
    (pets.parent / "outer").mkdir()
    outer = pets.rename(pets.parent / "outer" / "pets").parent
    said = r"outer/pets holds folders \(test, train\) and no .* train and test, give .*outer/pets;"
    with pytest.raises(RamifyError, match=said):
        load(str(outer))
    assert load(str(outer / "pets")).classes == ("cat", "dog")
    (outer / "pets" / "train" / "cat" / "tabby").mkdir()
    (outer / "pets" / "train" / "cat" / "a.png").rename(outer / "pets/train/cat/tabby/a.png")
    with pytest.raises(RamifyError, match=r"train/cat holds folders \(tabby\) and no images"):
        load(str(outer / "pets"))


def test_grey_only_where_all_are_grey(pets):
    for path in pets.glob("*/*/*.png"):
        Image.open(path).convert("L").save(path)
    data = load(str(pets))
    assert data.shape == (1, 4, 5)
    assert torch.equal(pixels(data, data.x_train)[0], read(pets / "train/cat/a.png", "L"))
    fill(pets, test__dog__z=image("RGB"))
    assert load(str(pets)).shape == (3, 4, 5)


def test_transparency_is_dropped(pets):
    fill(pets, train__cat__a=image("RGBA"))
    data = load(str(pets))
    expected = read(pets / "train/cat/a.png", "RGBA")[:3]
    assert torch.equal(pixels(data, data.x_train)[0], expected)


def test_rotation_of_the_camera_is_applied(pets):
    picture = image(size=(4, 5))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned right by 90 degrees when shown
    picture.save(pets / "train/cat/a.png", exif=exif)
    data = load(str(pets))
    assert data.shape == (3, 4, 5)
    expected = torch.tensor(np.asarray(picture.transpose(Image.Transpose.ROTATE_270)))
    assert torch.equal(pixels(data, data.x_train)[0], expected.permute(2, 0, 1))


def test_other_files_are_passed_over(pets):
    before = load(str(pets))
    for name in ("train/readme.txt", "train/cat/notes.txt", "train/cat/.hidden.png"):
        (pets / name).write_text("text")
    (pets / "test" / ".cache").mkdir()
    assert torch.equal(load(str(pets)).x_train, before.x_train)


def test_no_split_folder(tmp_path):
    (tmp_path / "train" / "a").mkdir(parents=True)
    image().save(tmp_path / "train" / "a" / "1.png")
    with pytest.raises(RamifyError, match=r"test is not a folder.*train/CLASS/\* and test/CLASS"):
        load(str(tmp_path))


def test_no_classes(pets):
    for path in [*pets.glob("test/*/*"), *pets.glob("test/*")]:
        path.rmdir() if path.is_dir() else path.unlink()
    with pytest.raises(RamifyError, match="test has no class folders"):
        load(str(pets))


def test_classes_that_differ(pets):
    fill(pets, train__bird__a=image(), test__fish__a=image())
    with pytest.raises(RamifyError, match="only one of them has bird, fish"):
        load(str(pets))


def test_empty_class(pets):
    (pets / "test" / "cat" / "a.png").rename(pets / "test" / "cat" / "a.txt")
    with pytest.raises(RamifyError, match=r"no images of the class\(es\) cat"):
        load(str(pets))


def test_single_class(tmp_path):
    fill(tmp_path, train__cat__a=image(), test__cat__a=image())
    with pytest.raises(RamifyError, match="one class folder, cat, where at least two"):
        load(str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"text", "cut"])
def test_unreadable_image(pets, content):
    path = pets / "train" / "dog" / "b.png"
    path.write_bytes(path.read_bytes()[:-30] if content == "cut" else content)
    with pytest.raises(RamifyError, match="b.png cannot be read as an image"):
        load(str(pets))


def test_deep_image(pets):
    Image.fromarray(np.full((4, 5), 3000, dtype=np.uint16)).save(pets / "test/dog/a.png")
    with pytest.raises(RamifyError, match="more than 8 bits"):
        load(str(pets))


def test_a_folder_of_classes_alone_is_split_the_same_way_every_time(tmp_path):
    root = tmp_path / "shapes"
    fill(root, **{f"{kind}__{n}": image() for kind in ("round", "square") for n in range(10)})
    fill(root, long__0=image(), long__1=image())
    data, again = load(str(root)), load(str(root))
    assert data.classes == ("long", "round", "square")
    assert torch.bincount(data.y_train).tolist() == [1, 8, 8]
    assert torch.bincount(data.y_test).tolist() == [1, 2, 2]
    assert torch.equal(data.x_test, again.x_test)
    images = [*pixels(data, data.x_train), *pixels(data, data.x_test)]
    files = [read(path) for path in sorted(root.glob("*/*"))]
    keys = lambda several: sorted(one.flatten().tolist() for one in several)  # noqa: E731
    assert keys(images) == keys(files)
    (root / "round" / "new.png").write_bytes((root / "round" / "0.png").read_bytes())
    assert len(load(str(root)).y_test) == 5
    (root / "long" / "1.png").unlink()
    with pytest.raises(RamifyError, match="has one image, and each class needs one to train on"):
        load(str(root))


def test_an_image_that_is_a_pipe_or_a_bomb(pets):
    path = pets / "train" / "dog" / "b.png"
    content = bytearray(path.read_bytes())
    content[16:24] = (30_000).to_bytes(4, "big") * 2  # its width and height
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)
    with pytest.raises(RamifyError, match="b.png cannot be read as an image .*exceeds limit"):
        load(str(pets))
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(RamifyError, match="b.png cannot be read .*it is a pipe or a device"):
        load(str(pets))


def test_names_that_are_no_text(tmp_path):
    root = tmp_path / "shapes"
    fill(root, **{f"{kind}__{n}": image() for kind in ("round", "square") for n in range(10)})
    os.rename(root / "round" / "1.png", os.fsencode(root / "round") + b"/\xff\xfe.png")
    assert len(load(str(root)).x_test) == 4
