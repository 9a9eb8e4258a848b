"""Names that systems and tools leave beside a user's files."""

import pytest

from jaxconv.leftovers import is_leftover


@pytest.mark.parametrize(
    "name",
    (
        ".DS_Store|.hidden|._a.png|.ipynb_checkpoints|.nfs0001|Thumbs.db|THUMBS.DB|Desktop.ini|lost+found|@eaDir|__MACOSX|"
        "$RECYCLE.BIN|$Recycle.Bin|System Volume Information"
    ).split("|"),
)
def test_leftovers(name):
    assert is_leftover(name)


@pytest.mark.parametrize(
    "name", "cat Cat 10 photo.png thumbs desktop lost+found.png __init__ best last Thumbs.db2".split()
)
def test_a_users_own_names(name):
    assert not is_leftover(name)
