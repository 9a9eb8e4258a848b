"""Areas: Benson's pass-alive chains, dead stones in their eyes, and points of neither player."""

import numpy as np
import pytest

from experiments.goban.area import area
from experiments.goban.board import from_text


def owners(text, **options):
    return ["".join(".XO"[color] for color in row) for row in area(from_text(text), **options)]


def test_empty_regions_belong_to_the_color_around_them():
    assert owners("..X.. ..X.. ..X.. ..XOO ..XO.") == ["XXX..", "XXX..", "XXX..", "XXXOO", "XXXOO"]
    assert owners("... ... ...") == ["...", "...", "..."]


def test_dead_stones_in_a_small_eye_of_a_living_chain_are_owned():
    # Two eyes on the left; white's stone in the right one can never live.
    assert owners(".X.OX. XXXXX. ...... ...... OOOOO. .O.O..")[0][:5] == "XXXXX"


def test_a_stone_in_a_large_region_is_not_dead():
    rows = owners("...X. .O.X. ...X. XXXX. .....")
    assert rows[1][1] == "O"
    assert rows[0][0] == "."


def test_one_eye_is_not_life():
    text = ".XO.. XXO.. OOO.. ..... ....."
    # The eye is bordered by black only. Around white's stones there is no black stone.
    assert owners(text) == ["XXOOO", "XXOOO", "OOOOO", "OOOOO", "OOOOO"]


@pytest.mark.parametrize("suicide", [False, True])
def test_suicide_rules_change_what_is_vital(suicide):
    # A region with a white stone that does not touch black everywhere.
    text = ".X.X. XXXXX ..... OOOOO .O.O."
    rows = owners(text, suicide=suicide)
    assert rows[0] == "XXXXX"
    assert rows[4] == "OOOOO"
    assert np.unique(area(from_text(text), suicide=suicide)[2]).tolist() == [0]
