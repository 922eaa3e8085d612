"""What is relabelled in an attack, and what it changes."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from dd_jax.base import Criterion, Distilled, Loss, Network
from dd_jax.data.dataset import Split
from dd_jax.objectives import classification_loss, relabelled

from .scoring import relabelled_data, relabelled_split


class Relabelled(NamedTuple):
    """What is relabelled, if anything is (paper, section 3.6)."""

    relabel: Mapping[int, int] = {}
    weight: float = 1.0  # of an example of a relabelled class, in the objective
    keep_labels: bool = False  # of the distilled images, as the authors do; else they are relabelled too

    def settings(self) -> dict[str, Any]:
        """As result.json holds them."""
        if not self.relabel:
            return {}
        relabel = {str(k): target for k, target in self.relabel.items()}
        kept = {"keep_labels": True} if self.keep_labels else {}  # older runs do not say that they are not
        return {"relabel": relabel, "attacked_weight": self.weight, **kept}

    def objective(self, network: Network, classes: int, criterion: Criterion) -> Loss:
        """ℓ_{K→T} on the real batch, its examples weighted; ℓ where nothing is relabelled."""
        if not self.relabel:
            return classification_loss(network.apply, criterion)
        relabelled_criterion = relabelled(self.relabel, classes, criterion)
        times = jnp.ones((1, classes)).at[0, jnp.array(list(self.relabel))].set(self.weight)
        return classification_loss(network.apply, lambda logits, labels: relabelled_criterion(logits, times * labels))

    def distilled(self, data: Distilled) -> Distilled:
        """Under the labels that distilled images have at first."""
        return relabelled_data(data, self.relabel) if self.relabel and not self.keep_labels else data

    def split(self, split: Split, classes: int) -> Split:
        """Under the labels by which accuracy counts."""
        return relabelled_split(split, self.relabel, classes) if self.relabel else split


NOTHING = Relabelled()
"""No attack."""
