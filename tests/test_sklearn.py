"""The scikit-learn classifier."""

import contextlib
from unittest import SkipTest

import jax
import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

from highway_jax import HighwayClassifier


@pytest.fixture
def small():
    return HighwayClassifier(depth=2, width=16, epochs=10, random_state=0)


# Checks that compile several programs, seconds each.
_LONG = (
    "check_classifier_data_not_an_array",
    "check_classifiers_classes",
    "check_classifiers_one_label",
    "check_classifiers_train",
    "check_dont_overwrite_parameters",
    "check_dtype_object",
    "check_estimators_dtypes",
    "check_estimators_nan_inf",
    "check_estimators_overwrite_params",
    "check_fit2d_1feature",
    "check_fit_check_is_fitted",
    "check_fit_idempotent",
    "check_fit_score_takes_y",
    "check_n_features_in_after_fitting",
    "check_pipeline_consistency",
    "check_positive_only_tag_during_fit",
)


@pytest.mark.filterwarnings("ignore")  # Of checks that do not apply.
@pytest.mark.parametrize(
    "is_long",
    [
        pytest.param(False, marks=pytest.mark.slow, id="quick"),
        pytest.param(True, marks=pytest.mark.faults, id="long"),
    ],
)
def test_it_passes_the_checks_of_scikit_learn(is_long, small):
    num_checks = 0
    for estimator, check in estimator_checks_generator(small, mark="skip"):
        if (check.func.__name__ in _LONG) == is_long:
            with contextlib.suppress(SkipTest):  # Of an optional package that is not installed.
                check(estimator)
            num_checks += 1
    assert num_checks > (10 if is_long else 30)


def test_it_works_in_a_pipeline_and_a_search(small):
    x, y = load_iris(return_X_y=True)
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    # One split, of all examples: one program trains the nets of the search and the final one.
    all_examples = np.arange(len(x))
    search = GridSearchCV(
        make_pipeline(StandardScaler(), small),
        {"highwayclassifier__learning_rate": [1e-6, 0.05]},
        cv=[(all_examples, all_examples)],
    )
    search.fit(x, names)
    assert search.best_params_ == {"highwayclassifier__learning_rate": 0.05}
    assert search.score(x, names) > 0.9
    net = search.best_estimator_[-1].net_
    assert net.class_names == ("setosa", "versicolor", "virginica")


def test_settings_reach_the_config(small):
    x, y = load_iris(return_X_y=True)
    small.set_params(settings={"data.zca_epsilon": 0.01, "optimizer.clip_norm": 1.0})
    assert small.fit(x, y).score(x, y) > 0.9
    assert small.net_.config.optimizer.clip_norm == 1.0
    small.set_params(settings={"optimizer.clip_norm": -1.0})
    with pytest.raises(ValueError, match=r"^optimizer\.clip_norm is -1\.0; allowed"):
        small.fit(x, y)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"block": "higway"}, ValueError, "^block is 'higway'; allowed: plain, residual, highway"),
        ({"depth": 0}, ValueError, "^depth is 0; allowed: a whole number from 1"),
        ({"epochs": 1.5}, ValueError, "^epochs is 1.5; allowed: a whole number from 1"),
        ({"batch_size": "a"}, ValueError, "^batch_size is 'a'; allowed: a whole number from 1"),
        ({"settings": [1]}, TypeError, r"^settings is \[1\]; allowed: None, or a dict"),
        (
            {"settings": {"optimizer.clipnorm": 1.0}},
            ValueError,
            "^settings has the key 'optimizer.clipnorm'; allowed: .*mean optimizer.clip_norm?",
        ),
        ({"settings": {"seeds": (1, 2)}}, ValueError, "^settings has the key 'seeds'; allowed: k"),
        ({"settings": {"data.valid_size": 9}}, ValueError, "^settings has the key 'data.valid_s"),
        ({"settings": {"model": 3}}, ValueError, "^settings has the key 'model'; allowed: keys "),
        ({"settings": {3: 3}}, ValueError, "^settings has the key 3; allowed: keys of model, "),
        ({"settings": {"data.scaling": "caffe"}}, ValueError, "^data.scaling is 'caffe'; allowed"),
    ],
)
def test_what_is_not_allowed_is_said_in_the_words_of_the_caller(change, error, words, small):
    with pytest.raises(error, match=words):
        small.set_params(**change).fit(*load_iris(return_X_y=True))


def test_parameters_may_be_numbers_that_a_random_search_draws(small):
    small.set_params(depth=np.int64(2), epochs=np.int32(1), learning_rate=np.float32(0.05))
    assert small.fit(*load_iris(return_X_y=True)).net_.config.model.depth == 2


def test_divergence_is_an_error(small):
    x, y = load_iris(return_X_y=True)
    small.set_params(learning_rate=1e20)
    with pytest.raises(ValueError, match=r"training diverged with learning_rate=1e\+20"):
        small.fit(x, y)


def test_it_trains_where_jax_has_64_bits(small):
    x, y = load_iris(return_X_y=True)
    jax.config.update("jax_enable_x64", True)
    try:
        with jax.numpy_dtype_promotion("standard"):  # As users have it.
            assert small.fit(x, y).score(x, y) > 0.9
    finally:
        jax.config.update("jax_enable_x64", False)
