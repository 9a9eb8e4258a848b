"""GTSRB from files as its authors lay them out, and files that are refused."""

import numpy as np
import pytest
from PIL import Image

from jaxconv.data import DataError, gtsrb

HEADER = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"
BOX = (4, 5, 24, 27)


def photograph(path, color):
    """Writes a photograph of 30x32 pixels that is of one color inside of the box and black outside."""
    pixels = np.zeros((32, 30, 3), np.uint8)
    pixels[BOX[1] : BOX[3], BOX[0] : BOX[2]] = color
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def row(name, label, box=BOX):
    return f"{name};30;32;{';'.join(map(str, box))};{label}"


def write(root, colors=((200, 0, 0), (0, 200, 0))):
    """Writes two photographs for each of the classes 0 and 14, and one of class 14 for the test."""
    for label, color in zip((0, 14), colors, strict=True):
        folder = root / f"Final_Training/Images/{label:05}"
        names = [f"00000_{i:05}.ppm" for i in range(2)]
        for name in names:
            photograph(folder / name, color)
        lines = [HEADER, *(row(name, label) for name in names)]
        (folder / f"GT-{label:05}.csv").write_bytes("\r\n".join(lines).encode())
    photograph(root / "Final_Test/Images/00000.ppm", colors[1])
    (root / "GT-final_test.csv").write_text(f"{HEADER}\n{row('00000.ppm', 14)}\n")


@pytest.fixture
def root(tmp_path):
    write(tmp_path / "GTSRB")
    return tmp_path / "GTSRB"


@pytest.mark.parametrize("parent", [False, True])
def test_signs_are_cut_out_and_have_the_labels_of_the_tables(root, parent):
    data = gtsrb(root.parent if parent else root, size=16)
    assert data.train_images.shape == (4, 16, 16, 3)
    assert data.train_labels.tolist() == [0, 0, 14, 14]
    assert data.test_labels.tolist() == [14]
    assert len(data.classes) == 43
    assert data.classes[14] == "stop"
    assert (data.train_images[0] == (200, 0, 0)).all()
    assert (data.test_images[0] == (0, 200, 0)).all()


def test_the_tests_table_may_be_beside_its_photographs(root):
    (root / "GT-final_test.csv").rename(root / "Final_Test/Images/GT-final_test.csv")
    assert gtsrb(root).test_images.shape == (1, 32, 32, 3)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (row("missing.ppm", 0), "line 2: the photograph .*missing.ppm cannot be read"),
        (row("00000_00000.ppm", 43), "ClassId must be from 0 to 42, got 43"),
        (row("00000_00000.ppm", "x"), "must be integers, got 4;5;24;27;x"),
        (row("00000_00000.ppm", 0, (24, 5, 4, 27)), "line 2: boxes must have x1 <= x2"),
        (row("00000_00000.ppm", 0, (4, 5, 99, 27)), "line 2: boxes must"),
        (row("00000_00000.ppm", 0, (4, 5, 4, 27)), "the box must have an area"),
        ("00000_00000.ppm;30", "must be integers"),
    ],
)
def test_wrong_lines_are_named(root, line, message):
    (root / "Final_Training/Images/00000/GT-00000.csv").write_text(f"{HEADER}\n{line}\n")
    with pytest.raises(DataError, match=message):
        gtsrb(root)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HEADER.replace("ClassId", "Class").encode(), "got no ClassId"),
        (HEADER.replace(";", ",").encode(), "got no Filename"),
        (HEADER.encode(), "must have a line for each photograph, got none"),
        (b"", "got no Filename"),
        (b"\xff\xfe\x00", "must be a table with semicolons"),
    ],
)
def test_tables_without_columns_or_lines_are_refused(root, content, message):
    (root / "GT-final_test.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        gtsrb(root)


def test_a_damaged_photograph_is_named(root):
    (root / "Final_Test/Images/00000.ppm").write_bytes(b"P6 30 32 255 short")
    with pytest.raises(DataError, match=r"00000\.ppm"):
        gtsrb(root)


@pytest.mark.parametrize("name", ["Final_Training", "Final_Training/Images/00000", "GT-final_test.csv"])
def test_missing_files_are_named(root, name, tmp_path):
    (root / name).rename(tmp_path / "elsewhere")
    if name.endswith("00000"):
        # The other class is still there, and enough.
        assert gtsrb(root).train_labels.tolist() == [14, 14]
    else:
        with pytest.raises(DataError, match=name):
            gtsrb(root)
