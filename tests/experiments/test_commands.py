"""Every command shows its help, and says what to install, where only jaxconv, jax and numpy are installed."""

import doctest
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import optional, report

ROOT = Path(__file__).parents[2]
# Commands for which the words of a user are a whole run, in which packages are missing.
RUNS = {
    "captions": [],
    "classify": [],
    "detect": ["--image", "a.png"],
    "detect_scenes": [],
    "dream": [],
    "edges": ["--image", "a.png"],
    "explanations": [],
    "explore": [],
    "faces": [],
    "finetune": [],
    "finetune_onnx": [],
    "galaxies": [],
    "go": [],
    "imagenet": ["--image", "a.png"],
    "imagenet_train": ["--folder", "."],
    "nuclei": [],
    "pose": ["--image", "a.png"],
    "pose_train": [],
    "reading": [],
    "roads": [],
    "retrieve": [],
    "segment": [],
    "signs": [],
    "speedrun": [],
    "style": [],
    "video": [],
    "visualize": [],
}
# Arguments that are wrong whatever the data are.
WRONG = {
    "captions --coco a.json": "--coco and --images must be given together",
    "detect --score 3": "--score must be from 0 up and below 1, got 3.0",
    "detect_scenes --size 30": "--size must be a multiple of 16, got 30",
    "edges --image a.png b/a.png": "--image must have files of different names, got a, a",
    "finetune --train nowhere": "--train must name a layer of net, got 'nowhere'",
    "go --match 3": "--match and --slots must be even, got 3 and 16",
    "nuclei --size 30": "--size must be a multiple of 8, got 30",
    "nuclei --weights a.safetensors": "--weights needs --image",
    "roads --tile 96": "--tile must be a multiple of 64, got 96",
    "roads --weights a.safetensors --image a.png --resume": "--weights must come without --data, --folder and --resume",
    "segment --image a.png": "--image and --mask need --weights",
    "segment --size 30": "--size must be a multiple of 8, got 30",
    "style --fast --side 64": "--side must be at least 96 with --fast, got 64",
    "style --image a.png b/a.png": "--image must have files of different names, got a, a",
    "video --weights a.pth": "--models must be the one network of --weights, got r2plus1d mc3",
}
PROGRAM = """
import contextlib, importlib.machinery, io, json, runpy, sys, warnings
import jax

KEPT = {"experiments", "jax", "jaxconv", "jaxlib", "ml_dtypes", "numpy", "opt_einsum", "scipy"}

class Bare:
    # Finds the modules of an environment with few packages.
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] in KEPT | sys.stdlib_module_names:
            return importlib.machinery.PathFinder.find_spec(name, path, target)

sys.meta_path[:] = [importlib.machinery.BuiltinImporter, importlib.machinery.FrozenImporter, Bare]
for name in [name for name in sys.modules if name.split(".")[0] not in KEPT | sys.stdlib_module_names]:
    del sys.modules[name]
# runpy warns of modules that another command has imported.
warnings.simplefilter("ignore", RuntimeWarning)
found = []
for name, *arguments in json.loads(sys.argv[1]):
    sys.argv = [name, *arguments]
    shown = io.StringIO()
    try:
        with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
            runpy.run_module(f"experiments.{name}", run_name="__main__")
        code = None
    except SystemExit as error:
        code = error.code
    except BaseException as error:
        code = repr(error)
    found.append([code, shown.getvalue()])
print(json.dumps(found))
"""


def commands():
    found = [path for path in (ROOT / "experiments").glob("*.py") if "__main__" in path.read_text()]
    return sorted(path.stem for path in found)


