"""Every test runs with two virtual CPU devices and with array shapes checked at run time."""

import functools
import os
import shutil
import signal
import tempfile
import typing

import jaxlib.version

# Tests compile the same programs again and again, here, in the other workers of pytest-xdist and in
# the processes that they start: all share a compilation cache, which is this session's alone.
# The compiler logs at length what it loads from there. That would fill the pipes of processes whose
# output is read only once they end, and they would wait forever.
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ
if not IS_WORKER:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="highway_jax-tests-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    os.environ["JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES"] = ""

# Jobs in the background of a shell ignore Ctrl-C, and processes that the tests start would too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The nets of the tests are so small that compiling takes far longer than running. Here, and in the
# processes that the tests start, their programs are not optimized, unless XLA_FLAGS is set. Before
# 0.11, the former emitter of fused kernels is still there, and compiles them in half the time.
XLA_FLAGS = "--xla_backend_optimization_level=0"
if jaxlib.version.__version_info__ < (0, 11):
    XLA_FLAGS += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("XLA_FLAGS", XLA_FLAGS)

import jax  # noqa: E402
import pytest  # noqa: E402
from beartype import beartype  # noqa: E402
from jax.experimental.compilation_cache import compilation_cache  # noqa: E402
from jaxtyping import AbstractArray, install_import_hook  # noqa: E402

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_dtype_promotion", "strict")

# Not the linen modules: linen rewrites the fields of its dataclasses, which a checker refuses.
_CHECKED = (
    "analysis.statistics",
    "analysis.trained_nets",
    "data.preprocess",
    "nn.convolution",
    "nn.pooling",
    "training.evaluate",
    "training.metrics",
    "training.optimizer",
    "training.train",
)


def check_arrays(function):
    """Checks the arrays that a function takes and returns; other types are checked by pyright."""

    def is_array(hint):
        hints = (hint, *typing.get_args(hint))
        return any(isinstance(h, type) and issubclass(h, AbstractArray) for h in hints)

    hints = function.__annotations__.items()
    function.__annotations__ = {name: hint for name, hint in hints if is_array(hint)}
    return beartype(function)


# Not removed after an import: the package imports its modules when they are used.
install_import_hook([f"highway_jax.{name}" for name in _CHECKED], "conftest.check_arrays")

import highway_jax  # noqa: E402
from highway_jax.config import config as config_lib  # noqa: E402
from highway_jax.training import program  # noqa: E402

# A process keeps the functions of the last few programs, which the programs of one test replace.
# Tests train the same small nets again and again, so here it keeps those of all programs.
program._shared_functions = functools.cache(program._shared_functions.__wrapped__)


class _Notebooks:
    """Runs notebooks, which train larger nets for longer, with optimized programs."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item):
        with pytest.MonkeyPatch.context() as patch:
            if item.path.suffix == ".ipynb" and os.environ.get("XLA_FLAGS") == XLA_FLAGS:
                patch.delenv("XLA_FLAGS")
            return (yield)


def pytest_configure(config):
    # A hook of this file would be called for the tests of this directory alone.
    config.pluginmanager.register(_Notebooks())


def pytest_unconfigure():
    if not IS_WORKER:
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


@pytest.fixture
def compiling():
    """Disables the compilation cache of jax."""
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # jax asks the setting once.
    yield
    jax.config.update("jax_enable_compilation_cache", True)
    compilation_cache.reset_cache()


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """A directory in which tests share compiled programs."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def small_config():
    """A run of seconds: a 3-layer highway net, digits, two seeds, two epochs."""
    config = highway_jax.default_config()
    config.name = "small"
    config.seeds = (0, 1)
    config.data.valid_size = 100
    config.model.depth = 3
    config.model.width = 8
    config.training.epochs = 2
    config.runtime.progress = False
    config.runtime.tensorboard = False
    config_lib.validate(config)
    return config
