"""The run on a GPU in its small form, on a CPU: every part, its time limit, and what is kept of it."""

import json
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.benchmarks import gpu, gpu_compiled, gpu_predictions


@pytest.mark.parametrize(
    "name", ["convnext_tiny", *(pytest.param(n, marks=pytest.mark.slow) for n in gpu.NETWORKS[:2])]
)
def test_a_network_is_the_same_computation_in_all_libraries(name):
    found = {}
    for found in gpu.network(name, small=True):
        assert found["batch"] == 4
    assert {"jaxconv", "flax", "torch"} <= set(found)
    losses = {by: one["losses"] for by, one in found.items() if isinstance(one, dict) and "losses" in one}
    assert {"jaxconv", "flax"} <= set(losses)
    for by in losses:
        np.testing.assert_allclose(losses[by], losses["jaxconv"], rtol=0.02, err_msg=by)
        assert found[by]["images_per_second"] > 0


@pytest.mark.slow
def test_all_parts_run_and_are_kept(tmp_path, capsys):
    out = tmp_path / "gpu.json"
    assert gpu.main(["--small", "--minutes", "20", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert list(found["parts"]) == list(gpu.LIMITS)
    assert {one["ended"] for one in found["parts"].values()} == {"in time"}
    assert found["card"] == "cpu"
    assert found["parts"]["tests"]["found"]["status"] == 0
    assert found["parts"]["layers"]["found"]["cases"]
    assert found["parts"]["speedrun"]["found"]["cifar10"]["runs"]
    assert found["parts"]["reported"]["found"]["reports"]
    # One part again: the others stay.
    assert gpu.main(["--small", "--only", "tests", "--out", str(out)]) == 0
    again = json.loads(out.read_text())
    assert {name: one for name, one in again["parts"].items() if name != "tests"} == {
        name: one for name, one in found["parts"].items() if name != "tests"
    }
    capsys.readouterr()
    assert gpu.main(["--table", "--out", str(out)]) == 0
    assert "| convnext_tiny | 4 |" in capsys.readouterr().out


def test_a_part_is_stopped_at_its_limit(tmp_path, monkeypatch):
    """With all of its processes; and nothing begins without time for it."""
    monkeypatch.setitem(gpu.LIMITS, "speedrun", 1.0)
    out = tmp_path / "gpu.json"
    found = gpu.run(["speedrun"], out, small=True, minutes=1)
    assert found["parts"]["speedrun"]["ended"] == "stopped after 3 s"
    assert found["parts"]["speedrun"]["seconds"] < 10
    found = gpu.run(["layers"], out, small=True, minutes=0)
    assert found["parts"]["layers"] == {"ended": "not begun, there was no time left"}
    assert set(json.loads(out.read_text())["parts"]) == {"speedrun", "layers"}


def test_all_parts_fit_into_eight_minutes():
    assert sum(gpu.LIMITS.values()) <= 60 * 7.8 < 480


def test_what_was_not_measured_is_what_the_results_lack():
    names = gpu.missing("float32")
    known = json.loads((gpu.FOLDER / "layers_cuda.json").read_text())
    assert not set(names) & {case["case"] for case in known["cases"]}
    assert {case["case"] for case in known["tried"]} <= set(names)


@pytest.mark.parametrize("name", ["speedrun", pytest.param("mobilenetv2", marks=pytest.mark.slow)])
def test_programs_are_compiled_and_kept(tmp_path, name):
    """For this CPU in place of a card."""
    out = tmp_path / "compiled.json"
    out.write_text(
        json.dumps({"programs": [{"program": "resnet50", "by": "flax"}, {"program": name, "by": "jaxconv"}]})
    )
    gpu_compiled.compile_all(out, [name], True, jax.devices("cpu")[0])
    first, *rows = json.loads(out.read_text())["programs"]
    assert first == {"program": "resnet50", "by": "flax"}
    assert [(row["program"], row["by"]) for row in rows] == [
        (name, by) for by in (("jaxconv",) if name == "speedrun" else ("jaxconv", "flax"))
    ]
    for row in rows:
        assert row["arguments_megabytes"] > 0
        assert row["compile_seconds"] > 0


def test_calls_and_kernels_of_a_program_are_counted():
    line = '  %c = bf16[2]{0} custom-call(%x), custom_call_target="__cudnn$convForward"\n  %f = f32[2] fusion(%c)\n'

    class Program:
        def as_text(self):
            return 2 * line

        def memory_analysis(self):
            return type("S", (), {"argument_size_in_bytes": 1e6, "temp_size_in_bytes": 2e6})

    assert gpu_compiled.counted(Program()) == {
        "arguments_megabytes": 1.0,
        "temporaries_megabytes": 2.0,
        "fusions": 2,
        "calls": {"__cudnn$convForward": 2},
    }


def test_predictions_are_counted_by_what_their_calls_compute():
    call = '  %c = f16[2]{{0}} custom-call({}), window={{size=1}}, custom_call_target="{}", backend_config={{{}}}\n'
    fused = "__cudnn$convBiasActivationForward"
    text = "".join(
        [
            call.format("%x, %k", "__cudnn$convForward", '"activation_mode":"kNone"'),
            call.format("%x, /*index=1*/%k, %b", fused, '"activation_mode":"kNone"'),
            2 * call.format("%x, %k, %b, %a", fused, '"activation_mode":"kRelu"'),
            call.format("%x, %k, %b", "__cublas$lt$matmul", '"epilogue":"BIAS_GELU"'),
            call.format("%x, %k", "__cublas$gemm", '"epilogue":"DEFAULT"'),
            call.format("%x", "other", ""),
            "  %f = f32[2] fusion(%c), kind=kLoop, calls=%fused_add\n",
            "  %t = f32[2] fusion(%c), kind=kInput, calls=%wrapped_transpose_computation.1\n",
        ]
    )
    assert gpu_predictions.counted(text) == {
        "calls": {
            "conv": 1,
            "conv + bias": 1,
            "conv + bias + add + relu": 2,
            "matmul": 1,
            "matmul + bias + gelu": 1,
            "other": 1,
        },
        "fusions": 2,
        "transposes": 1,
    }


@pytest.mark.slow
@pytest.mark.parametrize("by", gpu_predictions.METHODS)
def test_a_prediction_is_compiled(by):
    """For this CPU in place of a card."""
    row = gpu_predictions.prediction("resnet18", "bfloat16", by, jax.devices("cpu")[0], 2, 32)
    assert row["fusions"] > 0


def test_the_page_has_the_counted_predictions():
    found = json.loads((gpu.FOLDER / "gpu_predictions.json").read_text())
    page = (Path(gpu.__file__).parents[2] / "docs/inference.md").read_text()
    assert gpu_predictions.table(found).split("\n\n")[0] in page
    fused = [(row["dtype"], bool(row["options"])) for row in found["relu6"] if "conv + bias + relu6" in row["calls"]]
    assert fused == [("float16", True)]
    resnet = next(row for row in found["predictions"] if row["program"] == "resnet50" and row["dtype"] == "bfloat16")
    assert (resnet["fusions"], resnet["transposes"]) == (104, 54)


def test_the_file_is_committed_alone_and_names_the_card(tmp_path, monkeypatch):
    def git(*arguments):
        return subprocess.run(["git", *arguments], cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    git("init", "-q")
    git("config", "user.email", "a@example.com")
    git("config", "user.name", "A")
    for name in ("gpu.json", "other.txt"):
        (tmp_path / name).write_text("{}")
    git("add", "other.txt")
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    gpu.commit(tmp_path / "gpu.json", "NVIDIA H200")
    assert git("log", "--format=%s", "--name-only").split("\n\n") == ["Measurements on NVIDIA H200", "gpu.json\n"]
