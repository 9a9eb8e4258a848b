import importlib.util

import pytest

import jaxconv.train


def test_a_missing_extra_is_named(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("optax", "tqdm") else find(name))
    spec = importlib.util.spec_from_file_location("jaxconv.train", jaxconv.train.__file__)
    with pytest.raises(ImportError, match=r"jaxconv\.train needs the packages optax, tqdm: pip install '\.\[train\]'"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_all_names_exist():
    assert all(hasattr(jaxconv.train, name) for name in jaxconv.train.__all__)
