"""Disentanglement of models of sprites: can a linear classifier tell which factor a group of pictures has in common?

    python benchmarks/disentanglement.py beta-vae-sprites beta-1.onnx -o docs/results/disentanglement.json \\
        --page docs/models/beta-vae.md

The metric of Higgins et al. 2017 (beta-VAE, ICLR, section 3). A point is made of pairs of pictures that agree in one
factor, drawn at random like all other factors: it is the mean over the pairs of the absolute differences between the
posterior means of the two. A linear classifier is trained to tell from points which factor that was; the score is its
accuracy on others. Models are names or files; they run through ONNX Runtime.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pages
from numpy.typing import NDArray

from gencodec import runtime
from gencodec.evaluation import machine
from gencodec.models.sprites import FACTORS, SIZES, Sprites, chosen, drawn
from gencodec.runtime import Model

Array = NDArray[np.float64]
Index = NDArray[np.int64]
Representation = Callable[[Index], Array]
"""Factors of pictures (n, 5) -> their latents (n, latents)."""

BATCH = 512
ITERATIONS = 500
RIDGE = 1e-3
"""Half the penalty of a squared weight; features have a mean of 1."""
SURVEYED = 1000
"""Pictures by which the latents' divergences are measured."""
USED = 0.1
"""Nats of divergence from which a latent counts as used."""


@dataclass(frozen=True)
class Metric:
    """How much is drawn."""

    pairs: int = 64
    """Of a point (L in the paper)."""
    trained: int = 500
    """Points that the classifier is trained on."""
    tested: int = 500
    """Points that it is tested on."""

    def confusion(self, representation: Representation, seed: int) -> Index:
        """Of the points that are tested, how many share a factor (row) and are thought to share one (column)."""
        rng = np.random.default_rng(seed)
        x, y = self.points(representation, self.trained, rng)
        scale = 1 / np.maximum(x.mean(0), 1e-12)
        weight, bias = classifier(x * scale, y)
        x, y = self.points(representation, self.tested, rng)
        found = (x * scale @ weight + bias).argmax(1)
        return np.bincount(len(FACTORS) * y + found, minlength=len(FACTORS) ** 2).reshape(len(FACTORS), -1)

    def points(self, representation: Representation, count: int, rng: np.random.Generator) -> tuple[Array, Index]:
        """Points (count, latents), and which factor each one's pairs share (count,)."""
        shared = rng.integers(len(FACTORS), size=count)
        features = []
        for factor in shared:
            first, second = rng.integers(SIZES, size=(2, self.pairs, len(FACTORS)))
            second[:, factor] = first[:, factor]
            a, b = np.split(representation(np.concatenate([first, second])), 2)
            features.append(np.abs(a - b).mean(0))
        return np.stack(features), shared


def classifier(x: Array, y: Index) -> tuple[Array, Array]:
    """Weights (features, classes) and biases (classes,) of logistic regression on points (n, features).

    Steps are those of a quadratic bound of the loss, which never rises by them (Bohning 1992, Annals of the Institute
    of Statistical Mathematics 44).
    """
    wanted = np.eye(len(FACTORS))[y]
    given = np.concatenate([x, np.ones((len(x), 1))], 1)
    bound = np.linalg.inv(given.T @ given / 2 + RIDGE * np.eye(given.shape[1]))
    weight = np.zeros((given.shape[1], len(FACTORS)))
    for _ in range(ITERATIONS):
        logits = given @ weight
        likely = np.exp(logits - logits.max(1, keepdims=True))
        likely /= likely.sum(1, keepdims=True)
        weight -= bound @ (given.T @ (likely - wanted) + RIDGE * weight)
    return weight[:-1], weight[-1]


# models


