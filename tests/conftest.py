"""What every test shares: four virtual CPU devices, and property tests that draw the same each run."""

import jax
import pytest
from hypothesis import HealthCheck, Phase, settings

jax.config.update("jax_num_cpu_devices", 4)

# Compilation makes the first example of a shape slow, so no deadline; the same draws each run, so no flakes. Explaining
# a failure runs many more examples than finding it.
settings.register_profile(
    "jaxconv",
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("jaxconv")

# Helpers outside test files, so that their bare asserts say what they compared.
pytest.register_assert_rewrite("tests.ops.compare", "tests.ops.onnx_cases", "tests.ops.transforms")
