"""Write a LeRobot v3.0 dataset in which a dot moves to a goal: python make_dot_dataset.py ROOT."""

import argparse

from getiaction.data import DatasetError
from getiaction.demo import write_dot_dataset


def main() -> None:
    """Parse the command line and write the dataset."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", help="folder to write")
    parser.add_argument("--num-episodes", type=int, default=100, help="number of episodes to write")
    parser.add_argument(
        "--image-size-px", type=int, default=96, help="height and width of the images"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of all random numbers")
    args = parser.parse_args()
    try:
        root = write_dot_dataset(
            args.root,
            num_episodes=args.num_episodes,
            image_size_px=args.image_size_px,
            seed=args.seed,
        )
    except DatasetError as error:
        parser.error(str(error))
    print(f"Wrote {args.num_episodes} episodes to {root}")


if __name__ == "__main__":
    main()
