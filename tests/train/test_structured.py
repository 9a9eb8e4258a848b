"""Targets and outputs that are pytrees, values beside the loss, metrics, and which epoch is the best."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxconv.metrics import Metric, accuracy, mean_iou, top_k
from jaxconv.train import TrainState, evaluate, fit, predict, train_step
from jaxconv.train.result import Monitor, choose_monitor
from tests.train.toys import Linear, cross_entropy, data


@dataclasses.dataclass(frozen=True)
class Detector:
    """Two inputs; scores and boxes from them."""

    def init(self, key, x):
        size = int(np.prod(x["image"].shape[1:]))
        return {"scores": 0.1 * jax.random.normal(key, (size, 3)), "box": jnp.zeros((1, 4))}, {}

    def apply(self, params, state, x, *, train=False, key=None):
        image, size = x["image"], x["size"]
        scores = image.reshape(image.shape[0], -1) @ params["scores"]
        return {"scores": scores, "box": size[:, None] * params["box"]}, state


def examples(count, seed=0):
    images, labels = data(count, seed=seed)
    size = np.linspace(1, 2, count, dtype=np.float32)
    return {"image": images, "size": size}, {"label": labels, "box": np.stack([size, 2 * size, size, -size], 1)}


def loss(outputs, targets):
    scores = cross_entropy(outputs["scores"], targets["label"])
    boxes = jnp.abs(outputs["box"] - targets["box"]).mean(1)
    return scores + boxes, {"scores": scores, "boxes": boxes.mean()}


def right(outputs, targets):
    return accuracy(outputs["scores"], targets["label"])


ADAM = optax.adam(0.1)  # One object: runs share what is compiled.
METRICS = {"right": right, "spread": Metric(lambda y, t: y["box"].sum(0), finish=lambda s: {"x": s[0], "y": s[1]})}


def run(inputs, targets, net=None, **options):
    options = {"loss": loss, "epochs": 3, "batch_size": 16, "progress": False, **options}
    return fit(net or Detector(), inputs, targets, options.pop("optimizer", ADAM), **options)


def numpy_values(params, inputs, targets):
    """What evaluation should find, in float64."""
    outputs, _ = Detector().apply(jax.tree.map(np.asarray, params), {}, inputs)
    scores, box = (np.asarray(outputs[name], np.float64) for name in ("scores", "box"))
    crosses = np.log(np.exp(scores).sum(1)) - scores[np.arange(len(scores)), targets["label"]]
    boxes = np.abs(box - targets["box"]).mean(1)
    return {
        "loss": (crosses + boxes).mean(),
        "scores": crosses.mean(),
        "boxes": boxes.mean(),
        "right": (scores.argmax(1) == targets["label"]).mean(),
        "spread_x": box[:, 0].sum(),
        "spread_y": box[:, 1].sum(),
    }


@pytest.mark.parametrize("batch_size", [7, 16, 50])
def test_evaluate_is_exact_for_any_batch_size(batch_size):
    inputs, targets = examples(23)
    params = run(inputs, targets).params
    found = evaluate(Detector(), params, {}, inputs, targets, loss=loss, metrics=METRICS, batch_size=batch_size)
    want = numpy_values(params, inputs, targets)
    assert found.pop("count") == 23
    assert set(found) == set(want)
    # A scalar in the loss's dict counts by the examples of its batch.
    assert_allclose([found[name] for name in want], list(want.values()), rtol=1e-5)
    outputs = predict(Detector(), params, {}, inputs, batch_size=batch_size)
    assert_array_equal(outputs["box"].shape, (23, 4))


def test_fit_records_everything_in_training_and_validation():
    inputs, targets = examples(40)
    held = examples(11, seed=1)
    result = run(inputs, targets, validation=held, metrics=METRICS, monitor="validation_right", mode="max")
    record = result.history[-1]
    names = ["loss", "boxes", "right", "scores", "spread_x", "spread_y"]
    assert set(names) <= set(record)
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    want = numpy_values(result.train_state.params, *held)
    assert_allclose([record[f"validation_{name}"] for name in want], list(want.values()), rtol=1e-5)
    best = max(result.history, key=lambda record: (record["validation_right"], -record["validation_loss"]))
    assert result.best_epoch == best["epoch"]
    assert "accuracy" not in record


def test_a_fraction_of_pytrees_is_held_out():
    inputs, targets = examples(40)
    result = run(inputs, targets, validation=0.25)
    assert "validation_boxes" in result.history[0]
    assert result.train_state.step == 3 * 2


def test_train_step_takes_pytrees():
    inputs, targets = examples(8)
    step = train_step(Detector(), loss, optax.sgd(0.1), metrics=METRICS, donate=False)
    train_state = TrainState.create(Detector(), optax.sgd(0.1), 0, inputs)
    _, measured = step(train_state, inputs, targets)
    want = numpy_values(train_state.params, inputs, targets)
    assert_allclose(
        [measured[name] for name in ("loss", "boxes", "right")], [want[n] for n in ("loss", "boxes", "right")]
    )
    assert measured["spread"].shape == (4,), "as the metric updates: it is finished when all is summed"


def test_two_values_of_the_same_name_are_refused():
    metric = Metric(lambda y, t: t.sum(), finish=lambda total: {"mean": total / 8})
    images, labels = data(8)
    params, state = Linear().init(jax.random.key(0), images)
    metrics = {"iou": metric, "iou_mean": lambda y, t: t}
    with pytest.raises(ValueError, match="metrics: each value must have a different name, got iou_mean twice"):
        evaluate(Linear(), params, state, images, labels, loss=cross_entropy, metrics=metrics)


def test_metrics_that_are_combined_on_the_host():
    """As average precision is: all predictions of the data set at once, in order."""
    images, labels = data(23)

    def precision(found):
        assert found["scores"].shape == (23, 3)
        assert_array_equal(found["labels"], labels)
        return float((found["scores"].argmax(1) == found["labels"]).mean())

    def joined(total, batch):
        return jax.tree.map(lambda a, b: np.concatenate([a, b]), total, batch)

    metric = Metric(lambda y, t: {"scores": y, "labels": t}, joined, precision)
    options = {"net": Linear(), "loss": cross_entropy, "validation": (images, labels), "metrics": {"precision": metric}}
    result = run(images, labels, **options, monitor="validation_precision", mode="max")
    for record in result.history:
        assert record["validation_precision"] == record["validation_accuracy"]
        assert "precision" not in record, "not a sum: measured in validation only"


def test_training_metrics_count_each_example_once_with_a_smaller_last_batch():
    images, labels = data(23)
    batches = [(images[i : i + 8], labels[i : i + 8]) for i in range(0, 23, 8)]
    metrics = {"iou": mean_iou(3), "top": top_k(2)}
    options = {"net": Linear(), "loss": cross_entropy, "metrics": metrics, "optimizer": optax.sgd(0.0), "epochs": 1}
    result = run(batches, None, **options)
    found = evaluate(Linear(), result.params, {}, images, labels, loss=cross_entropy, metrics=metrics)
    for name in ("loss", "accuracy", "iou", "top"):
        assert_allclose(result.history[0][name], found[name], rtol=1e-6)


def triplet(embeddings, identities):
    """The semi-hard triplet loss's kind: zero for one example alone."""
    far = jnp.square(embeddings[:, None] - embeddings[None]).sum(-1)
    same = identities[:, None] == identities[None]
    return jnp.maximum(0.0, 1.0 + jnp.where(same, far, 0).max(1) - jnp.where(same, jnp.inf, far).min(1)).mean()


