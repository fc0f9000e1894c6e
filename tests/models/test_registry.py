import sys

import pytest
from torch import nn

from ramify.errors import RamifyError
from ramify.models import NAMES, build

MODULE = """
from torch import nn

def everything(in_channels, in_features, classes):
    return nn.Linear(in_features, classes + 1000 * in_channels)

def one_class(classes=3):
    return nn.Linear(1, classes)

def settings(classes, width=2, **others):
    net = nn.Linear(width, classes)
    net.others = others
    return net

def needs_more(classes, secret):
    return nn.Linear(1, classes)

def nothing():
    pass

def broken(classes):
    raise TypeError("inside")

class Net(nn.Linear):
    def __init__(self, in_channels, classes):
        super().__init__(in_channels, classes)

number = 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A package of the user in the current directory."""
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "nets.py").write_text(MODULE)
    (tmp_path / "own_package" / "torn.py").write_text("import module_that_is_not_installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield "own_package.nets"
    for name in [name for name in sys.modules if name.startswith("own_package")]:
        del sys.modules[name]


def net(name, **settings):
    return build(name, dataset_shape=(3, 4, 5), classes=7, **settings)


def test_names():
    assert set(NAMES) >= {"digits_net", "vgg19", "mobilenet_v1", "preresnet", "swin"}


@pytest.mark.parametrize("name, depth", [("preresnet56", 56), ("preresnet164", 164)])
def test_preresnets_by_their_depth(name, depth):
    blocks = sum(type(module).__name__ == "Bottleneck" for module in net(name).modules())
    assert blocks * 3 + 2 == depth


def test_settings_reach_the_network():
    assert net("preresnet", depth=11, width=2).head.in_features == 32
    assert net("vgg19", width=5).head.in_features == 5


def test_shape_and_classes_reach_the_network():
    model = net("digits_net")
    assert model.layer1[0].in_channels == 3
    assert model.head.out_features == 7
    assert net("experiments.s2d.rbf.network:build").hidden.in_features == 60


def test_own_function_gets_what_its_signature_names(own):
    model = net(f"{own}:everything")
    assert (model.in_features, model.out_features) == (60, 3007)
    assert net(f"{own}:one_class").out_features == 7


def test_own_function_gets_further_settings(own):
    model = net(f"{own}:settings", width=9, depth=2)
    assert model.in_features == 9
    assert model.others == {"depth": 2}


def test_own_class(own):
    model = net(f"{own}:Net")
    assert isinstance(model, nn.Linear)
    assert (model.in_features, model.out_features) == (3, 7)


def test_error_inside_an_own_function_is_shown_as_it_is(own):
    with pytest.raises(TypeError, match="^inside$"):
        net(f"{own}:broken")


def test_module_that_an_own_module_lacks_is_shown_as_it_is(own):
    with pytest.raises(ModuleNotFoundError, match="module_that_is_not_installed"):
        net("own_package.torn:build")


@pytest.mark.parametrize("name", ["vgg20", "", ":", "vgg19:", ":build", "own.module.build"])
def test_unknown_name(name):
    with pytest.raises(RamifyError) as error:
        net(name)
    assert f"unknown model {name!r}" in str(error.value)
    assert all(known in str(error.value) for known in NAMES)
    assert "package.module:function" in str(error.value)


@pytest.mark.parametrize(
    "name, missing",
    [("no_such_package.nets:f", "no_such_package"), ("own_package.nat:f", "own_package.nat")],
)
def test_unknown_module(own, name, missing):
    with pytest.raises(RamifyError, match=f"no module '{missing}'"):
        net(name)


def test_unknown_function(own):
    with pytest.raises(RamifyError, match="has no 'absent', which the model .* asks for"):
        net(f"{own}:absent")


def test_what_is_no_function(own):
    with pytest.raises(RamifyError, match=":number is a int, where a function"):
        net(f"{own}:number")


def test_function_that_needs_more(own):
    with pytest.raises(RamifyError, match="cannot be called with classes.*'secret'"):
        net(f"{own}:needs_more")


def test_setting_that_is_not_taken(own):
    with pytest.raises(RamifyError, match="cannot be called with classes, width.*'width'"):
        net(f"{own}:one_class", width=4)
    with pytest.raises(RamifyError, match="'depth'"):
        net("vgg19", depth=3)


def test_function_that_returns_no_module(own):
    with pytest.raises(RamifyError, match="returned a NoneType"):
        net(f"{own}:nothing")


@pytest.mark.parametrize("width", [0, -3])
def test_width_that_does_not_exist(width):
    with pytest.raises(RamifyError, match=f"width is {width} channels"):
        net("vgg19", width=width)
