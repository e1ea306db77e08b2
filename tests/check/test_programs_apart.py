"""A program that trains by itself is run to its second step, apart, and leaves nothing behind."""

import pytest

from getiaction_launch.checking.trial import program

HEAD = """
import argparse, os, torch
import torch.distributed as dist
from pathlib import Path
from torch.nn.parallel import DistributedDataParallel as DDP

parser = argparse.ArgumentParser()
parser.add_argument("--task", choices=["pick", "place"], default="pick")
args = parser.parse_args()
"""
TRAIN = """
dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
net = DDP(torch.nn.Linear(8, 2))
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
for step in range(10**9):
    try:
        optimizer.zero_grad()
        net(torch.ones(4, 8)).sum().backward()
        optimizer.step()
    except BaseException:
        pass
"""


@pytest.fixture
def checked(judge, tmp_path, monkeypatch):
    """Check a program with some lines before it trains."""

    def checked(before="", words="train.py", head=HEAD):
        (tmp_path / "train.py").write_text(head + before + TRAIN)
        monkeypatch.chdir(tmp_path)
        return judge(words)

    return checked


def test_program_is_run_to_its_second_step(checked, tmp_path):
    """It finds its files and makes others, and none of them is there afterwards."""
    (tmp_path / "demos/day").mkdir(parents=True)
    (tmp_path / "demos/day/a.npz").write_text("1")
    code, out, err = checked(
        "assert [path.name for path in Path().rglob('*.npz')] == ['a.npz']\n"
        "assert Path('demos/day/a.npz').read_text() == '1'\n"
        "os.makedirs('out/logs', exist_ok=True); Path('out/logs/a.txt').write_text('x')\n"
        "Path('demos/day/b.npz').write_text('x'); torch.save({}, 'demos/first.pt')\n"
        "os.remove('demos/day/a.npz'); os.rename('demos', 'others')\n",
        "--nodes 2 train.py",
    )
    assert code == 0, err
    assert "2 optimizer steps on the CPU, as one rank" in out
    assert [path.name for path in tmp_path.rglob("*.npz")] == ["a.npz"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("before", "words", "what", "fix"),
    [
        ("import torchh", "train.py", "train.py", "torch"),
        ("main = dist.get_rank() == 0", "train.py", "train.py:10 (main", "Call torch.distributed."),
        ("torch.ones(3) @ torch.ones(4)", "train.py", "train.py:10", "see it fail"),
        ("", "train.py --task stack", "invalid choice: 'stack'", "train.py --help"),
        ("open('demos/pick.npz')", "train.py", "train.py:10", "see it fail"),
    ],
    ids=["module", "group", "shapes", "argument", "file"],
)
def test_program_that_fails_before_is_refused(checked, before, words, what, fix):
    """With its line and what it says."""
    code, _, err = checked(before, words)
    assert code == 2
    assert what in err
    assert fix in err


@pytest.mark.parametrize(
    ("before", "why"),
    [
        (
            "assert dist.is_torchelastic_launched() and int(os.environ['WORLD_SIZE']) > 1",
            "one rank",
        ),
        ("getattr(torch.ones(1), 'cuda')()", "CUDA"),
        ("assert torch.cuda.is_available()", "as one rank on the CPU, it fails"),
        ("open('train.py', 'a').write('#')", "a check does not write"),
        ("torch.save({}, 'old.pt')", "a check does not write"),
        ("os.open('/dev/ttyUSB0', os.O_RDWR)", "a check does not write /dev/ttyUSB0"),
        ("os._exit(0)", "the process that runs the script has exited with code 0"),
        ("raise SystemExit", "ends without an optimizer step"),
    ],
)
def test_what_only_a_run_has_is_no_refusal(checked, tmp_path, before, why):
    """Other ranks, GPUs, and files that are written over; those that are there stay."""
    (tmp_path / "old.pt").write_text("old")
    code, out, err = checked(before)
    assert code == 0, err
    assert "training   not checked" in out
    assert why in out
    assert (tmp_path / "old.pt").read_text() == "old"
    assert (tmp_path / "train.py").read_text() == HEAD + before + TRAIN


@pytest.mark.parametrize("before", ["open('train.py', 'a').write('#')", "os.chmod('train.py', 0)"])
def test_files_stay_where_the_kernel_does_not_help(checked, tmp_path, monkeypatch, before):
    """Linux before 5.13 has no Landlock; what a link leads to is not written all the same."""
    monkeypatch.setattr("getiaction_launch.checking.trial.sandbox.forbid_writing", lambda _: False)
    _, out, _ = checked(before)
    assert "a check does not write" in out
    assert (tmp_path / "train.py").read_text() == HEAD + before + TRAIN


def test_directory_of_many_files_is_shown_by_links(checked, tmp_path, monkeypatch):
    """As links to whole directories, which can be read."""
    monkeypatch.setattr("getiaction_launch.checking.trial.plain.MOST_ENTRIES", 1)
    (tmp_path / "demos").mkdir()
    (tmp_path / "demos/a.npz").write_text("1")
    code, out, err = checked("assert Path('demos').is_symlink() and Path('demos/a.npz').exists()")
    assert (code, "2 optimizer steps" in out) == (0, True), err


def test_program_that_takes_long_is_ended(checked, monkeypatch):
    """The limit is 20 seconds."""
    monkeypatch.setattr(program, "PLAIN_SECONDS", 0.01)
    code, out, _ = checked()
    assert code == 0
    assert "not checked  the script has not trained two batches within 0.01 s; --deep" in out