def test_a_loss_of_a_whole_batch_is_evaluated_on_whole_batches():
    images, identities = data(24)
    params, _ = Linear(5).init(jax.random.key(0), images)
    embeddings = Linear(5).apply(params, {}, images)[0]
    want = np.mean([triplet(embeddings[i : i + 8], identities[i : i + 8]) for i in range(0, 24, 8)])
    found = evaluate(Linear(5), params, {}, images, identities, loss=triplet, batch_size=8)
    assert_allclose(found["loss"], want, rtol=1e-5)
    assert want > 0.1


def test_embeddings_and_identities_have_no_accuracy():
    images, identities = data(24)
    result = run(images, identities + 90, net=Linear(5), loss=triplet, validation=(images, identities))
    assert not [name for name in result.history[0] if "accuracy" in name]
    losses = [record["validation_loss"] for record in result.history]
    assert result.best_epoch == 1 + int(np.argmin(losses))
    named = run(images, identities, net=Linear(5), loss=triplet, metrics={"accuracy": accuracy})
    assert "accuracy" in named.history[0]


def test_augmentation_sees_the_targets():
    images, labels = data(20)
    seen = []

    def mixed(key, x, y):
        seen.append((x.shape, y.shape))
        share = jax.random.uniform(key)
        y = jax.nn.one_hot(y, 3)
        return share * x + (1 - share) * x[::-1], share * y + (1 - share) * y[::-1]

    def flipped(key, x, axis=1):
        return jnp.flip(x, axis)

    def soft(outputs, targets):
        targets = jax.nn.one_hot(targets, 3) if targets.ndim == 1 else targets
        return optax.softmax_cross_entropy(outputs, targets)

    options = {"net": Linear(), "loss": soft, "validation": (images, labels), "epochs": 1}
    result = run(images, labels, augment=mixed, **options)
    assert seen[0] == ((16, 4, 2), (16,))
    assert np.isfinite(result.history[0]["validation_loss"])
    assert "loss" in run(images, labels, net=Linear(), loss=cross_entropy, augment=flipped, epochs=1).history[0]
    with pytest.raises(ValueError, match=r"augment must return \(inputs, targets\) where it takes both, got"):
        run(images, labels, net=Linear(), loss=cross_entropy, augment=lambda key, x, y: x)


