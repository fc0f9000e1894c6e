from base64 import b64decode
from typing import Any

from ramify.report.run_figures import arms_figure
from ramify.report.theme import DARK, LIGHT, picture, shorten, svg

DATA = "data:image/svg+xml;base64,"


def test_every_colour_has_a_dark_form_and_one_role() -> None:
    assert set(LIGHT) == set(DARK)
    assert len(set(LIGHT.values())) == len(LIGHT)


def test_long_names_are_cut_short() -> None:
    assert shorten("conv1") == "conv1"
    assert len(shorten("a" * 100)) == 24
    assert shorten("encoder.layers.11.attention.projection") == "encoder.lay…n.projection"


def test_a_picture_keeps_text_and_says_what_it_shows(events: list[dict[str, Any]]) -> None:
    text = svg(arms_figure(events), 'a "label"')
    assert ">test accuracy (%)</text>" in text
    assert '<title>a "label"</title>' in text
    image = picture(arms_figure(events), 'a "label"')
    assert image.startswith(f'<img alt="a &#34;label&#34;" src="{DATA}')
    assert b64decode(image.partition(DATA)[2].partition('"')[0]).decode() == text
