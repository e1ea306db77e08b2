"""The callback that builds policies, which are created without shapes, for their dataset."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities import rank_zero_warn

from getiaction.data.observation import find_policy_dataset, find_policy_datasets


@runtime_checkable
class LazyPolicy(Protocol):
    """A LightningModule that creates its parameters when its dataset is known.

    Attributes:
        observation_delta_indices: Frame offsets of each "observation.*" feature in a sample,
            relative to the current frame; None for that frame alone, without a time dimension.
        action_delta_indices: Frame offsets of "action" and "action.*", with the same meaning.
        reward_delta_indices: Frame offsets of "next.reward", with the same meaning.
    """

    observation_delta_indices: list[int] | None
    action_delta_indices: list[int] | None
    reward_delta_indices: list[int] | None

    def build_model(self, dataset_stats: Mapping[str, Any]) -> None:
        """Create the parameters; do nothing if they exist already.

        Args:
            dataset_stats: Type, shape and statistics of each feature by key, as in the `stats` of a
                `getiaction.data.PolicyDataset`.
        """


class PolicyDatasetInteraction(Callback):
    """Builds a policy for its dataset, and sets which frames the dataset's samples have.

    `getiaction.train.Trainer` adds this callback. It ignores models that are not a `LazyPolicy`.

    The policy is built in `setup`, because `on_fit_start` would be too late: by then Lightning has
    created the optimizers, wrapped the model for DDP and loaded the checkpoint's weights (see
    `Trainer._run` in Lightning 2.6), so parameters would stay untrained or differ between ranks.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Build the policy if its dataset is known. Outside `fit`, set the delta indices too."""
        if not isinstance(pl_module, LazyPolicy):
            return
        dataset = find_policy_dataset(trainer)
        if dataset is not None:
            pl_module.build_model(dataset.stats)
        if stage != "fit":
            # Evaluation loops start the loaders' workers before they call their first hook.
            _set_delta_indices(trainer, pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that the optimizers have every parameter, and set the datasets' delta indices.

        Raises:
            MisconfigurationException: A parameter that requires a gradient is in no optimizer.
        """
        if isinstance(pl_module, LazyPolicy):
            _check_optimizers(trainer, pl_module)
            _set_delta_indices(trainer, pl_module)


def _check_optimizers(trainer: Trainer, policy: LightningModule) -> None:
    if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
        return  # sharding strategies replace the parameters that their optimizers have
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
            f" stay untrained: {', '.join(missed[:8])}{', ...' if len(missed) > 8 else ''}.\n"  # noqa: PLR2004 - one line of names
            "Create them in build_model and pass them to the optimizer in configure_optimizers, or"
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
            f"The dataset was set to return the frames {_brief(asked)} of {key!r}, by"
            f" delta_timestamps or for another policy. {type(policy).__name__} needs"
            f" {_brief(wanted)}, which replace them. To silence this warning, remove {key!r} from"
            " delta_timestamps."
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
