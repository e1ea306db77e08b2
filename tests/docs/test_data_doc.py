"""docs/data.md: every command and every Python block of it runs, on data made on the spot."""

import re
import subprocess
import sys
from pathlib import Path

from reader import ONE_STEP, shell

PAGE = (Path(__file__).parents[2] / "docs/data.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
PYTHON = [code for kind, code in BLOCKS if kind == "python"]
FIT, MAKE = (code for kind, code in BLOCKS if kind == "bash")
# The line that the test adds to each block, and what the block then prints.
PRINTED = [
    ("print(datamodule.val_split)", r"0.1\n"),
    ("", r"torch.Size\(\[3, 16, 16\]\)\n.*\[2\]\)\n.*\[3, 2\]\)\ntensor\(\[F.*\nMove the dot .*\n"),
    ("print(next(iter(loader))['action'].shape)", r"torch.Size\(\[8, 2\]\)\n"),
    ("print(batch['observation.image'].shape)", r"torch.Size\(\[16, 3, 16, 16\]\)\n"),
    ("", r"\{'type': 'ACTION', 'shape': \[2\], 'mean': \[.*\n"),
    ("", r"\d{2,} \d{2,}\n"),
]


def test_python_blocks(tmp_path, shortened):
    """The blocks run one after the other and print what their comments say; see `shortened`."""
    ends = [
        f"{block}{added}\nprint('---')\n" for block, (added, _) in zip(PYTHON, PRINTED, strict=True)
    ]
    (tmp_path / "blocks.py").write_text("".join(ends))
    done = subprocess.run(
        [sys.executable, "blocks.py"],
        cwd=tmp_path,
        env=shortened | {"GETIACTION_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for found, (_, expected) in zip(done.stdout.split("---\n"), [*PRINTED, ("", "")], strict=True):
        assert re.fullmatch(expected, found)


def test_command_trains_with_a_validation_split(clone, shortened, monkeypatch):
    """The flags of the command reach the datamodule, and so do those that make images smaller."""
    sizes = " ".join(re.findall(r"`(--\w+\.image_size [^`]*)`", PAGE))
    assert len(sizes.split("--")) == 3
    for name, value in shortened.items():
        monkeypatch.setenv(name, value)
    result = shell(f"{FIT.strip()} {sizes}{ONE_STEP}", clone)
    assert result.returncode == 0, result.stderr
    (hparams,) = clone.glob("experiments/lightning_logs/version_0/hparams.yaml")
    assert "val_split: 0.1" in hparams.read_text()


def test_commands_make_a_dataset_and_train_on_it(clone):
    """The dataset is where the second command reads it."""
    result = shell(f"set -e\n{MAKE}", clone)
    assert result.returncode == 0, result.stderr
    assert (clone / "dot/meta/info.json").is_file()
    assert list(clone.glob("experiments/act_tiny/version_0/checkpoints/*.ckpt"))


def test_error_is_the_one_that_is_shown(clone):
    """The command of the page is answered with the page's words."""
    (shown,) = (code for kind, code in BLOCKS if code.startswith("$ "))
    command, _, answer = shown.removeprefix("$ ").partition("\n")
    result = shell(command, clone)
    assert result.returncode == 2
    assert result.stderr.endswith(answer)
