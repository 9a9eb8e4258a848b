"""Logs of a run, also of one that was killed between a log and a checkpoint."""

import csv
import json
import struct

import numpy as np
import optax
import pytest

from jaxconv.train import csv_file, fit, json_lines, tensorboard
from tests.train.toys import Linear, cross_entropy, data

IMAGES, LABELS = data(32)


def run(log, **options):
    options = {"loss": cross_entropy, "epochs": 3, "batch_size": 16, "progress": False, **options}
    return fit(Linear(), IMAGES, LABELS, optax.sgd(0.5), validation=(IMAGES, LABELS), log=log, **options)


def test_a_name_with_a_comma_is_one_column(tmp_path):
    log = csv_file(tmp_path / "a.csv")
    for epoch in (1, 2):
        log({"epoch": epoch, "recall, top 5": epoch / 4})
    with (tmp_path / "a.csv").open() as stream:
        assert [row["recall, top 5"] for row in csv.DictReader(stream)] == ["0.25", "0.5"]


def test_json_lines_and_csv_have_the_history(tmp_path):
    result = run([json_lines(tmp_path / "a.jsonl"), csv_file(tmp_path / "a.csv")])
    lines = (tmp_path / "a.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == result.history
    with (tmp_path / "a.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["validation_loss"]) for row in rows] == [r["validation_loss"] for r in result.history]
    assert list(rows[0]) == list(result.history[0])


@pytest.mark.parametrize("make", [json_lines, csv_file])
def test_an_epoch_that_is_trained_again_replaces_its_line(tmp_path, make):
    file = tmp_path / "log"
    log = make(file)
    for epoch in (1, 2, 3):
        log({"epoch": epoch, "loss": 1.0 / epoch})
    with file.open("a") as stream:
        stream.write('{"epoch": 4, "lo')  # Killed while writing.
    log = make(file)
    log({"epoch": 2, "loss": 0.25})
    log({"epoch": 3, "loss": 0.125})
    values = [line for line in file.read_text().splitlines() if "loss" not in line or "{" in line]
    assert len(values) == 3
    assert "0.25" in values[1]
    assert "0.125" in values[2]
    assert list(tmp_path.iterdir()) == [file]


def test_tensorboard_has_a_chart_for_training_and_validation(tmp_path):
    pb = pytest.importorskip("tensorboardX.proto.event_pb2")
    result = run(tensorboard(tmp_path))
    [file] = tmp_path.iterdir()
    content, found = file.read_bytes(), {}
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        event = pb.Event.FromString(content[12 : 12 + length])
        content = content[16 + length :]
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, value.simple_value))
    tags = {"loss/training": "loss", "loss/validation": "validation_loss", "seconds/training": "seconds"}
    for tag, name in tags.items():
        steps, values = zip(*found[tag], strict=True)
        assert steps == (2, 4, 6)
        np.testing.assert_allclose(values, [record[name] for record in result.history], rtol=1e-6)


def test_one_function_or_several():
    seen = []
    run(seen.append)
    run([seen.append, seen.append], epochs=1)
    assert [record["epoch"] for record in seen] == [1, 2, 3, 1, 1]
