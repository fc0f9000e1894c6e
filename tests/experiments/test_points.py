import sys

import h5py
import numpy as np
import pytest

from experiments.s2d.points import modelnet, shapes
from experiments.s2d.points.modelnet import CLASSES
from ramify.data import load
from ramify.errors import RamifyError


@pytest.fixture
def draw():
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def drawn():
    return load("experiments.s2d.points.shapes:load")


def test_shapes_as_a_data_set(drawn):
    assert drawn.x_train.shape == (1600, 3, 128)
    assert drawn.x_test.shape == (600, 3, 128)
    assert drawn.shape == (3, 128)
    assert drawn.y_train.bincount().tolist() == [160] * 10
    assert drawn.y_test.bincount().tolist() == [60] * 10
    assert drawn.classes == tuple(shapes.SHAPES)
    assert not drawn.augment
    assert len(drawn.x_train[:, 0, 0].unique()) == 1600  # no cloud twice
    assert not set(drawn.x_train[:, 0, 0].tolist()) & set(drawn.x_test[:, 0, 0].tolist())


def test_shapes_follow_from_the_seed(drawn):
    assert shapes.load(seed=0).x_test.equal(drawn.x_test)
    assert not shapes.load(seed=1).x_test.equal(drawn.x_test)


@pytest.mark.parametrize("name", shapes.SHAPES)
def test_a_cloud_is_centred_scaled_turned_and_noisy(name, draw, monkeypatch):
    noisy = np.stack([shapes.cloud(name, draw, 400) for _ in range(3)])
    monkeypatch.setattr(shapes, "NOISE", 0.0)
    clean = shapes.cloud(name, draw, 400)
    assert clean.shape == (3, 400)
    assert clean.dtype == np.float32
    np.testing.assert_allclose(clean.mean(1), 0, atol=1e-6)
    assert np.linalg.norm(clean, axis=0).max() == pytest.approx(1, abs=1e-6)
    assert np.linalg.norm(noisy, axis=1).max() == pytest.approx(1.05, abs=0.1)


def test_noise_and_rotation(draw, monkeypatch):
    monkeypatch.setitem(shapes.SHAPES, "corners", lambda count, draw: np.eye(3)[:count] - 1 / 3)
    edge = np.sqrt(2) / np.sqrt(2 / 3)  # of a triangle whose corners have the distance 1
    clouds = np.stack([shapes.cloud("corners", draw, 3) for _ in range(4000)]).astype(float)
    edges = np.linalg.norm(clouds - np.roll(clouds, 1, axis=2), axis=1)
    assert edges.mean() == pytest.approx(edge, abs=0.01)
    assert edges.std() == pytest.approx(shapes.NOISE * np.sqrt(2), rel=0.05)
    np.testing.assert_allclose(clouds.mean(0), 0, atol=0.04)  # every direction alike
    normals = np.cross(clouds[:, :, 1] - clouds[:, :, 0], clouds[:, :, 2] - clouds[:, :, 0])
    assert (np.abs(normals.mean(0)) < 0.1).all()


def test_no_mirror_images(draw):
    turns = [shapes._rotation(draw) for _ in range(50)]
    for turn in turns:
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(turn) == pytest.approx(1)


EQUATIONS = {  # 0 on the surface, where nothing is left open
    "sphere": lambda x, y, z: x**2 + y**2 + z**2 - 1,
    "cube": lambda x, y, z: np.maximum(np.maximum(abs(x), abs(y)), abs(z)) - 1,
}


@pytest.mark.parametrize("name", EQUATIONS)
def test_surfaces_without_anything_open(name, draw):
    np.testing.assert_allclose(EQUATIONS[name](*shapes.SHAPES[name](500, draw).T), 0, atol=1e-12)


def test_surface_of_the_ellipsoid(draw):
    points = shapes.SHAPES["ellipsoid"](500, draw)
    squares, *_ = np.linalg.lstsq(points**2, np.ones(500), rcond=None)
    np.testing.assert_allclose(points**2 @ squares, 1)
    assert squares[0] == pytest.approx(1)
    assert (squares[1:] > 1.3).all()


def test_surface_of_the_cylinder(draw):
    x, y, z = shapes.SHAPES["cylinder"](20_000, draw).T
    radius, height = np.hypot(x, y), 2 * z.max()
    side = np.isclose(radius, 1)
    assert np.isclose(abs(z[~side]), height / 2).all()
    assert side.mean() == pytest.approx(height / (height + 1), abs=0.02)  # by area


@pytest.mark.parametrize("name", ["cone", "pyramid"])
def test_surfaces_with_a_tip(name, draw):
    x, y, z = shapes.SHAPES[name](20_000, draw).T
    out = np.hypot(x, y) if name == "cone" else np.maximum(abs(x), abs(y))
    side = z > 0
    height = np.median(z[side] / (1 - out[side]))
    np.testing.assert_allclose(z[side], height * (1 - out[side]), atol=1e-9)
    slope = np.hypot(1, height)
    assert side.mean() == pytest.approx(slope / (slope + 1), abs=0.02)  # by area


