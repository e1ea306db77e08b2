"""The dot dataset: small, generated in seconds, and learnable only from the image."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray

from getiaction.data.errors import DatasetError
from getiaction.data.lerobot import LeRobotDataModule
from getiaction.data.metadata import read_metadata
from getiaction.data.source import cache_dir
from getiaction.demo.writer import write_dataset

FPS = 10
WORLD_SIZE = 512.0
MAX_FRAMES = 60
GOAL_RADIUS = 12.0
MIN_IMAGE_SIZE_PX = 16
FEATURES: dict[str, dict[str, Any]] = {
    "observation.state": {"dtype": "float32", "shape": [2], "names": ["x", "y"]},
    "action": {"dtype": "float32", "shape": [2], "names": ["x", "y"]},
    "next.reward": {"dtype": "float32", "shape": [1], "names": None},
    "next.done": {"dtype": "bool", "shape": [1], "names": None},
    "next.success": {"dtype": "bool", "shape": [1], "names": None},
}

Array = NDArray[Any]


def write_dot_dataset(
    root: str | os.PathLike[str], *, num_episodes: int = 20, image_size_px: int = 64, seed: int = 0
) -> Path:
    """Write a LeRobot v3.0 dataset in which a dot moves to a goal.

    In each episode a dot starts somewhere on a square of 512 x 512 units and spirals, with noise,
    to a goal elsewhere, in 30 to 60 frames at 10 frames per second. "observation.image" shows the
    dot and the goal, "observation.state" (2,) is the dot's position, and "action" (2,) is the
    position that it aims at next. The goal is visible in the image only: on 100 episodes with
    chunks of 10 actions, repeating the state has a normalised L1 error of about 0.24, and the best
    linear function of state and goal one of 0.09.

    Args:
        root: Local folder to write; it appears only when it is complete.
        num_episodes: Number of episodes to write.
        image_size_px: Height and width of the images in pixels; an even number from 16.
        seed: Seed of all random numbers; the same seed writes the same episodes.

    Returns:
        The `root` argument as a path.

    Raises:
        DatasetError: `root` exists, or an argument is out of range.
    """
    root = Path(root)
    if num_episodes < 1:
        msg = f"num_episodes must be at least 1, got {num_episodes}."
        raise DatasetError(msg)
    if image_size_px < MIN_IMAGE_SIZE_PX or image_size_px % 2:
        msg = (
            f"image_size_px must be an even number of at least {MIN_IMAGE_SIZE_PX}, got "
            f"{image_size_px}."
        )
        raise DatasetError(msg)
    root.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    simulated = (_simulate(rng) for _ in range(num_episodes))
    write_dataset(
        root,
        (
            (_draw(states, goal, image_size_px), _columns(states, actions, goal))
            for states, actions, goal in simulated
        ),
        fps=FPS,
        task="Move the dot to the goal.",
        camera="observation.image",
        image_size_px=image_size_px,
        features=FEATURES,
        robot_type="dot",
    )
    return root


class DotDataModule(LeRobotDataModule):
    """The dot dataset (see `write_dot_dataset`) as a datamodule, which writes it on first use.

    Args:
        num_episodes: Number of episodes to write.
        image_size_px: Height and width of the images in pixels; an even number from 16.
        seed: Seed of all random numbers; the same seed writes the same episodes.
        root: Local folder of the dataset; None takes a folder in the cache (`GETIACTION_CACHE`),
            one for each combination of the arguments above.
        train_batch_size: Number of samples in a training batch of one rank.
        val_batch_size: Number of samples in a validation, test or prediction batch of one rank;
            None takes `train_batch_size`.
        num_workers: Number of loader processes of each rank; "auto" follows the number of CPUs, as
            described in `LeRobotDataModule`.
        image_transforms: Function that is applied to each camera tensor of a training sample,
            (3, H, W) in [0, 1], or (T, 3, H, W) if the sample stacks T frames of that camera.
        val_split: Fraction of the episodes to hold out for validation, in [0, 1).
        val_split_seed: Seed that decides which episodes are held out.
        pin_memory: Whether to put batches into page-locked memory; "auto" does if CUDA is
            available.
        persistent_workers: Whether loader processes are kept from one epoch to the next.

    Raises:
        DatasetError: An argument is out of range, or `root` is a URL.
    """

    def __init__(
        self,
        *,
        num_episodes: int = 20,
        image_size_px: int = 64,
        seed: int = 0,
        root: str | os.PathLike[str] | None = None,
        train_batch_size: int = 16,
        val_batch_size: int | None = None,
        num_workers: int | Literal["auto"] = "auto",
        image_transforms: Callable[[torch.Tensor], Any] | None = None,
        val_split: float = 0.0,
        val_split_seed: int = 0,
        pin_memory: bool | Literal["auto"] = "auto",
        persistent_workers: bool = True,
    ) -> None:
        if root is not None and "://" in str(root):
            msg = f'root="{root}" is a URL, but the dot dataset is written locally. Use a folder.'
            raise DatasetError(msg)
        name = f"dot-{num_episodes}x{image_size_px}px-seed{seed}"
        root = str(cache_dir() / name if root is None else root)
        super().__init__(
            root=root,
            train_batch_size=train_batch_size,
            val_batch_size=val_batch_size,
            num_workers=num_workers,
            image_transforms=image_transforms,
            val_split=val_split,
            val_split_seed=val_split_seed,
            pin_memory=pin_memory,
            persistent_workers=persistent_workers,
        )
        self.num_episodes = num_episodes
        self.image_size_px = image_size_px
        self.seed = seed

    def prepare_data(self) -> None:
        """Write the dataset, unless it exists. Lightning calls this in one process per node.

        Raises:
            DatasetError: The folder holds a dataset that was written with other arguments.
        """
        root = Path(str(self.root))
        root.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{root}.lock"):
            if not root.exists():
                write_dot_dataset(
                    root,
                    num_episodes=self.num_episodes,
                    image_size_px=self.image_size_px,
                    seed=self.seed,
                )
        metadata = read_metadata(root)
        found = len(metadata.episodes), metadata.features.get("observation.image", {}).get("shape")
        wanted = self.num_episodes, (self.image_size_px, self.image_size_px, 3)
        if found != wanted:
            msg = (
                f"{root} holds {found[0]} episodes with images {found[1]}, not {wanted[0]} with "
                f"{wanted[1]}. Use another root, or remove this one first: rm -r {root}"
            )
            raise DatasetError(msg)


def _simulate(rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """Simulate one episode; return its states (T, 2), actions (T, 2) and goal (2,)."""
    position = goal = np.zeros(2)
    while np.linalg.norm(goal - position) < WORLD_SIZE * 0.4:
        position, goal = rng.uniform(WORLD_SIZE / 8, WORLD_SIZE * 7 / 8, (2, 2))
    states: list[Array] = []
    actions: list[Array] = []
    frames_at_goal = 0
    while len(states) < MAX_FRAMES and frames_at_goal < FPS / 2:
        offset = goal - position
        distance = float(np.linalg.norm(offset))
        turn = 0.65 * min(distance / 200, 1)
        rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
        step = rotation @ offset / distance * min(10, 0.22 * distance) + rng.normal(0, 1.5, 2)
        states.append(position)
        actions.append(position + step)
        position = np.clip(position + 0.8 * step + rng.normal(0, 0.75, 2), 0, WORLD_SIZE)
        frames_at_goal += distance < GOAL_RADIUS
    return np.array(states, np.float32), np.array(actions, np.float32), goal


def _draw(states: Array, goal: Array, size_px: int) -> NDArray[np.uint8]:
    """Draw a green goal and a blue dot; return RGB frames, (T, size_px, size_px, 3)."""
    pixel = WORLD_SIZE / size_px
    axis = ((np.arange(size_px) + 0.5) * pixel).astype(np.float32)
    frames = np.full((len(states), size_px, size_px, 3), 255, np.float32)
    goals = np.broadcast_to(goal, states.shape)
    for centres, radius, rgb in ((goals, 40, (60, 180, 90)), (states, 24, (40, 70, 200))):
        x, y = (centres[:, i, None].astype(np.float32) - axis for i in (0, 1))
        distance = np.hypot(x[:, None, :], y[:, :, None])
        cover = np.clip((radius - distance) / pixel + 0.5, 0, 1)[..., None]
        frames += cover * (np.array(rgb, np.float32) - frames)
    pixels: NDArray[np.uint8] = frames.round().astype(np.uint8)
    return pixels


def _columns(states: Array, actions: Array, goal: Array) -> dict[str, Array]:
    """Return the rows of one episode: (T,) or (T, 2) values for each feature."""
    after = np.linalg.norm(np.append(states[1:], states[-1:], axis=0) - goal, axis=1)
    return {
        "observation.state": states,
        "action": actions,
        "next.reward": np.clip(1 - after / WORLD_SIZE, 0, 1).astype(np.float32),
        "next.done": np.arange(len(states)) == len(states) - 1,
        "next.success": after < GOAL_RADIUS,
    }
