"""LeRobotDataModule: loaders over a LeRobot dataset for Lightning's Trainer."""

import copy
import os
from collections.abc import Callable
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn, TrainerStatus
from torch.utils.data import DataLoader

from getiaction.data import arguments
from getiaction.data.batch import Collate, WholeBatches, keeps_methods, object_keys
from getiaction.data.dataset import LeRobotDataset
from getiaction.data.depth import DepthUnit
from getiaction.data.errors import DatasetError
from getiaction.data.identity import identity_of, warn_if_changed
from getiaction.data.loader import BatchLoader, EpochSampler, ResumableLoader
from getiaction.data.machine import auto_workers, ranks_of_node
from getiaction.data.rows import NonFinite
from getiaction.data.source import Source, fetch_dataset, fetch_metadata
from getiaction.data.split import split_episodes
from getiaction.lightning_seams import (
    input_dtype,
    sees_batches_before_transfer,
    silence_empty_validation_warning,
    uses_distributed_sampler,
)

Loader = DataLoader[dict[str, Any]]


class LeRobotDataModule(LightningDataModule):
    """Training, validation, test and prediction loaders over one LeRobot dataset.

    The constructor reads no file and uses no network: Lightning calls `prepare_data` once per node
    to download, and `setup` on every rank to read metadata and rows. Every rank computes the same
    train/validation split.

    A run that resumes from a checkpoint, even from the middle of an epoch, sees exactly the batches
    that it would have seen without the interruption. The training loader saves its position, and
    the datamodule saves the shuffle seed, which is drawn from torch's global generator when a fit
    begins. The random numbers that `image_transforms` draw depend only on seed, epoch, rank and
    batch, and not on the number of loader processes. The loaders do not draw from the global
    generators.

    Args:
        repo_id: Dataset on the Hugging Face hub, `"user/name"`.
        root: Local folder or fsspec URL (`s3://`, `hf://`...) of the dataset. Together with
            `repo_id`, it is the folder to read if it exists, and to download into otherwise.
        episodes: Indices of the episodes to use; None uses all.
        train_batch_size: Number of samples in a training batch of one rank.
        val_batch_size: Number of samples in a validation, test or prediction batch of one rank;
            None takes `train_batch_size`.
        num_workers: Number of loader processes of each rank. "auto" divides the CPUs that this
            process may use among the node's ranks, leaves one to each rank, and starts no more
            than shared memory (`/dev/shm`) has room for.
        image_transforms: Function that is applied to each camera tensor of a training sample,
            (3, H, W) in [0, 1], or (T, 3, H, W) if the sample stacks T frames of that camera.
        delta_timestamps: Offsets in seconds that a sample stacks, by feature key. The policies of
            this package set their own, so it is not needed for them.
        tolerance_s: Largest difference between the time of a row and of its video frame, in
            seconds.
        revision: Branch, tag or commit of `repo_id`; None takes the newest supported format.
        force_cache_sync: Whether to download remote files again that are already cached.
        download_videos: Whether to download videos; without them, samples cannot be read.
        use_imagenet_stats: Whether policies get ImageNet's mean and std for RGB cameras.
        depth_output_unit: Unit of depth images and their statistics, "mm" or "m".
        non_finite: What to do about frames whose actions, observations or rewards have NaN or
            infinity: "error" refuses the dataset, "drop" leaves the frames out, and "keep" keeps
            them.
        image_size: Height and width in pixels that camera images are resized to in the loaders, as
            the policy with the same `image_size` would do it on its device; None keeps their size.
        val_split: Fraction of the episodes to hold out for validation, in [0, 1).
        val_split_seed: Seed that decides which episodes are held out.
        pin_memory: Whether to put batches into page-locked memory; "auto" does if CUDA is
            available.
        persistent_workers: Whether loader processes are kept from one epoch to the next.

    Attributes:
        train_dataset: Episodes to train on, with `image_transforms`; None before `setup`.
        val_dataset: Held-out episodes; None before `setup` and without `val_split`.
        test_dataset: Held-out episodes, or all of them without `val_split`; never transformed.
        predict_dataset: The same dataset as `test_dataset`.

    Raises:
        DatasetError: An argument is out of range, or neither `repo_id` nor `root` is given.
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
        depth_output_unit: DepthUnit = "mm",
        non_finite: NonFinite = "error",
        image_size: tuple[int, int] | None = None,
        val_split: float = 0.0,
        val_split_seed: int = 0,
        pin_memory: bool | Literal["auto"] = "auto",
        persistent_workers: bool = True,
    ) -> None:
        super().__init__()
        arguments.check_given(repo_id, root)
        sizes = {"train_batch_size": train_batch_size, "val_batch_size": val_batch_size}
        arguments.check_counts(val_split, num_workers, **sizes)
        arguments.check_options(depth_output_unit, non_finite)
        # Plain values, for hparams.yaml.
        root = None if root is None else str(root)
        episodes = None if episodes is None else arguments.plain_episodes(episodes)
        delta_timestamps = arguments.plain_deltas(delta_timestamps)
        self.repo_id = repo_id
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
        self.depth_output_unit = depth_output_unit
        self.non_finite = non_finite
        self.image_size = arguments.plain_size(image_size)
        self.val_split = val_split
        self.val_split_seed = val_split_seed
        self.pin_memory = pin_memory
        self.persistent_workers = persistent_workers
        self.train_dataset: LeRobotDataset | None = None
        self.val_dataset: LeRobotDataset | None = None
        self.test_dataset: LeRobotDataset | None = None
        self.predict_dataset: LeRobotDataset | None = None
        self._shuffle_seed: int | None = None
        self._identity = ""
        # Lightning refuses a run in which policy and datamodule have a hyperparameter of the same
        # name with different values. Policies have two of these too, so they are left out here.
        self.save_hyperparameters(ignore=["image_transforms", "use_imagenet_stats", "image_size"])

    def prepare_data(self) -> None:
        """Download the files that are missing. Lightning calls this in one process per node.

        The videos of a dataset on a URL come later: when a batch needs them, and behind training.

        Raises:
            DatasetError: The dataset cannot be downloaded.
        """
        source = Source(self.repo_id, self.root, self.revision, refresh=self.force_cache_sync)
        if source.remote:
            fetch_dataset(
                source, self.episodes, download_videos=self.download_videos, check_space=True
            )

    def setup(self, stage: str | None = None) -> None:  # noqa: ARG002 - Lightning's signature
        """Open the datasets. Every rank opens the same ones.

        Args:
            stage: Ignored, because every stage uses the same data.

        Raises:
            DatasetError: The dataset is invalid, or `val_split` leaves no episode for training.
        """
        self._shuffle_seed = None  # each fit draws one, unless a checkpoint is loaded after this
        if self.train_dataset is not None:
            return
        train_episodes, val_episodes = self._split()
        whole = self._open()  # once, so that training and validation share its rows
        self._identity = identity_of(whole.root)
        if val_episodes:
            self.val_dataset = copy.copy(whole)
            self.val_dataset.keep_episodes(val_episodes)
            whole.keep_episodes(train_episodes)
        self.test_dataset = self.predict_dataset = self.val_dataset or copy.copy(whole)
        whole.image_transforms = self.image_transforms
        self.train_dataset = whole

    def state_dict(self) -> dict[str, int | str]:
        """Return the state to save in a checkpoint.

        Returns:
            "shuffle_seed" and "dataset", or nothing before the first training loader is made.
        """
        if self._shuffle_seed is None:
            return {}
        return {"shuffle_seed": self._shuffle_seed, "dataset": self._identity}

    def load_state_dict(self, state_dict: dict[str, int | str]) -> None:
        """Continue the shuffling of a checkpoint, and warn if it is of another dataset.

        Args:
            state_dict: State that `state_dict` returned in that run.
        """
        self._shuffle_seed = int(state_dict["shuffle_seed"])
        if self.trainer is None or self.trainer.state.fn == TrainerFn.FITTING:
            warn_if_changed(str(self.root or self.repo_id), self._identity, state_dict)

    def train_dataloader(self) -> Loader:
        """Return the training loader, which shuffles and drops an incomplete last batch.

        Returns:
            A loader of batches, each a dict of stacked samples.

        Raises:
            DatasetError: The frames are too few for one batch on every rank.
        """
        dataset = _ready(self.train_dataset)
        ranks = self.trainer.world_size if self.trainer is not None else 1
        arguments.check_frames(len(dataset), ranks, self.train_batch_size)
        sampler = self._sampler(dataset)
        return ResumableLoader(
            dataset,
            seed=sampler.seed,
            sampler=sampler,
            drop_last=True,
            **self._loader_options(dataset, self.train_batch_size),
        )

    def val_dataloader(self) -> Loader | list[Loader]:
        """Return the validation loader.

        Returns:
            A loader of batches. Without `val_split` an empty list, for which Lightning skips
            validation.

        Raises:
            DatasetError: `Trainer.validate` was called, and there is no validation data.
        """
        if self.val_dataset is None:
            if self.trainer is not None and self.trainer.state.fn == TrainerFn.VALIDATING:
                msg = (
                    "there is no validation data. Hold out episodes with val_split=0.1, or use "
                    "`test`, which reads all episodes if val_split is 0."
                )
                raise DatasetError(msg)
            silence_empty_validation_warning()
            return []
        return self._loader(self.val_dataset)

    def test_dataloader(self) -> Loader:
        """Return the test loader, which neither shuffles nor transforms.

        Returns:
            A loader of batches, each a dict of stacked samples.
        """
        return self._loader(_ready(self.test_dataset))

    def predict_dataloader(self) -> Loader:
        """Return the prediction loader, which neither shuffles nor transforms.

        Returns:
            A loader of batches, each a dict of stacked samples.
        """
        return self._loader(_ready(self.predict_dataset))

    def _split(self) -> tuple[list[int], list[int]]:
        if not self.val_split:
            return [], []
        metadata = fetch_metadata(Source(self.repo_id, self.root, self.revision))
        return split_episodes(metadata, self.episodes, self.val_split, self.val_split_seed)

    def _open(self) -> LeRobotDataset:
        return LeRobotDataset(
            self.repo_id,
            self.root,
            self.episodes,
            delta_timestamps=self.delta_timestamps,
            tolerance_s=self.tolerance_s,
            revision=self.revision,
            download_videos=self.download_videos,
            use_imagenet_stats=self.use_imagenet_stats,
            depth_output_unit=self.depth_output_unit,
            non_finite=self.non_finite,
            image_size=self.image_size,
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
            else:  # each rank sees all the data, in its own order
                seed += self.trainer.global_rank
        sampler, ranks = EpochSampler(dataset, seed=seed, **share), ranks_of_node()
        sampler.on_pass = lambda passed: self._expect(dataset, sampler.upcoming, passed, ranks)
        return sampler

    def _expect(self, dataset: LeRobotDataset, order: Callable[..., Any], *args: int) -> None:
        is_first = self.trainer is None or self.trainer.local_rank == 0
        if is_first and keeps_methods(dataset, LeRobotDataset, "__getitem__", "__len__"):
            dataset.expect(lambda: order(*args))

    def _loader(self, dataset: LeRobotDataset) -> Loader:
        # Without its own generator, each iterator would draw from the global one, and the random
        # numbers of training would depend on how often this process has validated.
        generator = torch.Generator()
        self._expect(dataset, lambda: torch.arange(len(dataset)))
        options = self._loader_options(dataset, self.val_batch_size)
        is_whole = isinstance(options["collate_fn"], WholeBatches)
        return (BatchLoader if is_whole else DataLoader)(dataset, generator=generator, **options)

    def _loader_options(self, dataset: LeRobotDataset, batch_size: int) -> dict[str, Any]:
        collate, num_workers = self._collate(dataset), self.num_workers
        if num_workers == "auto":
            size = dataset.bytes_per_sample(collate) if isinstance(dataset, LeRobotDataset) else 0
            num_workers = auto_workers(batch_size * size)
        pin_memory = torch.cuda.is_available() if self.pin_memory == "auto" else self.pin_memory
        return {
            "batch_size": batch_size,
            "collate_fn": collate,
            "num_workers": num_workers,
            "pin_memory": pin_memory,
            "persistent_workers": self.persistent_workers and num_workers > 0,
        }

    def _collate(self, dataset: LeRobotDataset) -> Collate | None:
        keys = object_keys(dataset)
        # A subclass with samples of its own is read sample by sample.
        if not keeps_methods(dataset, LeRobotDataset, "__getitem__"):
            return Collate(keys) if keys else None
        trainer = self.trainer
        is_running = trainer is not None and trainer.state.status == TrainerStatus.RUNNING
        # Only a Trainer moves batches to a device, where their images become numbers.
        if trainer is None or not is_running or sees_batches_before_transfer(trainer):
            return WholeBatches(keys)
        return WholeBatches(keys, input_dtype(trainer))


def _ready(dataset: LeRobotDataset | None) -> LeRobotDataset:
    if dataset is None:
        msg = "the datamodule has no data yet. Call setup() before you ask for a loader."
        raise DatasetError(msg)
    return dataset
