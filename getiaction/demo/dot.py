"""The dot dataset: small, made on the spot, and learnable only by looking at the image."""

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

    A dot starts anywhere on a square of 512 x 512 units and spirals to a goal elsewhere, with
    noise, in 30 to 60 frames at 10 frames per second. "observation.image" shows dot and goal,
    "observation.state" (2,) is the dot's position and "action" (2,) the position it aims at next.
    The goal is in the image only: on 100 episodes with chunks of 10 actions, holding the state has
    a normalised L1 of about 0.24, the best linear function of state and goal 0.09.

    Args:
        root: Local folder to make; it appears when it is complete.
        num_episodes: Number of episodes.
        image_size_px: Height and width of the image in pixels, even.
        seed: The same seed gives the same episodes.

    Returns:
        `root` as a path.

    Raises:
        DatasetError: `root` exists, or an argument is out of range.
    """
    root = Path(root)
    if num_episodes < 1:
        msg = f"num_episodes={num_episodes} makes no dataset. Use 1 or more."
        raise DatasetError(msg)
    if image_size_px < MIN_IMAGE_SIZE_PX or image_size_px % 2:
        msg = f"image_size_px={image_size_px} cannot be encoded. Use an even number from 16 on."
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
    """The dot dataset, written at first use.

    Args:
        num_episodes: Number of episodes.
        image_size_px: Height and width of the image in pixels, even.
        seed: The same seed gives the same episodes.
        root: Local folder; default one in the cache (`GETIACTION_CACHE`) per set of arguments.
        train_batch_size: Samples per training batch and rank.
        val_batch_size: Samples per validation batch; default that of training.
        num_workers: Loader processes per rank: see `LeRobotDataModule`.
        image_transforms: Called with each camera tensor of a training sample.
        val_split: Share of the episodes that is held out for validation, in [0, 1).
        val_split_seed: Seed of the choice of held-out episodes.
        pin_memory: Put batches into page-locked memory; "auto" does where there is CUDA.
        persistent_workers: Keep loader processes between epochs.

    Raises:
        DatasetError: An argument is out of range.
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
            msg = f'root="{root}" is a URL, and the dot dataset is written locally. Use a folder.'
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
        """Write the dataset if it is not there.

        Raises:
            DatasetError: The folder holds a dataset of other arguments.
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
                f"{wanted[1]}. Name another root, or remove it first: rm -r {root}"
            )
            raise DatasetError(msg)


def _simulate(rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """Return one episode's states (T, 2), actions (T, 2) and goal (2,)."""
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
    """Return (T, size_px, size_px, 3) RGB frames: a green goal, and a blue dot over it."""
    pixel = WORLD_SIZE / size_px
    axis = ((np.arange(size_px) + 0.5) * pixel).astype(np.float32)
    frames = np.full((len(states), size_px, size_px, 3), 255, np.float32)
    goals = np.broadcast_to(goal, states.shape)
    for centres, radius, rgb in ((goals, 40, (60, 180, 90)), (states, 24, (40, 70, 200))):
        x, y = (centres[:, i, None].astype(np.float32) - axis for i in (0, 1))
        distance = np.hypot(x[:, None, :], y[:, :, None])
        cover = np.clip((radius - distance) / pixel + 0.5, 0, 1)[..., None]
        frames += cover * (np.array(rgb, np.float32) - frames)
    return frames.round().astype(np.uint8)


def _columns(states: Array, actions: Array, goal: Array) -> dict[str, Array]:
    """Return the rows of one episode: per feature (T,) or (T, 2)."""
    after = np.linalg.norm(np.append(states[1:], states[-1:], axis=0) - goal, axis=1)
    return {
        "observation.state": states,
        "action": actions,
        "next.reward": np.clip(1 - after / WORLD_SIZE, 0, 1).astype(np.float32),
        "next.done": np.arange(len(states)) == len(states) - 1,
        "next.success": after < GOAL_RADIUS,
    }