def in_a_bare_environment(calls, folder):
    """Runs commands in one process without optional packages; returns exit codes and output."""
    command = [sys.executable, "-c", PROGRAM, json.dumps(calls)]
    environment = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "PATH": ""}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_help_needs_no_optional_package(tmp_path):
    benchmarks = (ROOT / "experiments/benchmarks").glob("*.py")
    names = [*commands(), "atari"] + [f"benchmarks.{p.stem}" for p in benchmarks if "ArgumentParser" in p.read_text()]
    found = dict(zip(names, in_a_bare_environment([[name, "--help"] for name in names], tmp_path), strict=True))
    assert {name: code for name, (code, _) in found.items() if code != 0} == {}
    assert all(text.startswith("usage: ") for _, text in found.values())
    # Defaults are shown as a user writes them.
    assert not [name for name, (_, text) in found.items() if re.search(r"default: (\[|\(|None|False|Posix)", text)]
    assert "(default: 0)" in " ".join(found["nuclei"][1].split())


def test_a_command_checks_its_arguments_and_then_what_is_installed(tmp_path):
    assert set(RUNS) == set(commands()) - {"endurance", "launch", "stress"}
    calls = [*(call.split() for call in WRONG), *([name, *words] for name, words in RUNS.items())]
    found = in_a_bare_environment(calls, tmp_path)
    for (call, message), (code, _) in zip(WRONG.items(), found[: len(WRONG)], strict=True):
        assert str(code).startswith(message), (call, code)
    for name, (code, shown) in zip(RUNS, found[len(WRONG) :], strict=True):
        # One sentence, after no other output.
        assert isinstance(code, str), (name, code)
        assert "pip install" in code, (name, code)
        assert "\n" not in code, (name, code)
        assert shown == "", name
    assert list(tmp_path.iterdir()) == []


def test_errors_of_a_command_are_one_sentence():
    def fail(error):
        def main():
            raise error

        with pytest.raises(SystemExit) as end:
            report.run(main)
        return end.value.code

    assert fail(ValueError("--size must be positive, got 0")) == "--size must be positive, got 0"
    with pytest.raises(FileNotFoundError) as missing:
        Path("nowhere.png").read_bytes()
    assert fail(missing.value) == "nowhere.png: No such file or directory"
    with pytest.raises(KeyError):
        fail(KeyError("a fault of the command"))
    # All commands end so, but for those that have other ends.
    blocks = {name: (ROOT / f"experiments/{name}.py").read_text().split("__main__")[1] for name in commands()}
    others = {"endurance", "imagenet_train", "launch", "stress"}
    assert {name for name, block in blocks.items() if "    report.run(main)\n" not in block} == others


@pytest.mark.parametrize("module", [optional, report])
def test_examples_are_right(module):
    done = doctest.testmod(module)
    assert done.attempted
    assert not done.failed


def test_a_report_shows_values_as_text(tmp_path):
    page = report.write_report(tmp_path, "Title", {"found": {"a": 1}, "share": 0.25, "compared": None}, []).read_text()
    for shown in ("<td>a 1</td>", "<td>0.25</td>", "<td>none</td>"):
        assert shown in page


def test_all_missing_packages_are_named_at_once():
    from experiments.optional import figures, jaxconv_train, needed

    needed(jaxconv_train, figures)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("optax", "matplotlib"):
            patch.setitem(sys.modules, name, None)
        with pytest.raises(ModuleNotFoundError) as error:
            needed(jaxconv_train, figures)
    assert str(error.value) == (
        "this command needs the packages optax, matplotlib: pip install '.[train,viz]' in a checkout of jaxconv"
    )


def test_no_text_says_that_the_project_is_on_pypi():
    # Spelled so that this file does not match.
    wrong = "jaxconv" + "["
    ends, folders = {".py", ".md", ".ipynb", ".toml"}, ("jaxconv", "experiments", "tests", "docs", "notebooks")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*")] + list(ROOT.iterdir())
    files = [path for path in files if path.suffix in ends]
    found = [
        f"{path.relative_to(ROOT)}: {line}"
        for path in files
        for line in path.read_text(encoding="utf-8").splitlines()
        if wrong in line and "install" in line.split(wrong)[0]
    ]
    assert found == []
    assert len(files) > 500
