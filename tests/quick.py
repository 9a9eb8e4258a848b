"""Programs that are compiled in little time, for tests to which it does not matter what the compiler makes of them."""

import contextlib
import functools
import gc
import threading

import jax
import pytest
from jax._src import compiler
from jax._src.interpreters import mlir

from jaxconv.compiler import _known


@functools.cache
def quick_options():
    """The compiler options: another code generator for fusions, which takes half of the time and later jaxlibs lack."""
    options = {"xla_cpu_use_fusion_emitters": False, "xla_cpu_parallel_codegen_split_count": 1}
    return {name: value for name, value in options.items() if _known(name, value)}


@contextlib.contextmanager
def quick_compilation():
    """Adds them to those of all programs, and leaves out most optimizations."""
    usual, options = compiler.get_compile_options, quick_options()

    def get_compile_options(*args, env_options_overrides=None, **kwargs):
        return usual(*args, env_options_overrides=options | (env_options_overrides or {}), **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "get_compile_options", get_compile_options)
        jax.config.update("jax_disable_most_optimizations", True)
        yield
        jax.config.update("jax_disable_most_optimizations", False)


@contextlib.contextmanager
def shared_contexts(programs=30):
    """Lowers up to ``programs`` programs in one MLIR context, as jax 0.12 does.

    Making a context takes longer than lowering a small program.

    A context keeps the types and constants of its programs, so now and then a new one takes its place. Other threads
    make their own: those in which XLA calls Python end before what they hold can be freed.
    """
    make, thread = mlir.make_ir_context, threading.get_ident()
    contexts = (context for context in iter(make, None) for _ in range(programs))

    def make_ir_context():
        return next(contexts) if threading.get_ident() == thread else make()

    with pytest.MonkeyPatch.context() as patch:
        if not hasattr(mlir, "_create_ir_context"):
            patch.setattr(mlir, "make_ir_context", make_ir_context)
        yield


@contextlib.contextmanager
def quick_process():
    """For a process that a test starts: both, and nothing looks for garbage, for the process ends soon."""
    gc.disable()
    with shared_contexts(), quick_compilation():
        yield


def quick_jit(function, **options):
    """`jax.jit` for programs that run once: most of the time is LLVM's, and all other tests see what it does."""
    wanted = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True} | quick_options()
    return jax.jit(function, compiler_options=wanted, **options)
