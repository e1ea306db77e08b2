"""LeRobotDataModule: a LeRobot dataset as Lightning's loaders want it."""

import copy
import math
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from torch.utils.data import DataLoader

from getiaction.data.dataset import LeRobotDataset, plain_episodes
from getiaction.data.errors import DatasetError
from getiaction.data.loader import EpochSampler, ResumableLoader
from getiaction.data.source import Source, check_episodes, fetch_dataset, fetch_metadata
from getiaction.lightning_seams import (
    silence_empty_validation_warning,
    uses_distributed_sampler,
)

MAX_AUTO_WORKERS = 8

Loader = DataLoader[dict[str, Any]]


class LeRobotDataModule(LightningDataModule):
    """Training and validation loaders over one LeRobot dataset.

    The constructor touches no file and no network: Lightning downloads in `prepare_data`, once per
    node, and every rank reads metadata and rows in `setup`. Every rank draws the same split.

    A run that resumes from a checkpoint, also from the middle of an epoch, sees exactly the batches
    that it would have seen: the training loader carries its place, and the datamodule the seed of
    the shuffling, which is drawn from torch's generator when a fit begins. The random numbers that
    `image_transforms` take follow from seed, epoch, rank and batch, so neither the number of loader
    processes nor their age changes them. Loaders leave the global generators alone.

    Args:
        repo_id: Dataset on the Hugging Face hub, `"user/name"`.
        root: Local folder or fsspec URL of the dataset; next to `repo_id`, the folder to download
            into.
        episodes: Episode indices to use, default all.
        train_batch_size: Samples per training batch and rank.
        val_batch_size: Samples per validation, test or prediction batch; default that of training.
        num_workers: Loader processes per rank. "auto" shares the CPUs that this process may use
            among the node's ranks, leaves one to each rank itself, and takes 8 at most.
        image_transforms: Called with each camera tensor of a training sample.
        delta_timestamps: Per key the offsets in seconds that a sample stacks; policies of this
            package set them by themselves.
        tolerance_s: How far a video frame's time may be from its row's, in seconds.
        revision: Branch, tag or commit on the hub.
        force_cache_sync: Fetch remote files again even if they are here.
        download_videos: Fetch videos.
        use_imagenet_stats: Give policies ImageNet's mean and std for RGB cameras.
        val_split: Share of the episodes that is held out for validation, in [0, 1).
        val_split_seed: Seed of the choice of held-out episodes.
        pin_memory: Put batches into page-locked memory; "auto" does where there is CUDA.
        persistent_workers: Keep loader processes between epochs.

    Attributes:
        train_dataset: From `setup` on.
        val_dataset: The held-out episodes; None without `val_split`.
        test_dataset: The held-out episodes, or without `val_split` all, untransformed.
        predict_dataset: The same.

    Raises:
        DatasetError: An argument is out of range.
    """

    def __init__(
        self,
        *,
        repo_id: str | None = None,
        root: str | os.PathLike[str] | None = None,
        episodes: list[int] | None = None,
        train_batch_size: int = 16,
        val_batch_size: int | None = None,
        num_workers: int | Literal["auto"] = "auto",
        image_transforms: Callable[[torch.Tensor], Any] | None = None,
        delta_timestamps: dict[str, list[float]] | None = None,
        tolerance_s: float = 1e-4,
        revision: str | None = None,
        force_cache_sync: bool = False,
        download_videos: bool = True,
        use_imagenet_stats: bool = True,
        val_split: float = 0.0,
        val_split_seed: int = 0,
        pin_memory: bool | Literal["auto"] = "auto",
        persistent_workers: bool = True,
    ) -> None:
        super().__init__()
        if repo_id is None and root is None:
            msg = 'no dataset named. Pass repo_id="lerobot/pusht" or root="/path/to/dataset".'
            raise DatasetError(msg)
        if not 0 <= val_split < 1:
            msg = f"val_split={val_split} is no share of the episodes. Use 0 <= val_split < 1."
            raise DatasetError(msg)
        sizes = {"train_batch_size": train_batch_size, "val_batch_size": val_batch_size}
        for name, size in sizes.items():
            if size is not None and size < 1:
                msg = f"{name}={size} is no batch. Use 1 or more."
                raise DatasetError(msg)
        if num_workers != "auto" and num_workers < 0:
            msg = f'num_workers={num_workers} is no number of processes. Use 0 or more, or "auto".'
            raise DatasetError(msg)
        if episodes is not None:
            episodes = plain_episodes(episodes)
        if delta_timestamps is not None:
            deltas = delta_timestamps.items()
            delta_timestamps = {key: [float(delta) for delta in each] for key, each in deltas}
        self.repo_id = repo_id
        root = None if root is None else str(root)  # plain, for hparams.yaml
        self.root = root
        self.episodes = episodes
        self.train_batch_size = train_batch_size
        self.val_batch_size = val_batch_size or train_batch_size
        self.num_workers = num_workers
        self.image_transforms = image_transforms
        self.delta_timestamps = delta_timestamps
        self.tolerance_s = tolerance_s
        self.revision = revision
        self.force_cache_sync = force_cache_sync
        self.download_videos = download_videos
        self.use_imagenet_stats = use_imagenet_stats
        self.val_split = val_split
        self.val_split_seed = val_split_seed
        self.pin_memory = pin_memory
        self.persistent_workers = persistent_workers
        self.train_dataset: LeRobotDataset | None = None
        self.val_dataset: LeRobotDataset | None = None
        self.test_dataset: LeRobotDataset | None = None
        self.predict_dataset: LeRobotDataset | None = None
        self._shuffle_seed: int | None = None
        # Lightning refuses a run whose policy has a hyperparameter of the same name and another
        # value, so what policies also call use_imagenet_stats is left out.
        self.save_hyperparameters(ignore=["image_transforms", "use_imagenet_stats"])

    def prepare_data(self) -> None:
        """Download what is missing. Lightning calls this in one process per node.

        Raises:
            DatasetError: The dataset cannot be had.
        """
        source = Source(self.repo_id, self.root, self.revision, refresh=self.force_cache_sync)
        if source.remote:
            fetch_dataset(source, self.episodes, download_videos=self.download_videos)

    def setup(self, stage: str | None = None) -> None:  # noqa: ARG002 - Lightning's signature
        """Open the datasets, the same on every rank.

        Args:
            stage: Ignored: all stages use the same data.

        Raises:
            DatasetError: The dataset is unfit, or `val_split` leaves no episode on one side.
        """
        self._shuffle_seed = None  # a new one for each fit; a checkpoint's is loaded after this
        if self.train_dataset is not None:
            return
        train_episodes, val_episodes = self._split()
        self.train_dataset = self._open(train_episodes)
        self.train_dataset.image_transforms = self.image_transforms
        if val_episodes:
            self.val_dataset = self._open(val_episodes)
        if self.val_dataset is not None:
            self.test_dataset = self.predict_dataset = self.val_dataset
        else:
            untransformed = copy.copy(self.train_dataset)
            untransformed.image_transforms = None
            self.test_dataset = self.predict_dataset = untransformed

    def state_dict(self) -> dict[str, int]:
        """Return what a checkpoint keeps of this datamodule.

        Returns:
            "shuffle_seed", from the first training loader on.
        """
        return {} if self._shuffle_seed is None else {"shuffle_seed": self._shuffle_seed}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Shuffle on as the checkpoint's run did.

        Args:
            state_dict: From `state_dict`.
        """
        self._shuffle_seed = state_dict["shuffle_seed"]

    def train_dataloader(self) -> Loader:
        """Return the shuffled training loader, without an incomplete last batch.

        Returns:
            A loader of collated samples.

        Raises:
            DatasetError: There are too few frames for one batch on every rank.
        """
        dataset = _ready(self.train_dataset)
        ranks = self.trainer.world_size if self.trainer is not None else 1
        if math.ceil(len(dataset) / ranks) < self.train_batch_size:
            msg = (
                f"{len(dataset)} training frames make no batch of train_batch_size="
                f"{self.train_batch_size} on each of {ranks} ranks. Use train_batch_size="
                f"{max(1, len(dataset) // ranks)} or less, more episodes, or fewer ranks."
            )
            raise DatasetError(msg)
        sampler = self._sampler(dataset)
        return ResumableLoader(
            dataset,
            seed=sampler.seed,
            sampler=sampler,
            drop_last=True,
            **self._loader_options(self.train_batch_size),
        )

    def val_dataloader(self) -> Loader | list[Loader]:
        """Return the validation loader.

        Returns:
            A loader of collated samples; an empty list, which Lightning skips, without `val_split`.

        Raises:
            DatasetError: The Trainer is to validate alone, and there is no validation data.
        """
        if self.val_dataset is None:
            if self.trainer is not None and self.trainer.state.fn == TrainerFn.VALIDATING:
                msg = (
                    "there is no validation data. Hold out episodes with val_split=0.1, or use "
                    "test, which without val_split reads all of them."
                )
                raise DatasetError(msg)
            silence_empty_validation_warning()
            return []
        return self._loader(self.val_dataset)

    def test_dataloader(self) -> Loader:
        """Return the test loader.

        Returns:
            A loader of collated samples.
        """
        return self._loader(_ready(self.test_dataset))

    def predict_dataloader(self) -> Loader:
        """Return the prediction loader.

        Returns:
            A loader of collated samples.
        """
        return self._loader(_ready(self.predict_dataset))

    def _split(self) -> tuple[Sequence[int] | None, list[int]]:
        if not self.val_split:
            return self.episodes, []
        source = Source(self.repo_id, self.root, self.revision)
        metadata = fetch_metadata(source)
        check_episodes(metadata, self.episodes)
        episodes = sorted(metadata.episodes if self.episodes is None else self.episodes)
        num_val = max(1, int(len(episodes) * self.val_split))
        if num_val >= len(episodes):
            msg = (
                f"val_split={self.val_split} leaves no training episode of {len(episodes)}. "
                "Use val_split=0, or more episodes."
            )
            raise DatasetError(msg)
        # Its own generator: the ranks' global ones may be seeded apart.
        held_out = random.Random(self.val_split_seed).sample(episodes, num_val)  # noqa: S311 - a split, no secret
        return [e for e in episodes if e not in set(held_out)], sorted(held_out)

    def _open(self, episodes: Sequence[int] | None) -> LeRobotDataset:
        return LeRobotDataset(
            self.repo_id,
            self.root,
            episodes,
            delta_timestamps=self.delta_timestamps,
            tolerance_s=self.tolerance_s,
            revision=self.revision,
            download_videos=self.download_videos,
            use_imagenet_stats=self.use_imagenet_stats,
        )

    def _sampler(self, dataset: LeRobotDataset) -> EpochSampler:
        if self._shuffle_seed is None:
            self._shuffle_seed = int(torch.randint(2**62, ()))
            if self.trainer is not None:
                self._shuffle_seed = self.trainer.strategy.broadcast(self._shuffle_seed)
        seed, share = self._shuffle_seed, {"num_replicas": 1, "rank": 0}
        if self.trainer is not None:
            if uses_distributed_sampler(self.trainer):
                share = self.trainer.distributed_sampler_kwargs or share
            else:  # each rank goes through all data, in an order of its own
                seed += self.trainer.global_rank
        return EpochSampler(dataset, seed=seed, **share)

    def _loader(self, dataset: LeRobotDataset) -> Loader:
        # Without a generator of its own, each iterator would draw from the global one, and the
        # random numbers of training would depend on how often this process has validated.
        generator = torch.Generator()
        return DataLoader(dataset, generator=generator, **self._loader_options(self.val_batch_size))

    def _loader_options(self, batch_size: int) -> dict[str, Any]:
        num_workers = auto_workers() if self.num_workers == "auto" else self.num_workers
        pin_memory = torch.cuda.is_available() if self.pin_memory == "auto" else self.pin_memory
        return {
            "batch_size": batch_size,
            "num_workers": num_workers,
            "pin_memory": pin_memory,
            "persistent_workers": self.persistent_workers and num_workers > 0,
        }


def auto_workers() -> int:
    """Count the loader processes that this rank can feed.

    Returns:
        The CPUs that this process may use, by affinity and cgroup v2 quota, shared among the
        node's ranks (`LOCAL_WORLD_SIZE`), less one for the rank itself; from 0 to 8.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota_us, period_us = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        cpus = min(cpus, math.ceil(int(quota_us) / int(period_us)))
    except (OSError, ValueError):
        pass  # no cgroup v2, or "max": no quota
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(0, min(MAX_AUTO_WORKERS, cpus // ranks - 1))


def _ready(dataset: LeRobotDataset | None) -> LeRobotDataset:
    if dataset is None:
        msg = "the datamodule has no data yet. Call setup() before asking for a loader."
        raise DatasetError(msg)
    return dataset
