import sys

import numpy as np
import pytest
import soundfile

from experiments.s2d.speech.recordings import load, mfcc
from ramify.errors import RamifyError


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("RAMIFY_DATA", str(tmp_path))
    return tmp_path


def write_wave(path, pitch=440.0, rate=8000, seconds=0.3, channels=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(int(rate * seconds)) / rate
    tone = 0.3 * np.sin(2 * np.pi * pitch * time) * np.exp(-3 * time)
    soundfile.write(path, np.repeat(tone[:, None], channels, axis=1), rate, subtype="PCM_16")


def write_splits(folder):
    for digit in range(3):
        for take in range(2):
            write_wave(folder / "train" / f"{digit}_ann_{take}.wav", 200 * (digit + 1) + take)
        write_wave(folder / "test" / f"{digit}_bob_0.wav", 200 * (digit + 1) + 7)


def mel(frequency):
    """Slaney's scale: linear up to 1,000 Hz, then logarithmic."""
    return np.where(
        frequency < 1000,
        frequency * 3 / 200,
        15 + 27 * np.log(np.maximum(frequency, 1) / 1000) / np.log(6.4),
    )


def mfcc_in_plain_numpy(wave):
    wave = np.pad(wave.astype(float), (0, 8000))[:8000]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(320) / 320)
    frames = np.stack([wave[160 * i : 160 * i + 320] * window for i in range(49)])
    power = np.abs(np.fft.rfft(frames)) ** 2
    corners = np.linspace(0, mel(np.array(4000.0)), 42)
    fine = np.linspace(0, 4000, 400_001)
    hertz = np.interp(corners, mel(fine), fine)
    bins = np.arange(161) * 25.0
    bands = []
    for low, middle, high in zip(hertz[:-2], hertz[1:-1], hertz[2:], strict=True):
        rise, fall = (bins - low) / (middle - low), (high - bins) / (high - middle)
        bands.append(np.maximum(0, np.minimum(rise, fall)) * 2 / (high - low))
    decibels = 10 * np.log10(np.maximum(power @ np.array(bands).T, 1e-10))
    decibels = np.maximum(decibels, decibels.max() - 80)
    order, band = np.arange(10)[:, None], np.arange(40)
    cosines = np.cos(np.pi * order * (2 * band + 1) / 80) * np.sqrt(np.where(order, 2, 1) / 40)
    return decibels @ cosines.T


@pytest.mark.parametrize("samples", [1149, 8000, 18_262])
def test_features(samples):
    wave = (0.1 * np.random.default_rng(0).normal(size=samples)).astype(np.float32)
    np.testing.assert_allclose(mfcc(wave), mfcc_in_plain_numpy(wave), atol=0.02)


@pytest.mark.parametrize("folder", ["spoken-digits", "fsdd", "free-spoken-digit-dataset"])
def test_splits(root, folder):
    write_splits(root / folder)
    data = load()
    assert data.name == "spoken-digits"
    assert data.x_train.shape == (6, 1, 49, 10)
    assert data.y_train.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.y_test.tolist() == [0, 1, 2]
    assert data.classes[:3] == ("zero", "one", "two")
    assert len(data.classes) == 10
    assert not data.augment


def test_coefficients_are_normalised_by_the_training_recordings(root):
    write_splits(root / "fsdd")
    data = load()
    np.testing.assert_allclose(data.x_train.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(data.x_train.std((0, 1, 2), correction=0), 1, rtol=1e-4)
    wave, _ = soundfile.read(root / "fsdd" / "test" / "1_bob_0.wav", dtype="float32")
    expected = (mfcc(wave) - np.array(data.mean)) / np.array(data.std)
    np.testing.assert_allclose(data.x_test[1, 0], expected, atol=1e-4)


def test_official_repository(root):
    for take in (0, 4, 5, 12):
        write_wave(root / "fsdd" / "recordings" / f"7_ann_{take}.wav", 300 + take)
    data = load()
    assert data.y_train.tolist() == data.y_test.tolist() == [7, 7]


def test_other_rates_and_channels(root):
    write_splits(root / "fsdd")
    same = load()
    write_wave(root / "fsdd" / "test" / "1_bob_0.wav", 407, rate=16_000, channels=2)
    other = load()
    assert other.x_train.equal(same.x_train)
    assert (other.x_test[1] - same.x_test[1])[:, :10].abs().mean() < 0.1


def test_not_there(root):
    with pytest.raises(RamifyError, match=r"does not hold spoken-digits: unpack the Free Spoken"):
        load()


def test_without_a_test_split(root):
    write_wave(root / "fsdd" / "train" / "1_ann_0.wav")
    with pytest.raises(RamifyError, match=r"fsdd holds 1 training and 0 test recordings"):
        load()


@pytest.mark.parametrize("name", ["librosa", "soundfile"])
def test_without_librosa(root, monkeypatch, name):
    write_splits(root / "fsdd")
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(RamifyError, match=r'not installed: pip install "ramify\[experiments\]"'):
        load()


def test_damaged_file(root):
    write_splits(root / "fsdd")
    (root / "fsdd" / "train" / "1_ann_0.wav").write_bytes(b"RIFF and nothing more")
    with pytest.raises(RamifyError, match=r"1_ann_0.wav cannot be read as a recording"):
        load()


def test_silent_file(root):
    write_splits(root / "fsdd")
    write_wave(root / "fsdd" / "train" / "1_ann_0.wav", seconds=0)
    with pytest.raises(RamifyError, match=r"1_ann_0.wav holds no sound"):
        load()


@pytest.mark.parametrize("name", ["one_ann_0.wav", "11_ann_0.wav", "².wav"])
def test_file_without_a_digit_in_its_name(root, name):
    write_splits(root / "fsdd")
    write_wave(root / "fsdd" / "test" / name)
    with pytest.raises(RamifyError, match=r"is not named as a recording of a digit"):
        load()