def test_an_augment_that_crops_gives_the_networks_shape():
    images, labels = data(20, size=(6, 2))
    options = {"net": Linear(), "loss": cross_entropy, "epochs": 1, "augment": lambda key, x: x[:, 1:5]}
    result = run(images, labels, **options, validation=(images, labels), validation_preprocess=lambda x: x[:, :4])
    assert result.params["dense"]["kernel"].shape == (8, 3)
    want = evaluate(Linear(), result.params, {}, images[:, :4], labels, loss=cross_entropy)["loss"]
    assert_allclose(result.history[0]["validation_loss"], want, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"monitor": "validation_iou"}, "monitor must be one of loss, accuracy, grad_norm, validation_loss, .*iou'"),
        ({"monitor": "loss", "mode": "least"}, 'mode must be "min" or "max", got \'least\''),
        ({"monitor": "grad_norm"}, 'mode must be "min" or "max" for monitor=\'grad_norm\', got None'),
        ({"mode": "max"}, "mode must come with a monitor"),
        ({"metrics": {"loss": accuracy}}, "metrics: a name must be a string other than loss, .*, got 'loss'"),
        ({"metrics": {"iou": 3}}, r"metrics\['iou'\] must be a function of outputs and targets or a Metric, got 3"),
        ({"metrics": [accuracy]}, "metrics must be a dict of functions by name, got list"),
        ({"epochs": None}, "epochs or steps must be given, not both"),
        ({"steps": 3}, "epochs or steps must be given, not both"),
        ({"steps": 0, "epochs": None}, "steps must be an int of 1 or more, got 0"),
        ({"average": 1}, "average must be a decay between 0 and 1, both excluded, got 1"),
        ({"optimizer": 3}, "optimizer must be an Optax transformation or a function of steps, got 3"),
        ({"validation": {"a": 1}}, r"validation must be \(inputs, targets\), .*, got dict"),
        ({"validation": None, "validation_preprocess": jnp.abs}, "validation_preprocess must come with validation"),
    ],
)
def test_bad_input(options, message):
    images, labels = data(20)
    options = {"net": Linear(), "loss": cross_entropy, "validation": (images, labels), **options}
    with pytest.raises(ValueError, match=message):
        run(images, labels, **options)


def test_a_monitor_of_a_metric_that_gives_another_name():
    inputs, targets = examples(20)
    with pytest.raises(
        ValueError, match=r"monitor must be a number of the record, one of .*spread_x.*, got 'spread_z'"
    ):
        run(inputs, targets, metrics=METRICS, monitor="spread_z", mode="max")
    assert run(inputs, targets, metrics=METRICS, monitor="spread_x", mode="max").best_epoch == 3


def test_monitors():
    names = ["loss", "validation_loss", "validation_accuracy", "validation_iou"]
    assert choose_monitor(None, None, names) == Monitor("validation_accuracy", True)
    assert choose_monitor(None, None, names[:2]) == Monitor("validation_loss", False)
    assert choose_monitor(None, None, names[:1]) == Monitor()
    assert choose_monitor("validation_iou", "max", names) == Monitor("validation_iou", True)
    assert choose_monitor("loss", None, names) == Monitor("loss", False)
    tie = {"validation_iou": 1.0, "validation_loss": 0.75}
    monitor = Monitor("validation_iou", True)
    assert monitor.better({"validation_iou": 1.0, "validation_loss": 0.06}, tie)
    assert monitor.better(tie, tie), "of equals the later"
    assert not monitor.better({"validation_iou": float("nan"), "validation_loss": 0.1}, tie)


def test_steps_in_place_of_epochs():
    images, labels = data(50)
    options = {"net": Linear(), "loss": cross_entropy, "epochs": None, "steps": 10, "optimizer": None}
    seen = []
    options["optimizer"] = lambda steps: seen.append(steps) or optax.sgd(0.1)
    for scan in (False, True):
        result = run(images, labels, **options, epoch_scan=scan)
        assert [record["step"] for record in result.history] == [4, 8, 10]
    assert set(seen) == {10}
