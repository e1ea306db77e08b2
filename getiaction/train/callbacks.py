"""The callback that lets policies be made without shapes."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities import rank_zero_warn

from getiaction.data.observation import find_policy_dataset, find_policy_datasets


@runtime_checkable
class LazyPolicy(Protocol):
    """A LightningModule that gets its parameters when its dataset is known.

    Attributes:
        observation_delta_indices: Frame offsets that the policy wants of each "observation.*",
            relative to the current frame; None for that frame alone, with no time dimension.
        action_delta_indices: The same for "action".
        reward_delta_indices: The same for "next.reward".
    """

    observation_delta_indices: list[int] | None
    action_delta_indices: list[int] | None
    reward_delta_indices: list[int] | None

    def build_model(self, dataset_stats: Mapping[str, Any]) -> None:
        """Make the parameters; do nothing if they are there.

        Args:
            dataset_stats: `stats` of a `getiaction.data.observation.PolicyDataset`.
        """


class PolicyDatasetInteraction(Callback):
    """Builds a policy for its dataset, and has the dataset return what the policy wants.

    `getiaction.train.Trainer` adds one. Models that are no `LazyPolicy` are left alone.

    The policy is built in `setup`. `on_fit_start` would be too late: by then Lightning has made
    the optimizers, wrapped the model for DDP and loaded the checkpoint's weights (order of
    `Trainer._run` in Lightning 2.6), so that parameters would stay untrained or differ by rank.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Build the policy if its dataset is known; outside of `fit`, set delta indices too."""
        if not isinstance(pl_module, LazyPolicy):
            return
        dataset = find_policy_dataset(trainer)
        if dataset is not None:
            pl_module.build_model(dataset.stats)
        if stage != "fit":
            # Evaluation loops start their loaders' workers before their first hook.
            _set_delta_indices(trainer, pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that every parameter will be trained, and set the datasets' delta indices.

        Raises:
            MisconfigurationException: If no optimizer has a parameter that requires a gradient.
        """
        if isinstance(pl_module, LazyPolicy):
            _check_optimizers(trainer, pl_module)
            _set_delta_indices(trainer, pl_module)


def _check_optimizers(trainer: Trainer, policy: LightningModule) -> None:
    if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
        return  # sharding strategies give their optimizers parameters of their own making
    groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
    trained = {id(parameter) for group in groups for parameter in group["params"]}
    missed = [
        name
        for name, parameter in policy.named_parameters()
        if parameter.requires_grad and id(parameter) not in trained
    ]
    if missed:
        msg = (
            f"{len(missed)} parameters of {type(policy).__name__} are in no optimizer and would"
            f" stay untrained: {', '.join(missed[:8])}{', ...' if len(missed) > 8 else ''}.\n"  # noqa: PLR2004 - a line's worth
            "Make them in build_model and pass them to the optimizer in configure_optimizers, or"
            " freeze them: parameter.requires_grad_(False)"
        )
        raise MisconfigurationException(msg)


def _set_delta_indices(trainer: Trainer, policy: LazyPolicy) -> None:
    replaced: dict[str, tuple[list[int], list[int]]] = {}
    for dataset in find_policy_datasets(trainer):
        delta_indices = dict(dataset.delta_indices or {})
        for key in dataset.features:
            wanted = _delta_indices(policy, key)
            if wanted is None:
                if key.startswith("observation.") and key in delta_indices:
                    replaced[key] = (delta_indices.pop(key), [0])
                continue
            asked = list(delta_indices.get(key, wanted))
            if asked != list(wanted):
                replaced[key] = (asked, list(wanted))
            delta_indices[key] = list(wanted)
        dataset.delta_indices = delta_indices or None
    for key, (asked, wanted) in replaced.items():
        rank_zero_warn(
            f"The dataset was set to the frames {_brief(asked)} of {key!r}, by delta_timestamps or"
            f" for another policy. {type(policy).__name__} needs {_brief(wanted)} and gets them."
            f" To be rid of this warning, leave {key!r} out of delta_timestamps."
        )


def _delta_indices(policy: LazyPolicy, key: str) -> list[int] | None:
    if key == "next.reward":
        return policy.reward_delta_indices
    if key == "action" or key.startswith("action."):
        return policy.action_delta_indices
    return policy.observation_delta_indices if key.startswith("observation.") else None


def _brief(indices: list[int]) -> str:
    if len(indices) <= 4:  # noqa: PLR2004 - short enough to print
        return str(indices)
    return f"[{indices[0]}, {indices[1]}, ..., {indices[-1]}] ({len(indices)} of them)"
