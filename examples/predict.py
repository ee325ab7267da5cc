"""Trains a net, loads it again, and classifies images with it."""

import highway_jax
from highway_jax.data.digits import load_digits

config = highway_jax.default_config()
config.name = "predict"
config.training.epochs = 10
highway_jax.run(config, "runs/predict")

# From here on, neither the data set of the run nor its config is needed.
net = highway_jax.load("runs/predict")
test = load_digits().test  # Any uint8 images of 8x8 pixels would do.
for image, label in zip(test.images[:5], test.labels[:5], strict=True):
    (probabilities,) = net.predict_proba(image[None])
    best = probabilities.argmax()
    print(f"a {label}: {net.class_names[best]} with probability {probabilities[best]:.2f}")

print(net.evaluate(test.images, test.labels))
(run,) = net.activations(test.images)
print(f"gates are open by {run.t.mean():.2f} on average")
