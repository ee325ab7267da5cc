"""Table 1 of He et al. 2016, "Identity Mappings in Deep Residual Networks": kinds of shortcuts.

    python -m highway_jax.main --config=experiments/he2016_shortcuts.py:mnist
    python -m highway_jax.main --config=experiments/he2016_shortcuts.py:digits
    python -m highway_jax.main --config=experiments/he2016_shortcuts.py:cifar10

Their test error of ResNet-110 on CIFAR-10, by the shortcut and its initial gate bias:

    identity        y = x + H(x)                    6.61 %
    constant        y = (x + H(x)) / 2              12.35 %
    exclusive       y = x (1 - T(x)) + H(x) T(x)    fails at 0 to -5, 8.70 % at -6, 9.81 % at -7
    shortcut_only   y = x (1 - T(x)) + H(x)         12.86 % at 0, 6.91 % at -6

Exclusive gating is the highway layer. Our results on MNIST are in
experiments/results/he2016_shortcuts; `digits` and `cifar10` have not been run.

These are the same equations in other nets. Their H is two convolutions with batch normalization and
ReLU, and their T a convolution of size one; our H is one layer without normalization, and our T has
a kernel of the size of H's. `mnist` and `digits` are dense nets of 110 layers. `cifar10` is the
net of 110 layers `deep110`, trained as theirs: batches of 128, momentum 0.9, weight decay 0.0001,
and a learning rate that is divided by ten after 32,000 and 48,000 of 64,000 steps. Theirs is 0.1
after 400 steps of 0.01; there is no warm-up here, so it starts at 0.05. Three seeds, not five.
"""

from ml_collections import ConfigDict

from highway_jax.config import recipes
from highway_jax.config.config import RunConfig, default_config

EXCLUSIVE = (0, -1, -2, -3, -4, -5, -6, -7)
SHORTCUT_ONLY = (0, -6)


def get_config(variant: str = "mnist") -> RunConfig:
    data, _ = recipes.choose(variant, ("mnist", "digits", "cifar10"))
    config = default_config()
    recipes.set_name(config, "he2016_shortcuts", variant)
    cases = {"identity": {"block": "residual"}, "constant": {"block": "constant"}}
    for kind, block, biases in (
        ("exclusive", "highway", EXCLUSIVE),
        ("shortcut_only", "shortcut_gate", SHORTCUT_ONLY),
    ):
        for bias in biases:
            case = {"block": block, "transform_bias": float(bias)}
            cases[f"{kind}{bias}" if bias else f"{kind}-0"] = case
    for name, model in cases.items():
        config.cases[name] = ConfigDict({"model": model})
    config.seeds = (0, 1, 2)
    config.data.name = data
    config.model.depth = 110
    config.optimizer.momentum = 0.9
    config.evaluation.test_curve = True
    if data != "cifar10":
        config.data.valid_size = 10_000 if data == "mnist" else 137
        config.model.width = 50 if data == "mnist" else 16
        config.optimizer.learning_rate = 0.01
        config.training.epochs = 5 if data == "mnist" else 30
        return config
    config.data.subtract_mean = True
    config.data.random_crop_padding = 4
    config.data.random_flip = True
    config.model.architecture = "deep110"
    config.model.width = 16
    config.model.initializer = "msra"
    config.model.dropout = False
    config.optimizer.learning_rate = 0.05
    config.optimizer.weight_decay = 0.0001
    config.optimizer.schedule = "multistep"
    config.optimizer.decay = 0.1
    config.optimizer.boundaries = (32_000, 48_000)
    config.training.batch_size = 128
    config.training.epochs = 164
    return config