def test_surface_of_the_torus(draw):
    x, y, z = shapes.SHAPES["torus"](20_000, draw).T
    tube = np.hypot(np.hypot(x, y) - 1, z)
    np.testing.assert_allclose(tube, tube[0])
    outward = (np.hypot(x, y) - 1) / tube
    assert outward.mean() == pytest.approx(tube[0] / 2, abs=0.02)  # by area: E cos = tube / 2


def test_curve_of_the_helix(draw):
    x, y, z = shapes.SHAPES["helix"](500, draw).T
    np.testing.assert_allclose(np.hypot(x, y), 1)
    order = np.argsort(z)
    angle = np.unwrap(np.arctan2(y, x)[order])
    slope, shift = np.polyfit(z[order], angle, 1)
    np.testing.assert_allclose(slope * z[order] + shift, angle, atol=1e-6)


def test_surface_of_the_moebius_strip(draw):
    x, y, z = shapes.SHAPES["moebius strip"](500, draw).T
    angle = np.arctan2(y, x)
    across = np.hypot(np.hypot(x, y) - 1, z)
    assert across.max() < 0.6
    np.testing.assert_allclose(
        abs(z) * abs(np.cos(angle / 2)),
        abs(np.hypot(x, y) - 1) * abs(np.sin(angle / 2)),
        atol=1e-9,
    )


def test_surface_of_the_saddle(draw):
    x, y, z = shapes.SHAPES["saddle"](500, draw).T
    bend = np.median(z / (x**2 - y**2))
    np.testing.assert_allclose(z, bend * (x**2 - y**2), atol=1e-9)


# ------------------------------------------------------------------ ModelNet40


def write_modelnet(folder, clouds=(3, 2), points=2048, first_label=0):
    """The layout of modelnet40_ply_hdf5_2048.zip, in small."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {}
    for split, count in (("train", len(clouds)), ("test", 1)):
        names = [f"ply_data_{split}{number}.h5" for number in range(count)]
        root = "data/modelnet40_ply_hdf5_2048"
        (folder / f"{split}_files.txt").write_text("".join(f"{root}/{name}\n" for name in names))
        for name, size in zip(names, clouds, strict=False):
            made[name] = np.random.default_rng(size).normal(size=(size, points, 3))
            with h5py.File(folder / name, "w") as file:
                file["data"] = made[name].astype(np.float32)
                file["label"] = (first_label + np.arange(size, dtype=np.uint8))[:, None]
    return made


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("RAMIFY_DATA", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("folder", ["modelnet40", "modelnet40_ply_hdf5_2048"])
def test_modelnet(root, folder):
    made = write_modelnet(root / folder)
    data = modelnet.load()
    assert data.x_train.shape == (5, 3, 1024)
    assert data.x_test.shape == (3, 3, 1024)
    assert data.y_train.tolist() == [0, 1, 2, 0, 1]
    first = made["ply_data_train1.h5"][0, :1024].T
    np.testing.assert_allclose(data.x_train[3], first.astype(np.float32))
    assert data.classes == CLASSES
    assert (len(set(CLASSES)), CLASSES[0], CLASSES[8], CLASSES[39]) == (
        40,
        "airplane",
        "chair",
        "xbox",
    )


def test_modelnet_not_there(root):
    with pytest.raises(RamifyError, match=r"does not hold modelnet40: unpack .*_2048.zip"):
        modelnet.load()


def test_modelnet_without_h5py(root, monkeypatch):
    write_modelnet(root / "modelnet40")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(RamifyError, match=r'not installed: pip install "ramify\[experiments\]"'):
        modelnet.load()


def test_modelnet_without_its_listing(root):
    write_modelnet(root / "modelnet40")
    (root / "modelnet40" / "test_files.txt").write_text("\n")
    with pytest.raises(RamifyError, match=r"test_files.txt lists no files"):
        modelnet.load()
    (root / "modelnet40" / "test_files.txt").unlink()
    with pytest.raises(RamifyError, match=r"test_files.txt is missing"):
        modelnet.load()


@pytest.mark.parametrize("content", [None, b"no HDF5"])
def test_modelnet_with_a_damaged_file(root, content):
    write_modelnet(root / "modelnet40")
    path = root / "modelnet40" / "ply_data_train1.h5"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RamifyError, match=r"ply_data_train1.h5 cannot be read as an HDF5 file"):
        modelnet.load()


def test_modelnet_without_labels(root):
    write_modelnet(root / "modelnet40")
    with h5py.File(root / "modelnet40" / "ply_data_train0.h5", "a") as file:
        del file["label"]
    with pytest.raises(RamifyError, match=r"cannot be read as an HDF5 file with data and label"):
        modelnet.load()


def test_modelnet_with_too_few_points(root):
    write_modelnet(root / "modelnet40", points=500)
    with pytest.raises(RamifyError, match=r"\(3, 500, 3\) and 3 labels, where \(N, 2048, 3\)"):
        modelnet.load()


def test_modelnet_with_labels_of_another_set(root):
    write_modelnet(root / "modelnet40", first_label=38)
    with pytest.raises(RamifyError, match="modelnet40 has training labels from 38 to 40"):
        modelnet.load()