def posterior(model: Model, factors: Index) -> tuple[Array, Array]:
    """Means and logarithms of variances (n, latents) that a model gives pictures of factors (n, 5)."""
    found = []
    for first in range(0, len(factors), BATCH):
        pixels = drawn(factors[first : first + BATCH])[:, None].astype(np.float32) / np.float32(255)
        found.append(model.run_float("encode", pixels))
    mean, log_variance = (np.concatenate(parts)[:, :, 0, 0].astype(np.float64) for parts in zip(*found, strict=True))
    return mean, log_variance


def divergences(model: Model) -> Array:
    """Mean divergence of each latent's posterior from its prior, in nats."""
    factors = np.stack(np.unravel_index(chosen(SURVEYED, seed=1), SIZES), 1)
    mean, log_variance = posterior(model, factors)
    return ((np.square(mean) + np.exp(log_variance) - 1 - log_variance) / 2).mean(0)


def measured(model: Model, metric: Metric, seeds: int) -> dict[str, Any]:
    """Scores of a model, and what it says of itself."""
    confusions = np.stack([metric.confusion(lambda f: posterior(model, f)[0], seed) for seed in range(seeds)])
    scores = np.trace(confusions, axis1=1, axis2=2) / metric.tested
    total = confusions.sum(0)
    nats = divergences(model)
    return {
        "model": Path(model.card.name).name,
        "sha256": model.card.sha256,
        "beta": model.config["sizes"]["beta"],
        "steps": int(model.file.metadata["gencodec.steps"]),
        "score": float(scores.mean()),
        "scores": scores.tolist(),
        "by_factor": dict(zip(FACTORS, (np.diag(total) / total.sum(1)).tolist(), strict=True)),
        "divergence_nats": nats.tolist(),
        "latents_used": int((nats > USED).sum()),
    }


def markdown(results: dict[str, Any]) -> str:
    """The table of all models, and what it says."""
    head = ["beta", "score", "least and most", *FACTORS, "latents used", "divergence, nats"]
    rows = [head, ["---:"] * len(head)]
    for found in results["models"]:
        scores = found["scores"]
        each = [f"{found['by_factor'][name]:.1%}" for name in FACTORS]
        used = f"{found['latents_used']} of {len(found['divergence_nats'])}"
        spread = f"{min(scores):.1%} to {max(scores):.1%}"
        nats = f"{sum(found['divergence_nats']):.1f}"
        rows.append([f"{found['beta']:g}", f"**{found['score']:.1%}**", spread, *each, used, nats])
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    m, steps = results["metric"], ", ".join(str(found["steps"]) for found in results["models"])
    return (
        f"{table}\n\nMean of {results['seeds']} seeds of the metric, each with {m['trained']} points to train the"
        f" classifier and {m['tested']} to test it, of {m['pairs']} pairs; chance is {1 / len(FACTORS):.0%}. Of each"
        f" factor, the share of points that are told rightly. A latent is used if its divergence is above {USED} nats."
        f" The models were trained for {steps} steps, in this order.\n"
    )


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL", help="names of models, or exported files")
    parser.add_argument("--seeds", type=int, default=3, help="of the metric (default: 3)")
    parser.add_argument("--pairs", type=int, default=Metric.pairs, help="of pictures for a point")
    parser.add_argument("--points", type=int, default=Metric.trained, help="to train on, and as many to test on")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path, help="where the JSON goes (default: standard output)")
    parser.add_argument("--page", type=Path, help="file whose part between marks becomes the table")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> None:
    args = arguments(given)
    metric = Metric(args.pairs, args.points, args.points)
    models = [runtime.load(name, threads=args.threads, device="cpu") for name in args.models]
    found = [measured(model, metric, args.seeds) for model in models]
    about = {"set": {"pictures": len(Sprites()), "factors": dict(zip(FACTORS, SIZES, strict=True))}}
    results = {"metric": asdict(metric), "seeds": args.seeds, **about, "models": found, "machine": machine.describe()}
    text = json.dumps(results, indent=1) + "\n"
    if args.output:
        args.output.write_text(text)
    else:
        print(text, end="")
    if args.page:
        pages.insert(args.page, "disentanglement", markdown(results))


if __name__ == "__main__":
    main()
