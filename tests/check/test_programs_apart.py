"""A program that trains by itself is run to its second step, apart, and leaves nothing behind."""

import os
import tempfile
from argparse import Namespace
from pathlib import Path

import psutil
import pytest
import torch

from getiaction_launch.checking.apart import layer, rank
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
WRITE = """
import ctypes, shutil
Path("runs/today").mkdir(parents=True)
os.makedirs("runs", exist_ok=True)
torch.save({"step": 1}, "runs/today/last.pt")
assert torch.load("runs/today/last.pt") == {"step": 1}
Path("notes.txt").write_text("new")
os.truncate("weights.pt", 0)
os.remove("old.pt")
os.rename("demos/a.npz", "demos/b.npz")
shutil.rmtree("cache")
os.mkdir("cache")
c = ctypes.CDLL(None)
assert c.truncate(b"config.json", 0) == 0
assert c.open(os.fsencode(OUTSIDE), os.O_WRONLY | os.O_CREAT, 0o600) == -1
"""
FITS = """
import os
import lab, lightning
os.makedirs('made'.strip())
lightning.Trainer(max_epochs=1).fit(lab.Net(), lab.Data())
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


def _has_layers() -> bool:
    with tempfile.TemporaryDirectory() as home, tempfile.TemporaryDirectory() as scratch:
        return layer._is_possible(Path(home), Path(scratch))


NEEDS_LAYER = pytest.mark.skipif(not _has_layers(), reason="Linux lends no layer here")


@pytest.fixture
def checked(judge, tmp_path, monkeypatch):
    """Check a program with some lines before it trains."""

    def checked(before="", words="train.py", head=HEAD, home=tmp_path):
        (home / "train.py").write_text(head + before + TRAIN)
        monkeypatch.chdir(home)
        return judge(words)

    return checked


def test_program_is_run_to_its_second_step(checked, tmp_path):
    """In its directory, with what a run has: a log that is a file, and a directory for the run."""
    (tmp_path / "demos/day").mkdir(parents=True)
    (tmp_path / "demos/day/a.npz").write_text("1")
    (tmp_path / "latest").symlink_to("demos/day")
    code, out, err = checked(
        "import faulthandler, sys, tempfile; faulthandler.enable(); sys.stderr.buffer.write(b'x')\n"
        "sys.stderr.reconfigure(line_buffering=True); os.fstat(sys.stderr.fileno())\n"
        "assert Path('demos').resolve().relative_to(Path.cwd()) == Path('demos')\n"
        "assert Path.cwd() == Path(__file__).resolve().parent\n"
        "assert open('../' + Path.cwd().name + '/latest/a.npz').read() == '1'\n"
        "(Path(os.environ['GETIACTION_RUN_DIR']) / 'config.json').write_text('{}')\n"
        "Path(tempfile.mkdtemp(), 'a.txt').write_text('x')\n",
        "--nodes 2 train.py",
    )
    assert code == 0, err
    assert "2 optimizer steps on the CPU, by two ranks" in out


def test_more_ranks_than_are_tried_join_as_two(judge):
    """A program may say itself how many ranks the run has."""
    code, out, err = judge("--nodes 3 own_rank.py --world-size 3")
    assert code == 0, out + err
    assert "2 optimizer steps on the CPU, by two ranks" in out


@pytest.mark.parametrize(
    ("before", "what", "fix"),
    [
        ("import torchh", "train.py", "torch"),
        ("main = dist.get_rank() == 0", "train.py:10 (main", "Call torch.distributed."),
        ("torch.ones(3) @ torch.ones(4)", "train.py:10", "see it fail"),
        ("parser.error('no demos')", "it ends with: train.py: error: no demos", "train.py --help"),
        ("open('demos/pick.npz')", "train.py:10", "see it fail"),
    ],
    ids=["module", "group", "shapes", "argument", "file"],
)
def test_program_that_fails_before_is_refused(checked, before, what, fix):
    """With its line and what it says."""
    code, _, err = checked(before)
    assert code == 2
    assert what in err
    assert fix in err


@pytest.mark.parametrize(
    "before",
    [
        "size = 256 // int(os.environ['WORLD_SIZE'])\nif size > 64: raise ValueError('a batch')",
        "gpus = torch.cuda.device_count()\n256 // gpus",
        "kind = [None] if not torch.cuda.is_available() else ['cuda']\nkind[0].upper()",
    ],
)
def test_what_may_be_right_for_several_ranks_is_no_refusal(checked, before):
    """Two ranks without a GPU are not the run: a doubt, or nothing if a GPU is in the line."""
    code, out, err = checked(before, "--nodes 4 train.py")
    assert code == 0, err
    assert "by two ranks on the CPU, it fails" in out
    assert ("doubtful" in out) == ("gpus" not in before)


@pytest.mark.parametrize(
    ("before", "why"),
    [
        ("open('train.py', 'a').write('#')", "a check does not write"),
        ("torch.save({}, 'old.pt')", "a check does not write"),
        ("os.makedirs('out', exist_ok=True)", "a check does not write"),
        ("os.chown('old.pt', os.getuid(), os.getgid())", "a check does not write"),
        ("os.setxattr('old.pt', 'user.x', b'x')", "a check does not write"),
        ("Path('/dev/shm/of_check').mkdir()", "a check does not write"),
        ("os.open('/dev/ttyUSB0', os.O_RDWR)", "a check does not write /dev/ttyUSB0"),
        (
            (
                "import subprocess\ntry: out = subprocess.check_output('id')\n"
                "except OSError: out = None\nlen(out)"
            ),
            "a check does not start another program",
        ),
        (
            (
                "from multiprocessing.shared_memory import SharedMemory\n"
                "SharedMemory('of_check', True, 8)"
            ),
            "make shared memory with a name",
        ),
        (
            "import multiprocessing.util as u\nu.spawnv_passfds(b'x', [], [])",
            "start another program",
        ),
        ("os._exit(0)", "the process that runs the script has exited with code 0"),
        ("raise SystemExit", "ends without an optimizer step"),
    ],
)
def test_what_a_check_does_not_do_refuses_nothing(checked, tmp_path, monkeypatch, before, why):
    """What is there stays as it is, and nothing is left behind; here Linux lends no layer."""
    monkeypatch.setattr(rank, "cover", lambda *_: [])
    (tmp_path / "old.pt").write_text("old")
    code, out, err = checked(before)
    assert code == 0, err
    assert why in out
    assert (tmp_path / "old.pt").read_text() == "old"
    assert (tmp_path / "train.py").read_text() == HEAD + before + TRAIN
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old.pt", "train.py"]
    assert not list(Path("/dev/shm").glob("of_check"))  # noqa: S108 - the kernel's own folder


@NEEDS_LAYER
def test_what_a_program_writes_in_its_directory_vanishes_with_it(checked, tmp_path, monkeypatch):
    """It finds there what it has written; afterwards all is as before, also among its mounts."""
    temporary = tmp_path / "temporary"
    home = tmp_path / "home, with: odd\\ name"
    for folder in ("demos", "cache"):
        (home / folder).mkdir(parents=True)
    for name in ("notes.txt", "weights.pt", "old.pt", "demos/a.npz", "cache/b", "config.json"):
        (home / name).write_text(name)
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    before, mounts = _content(home), Path("/proc/self/mountinfo").read_text()
    outside = f"OUTSIDE = {str(tmp_path / 'outside.txt')!r}"
    code, out, err = checked(outside + WRITE, home=home)
    assert code == 0, err
    assert "2 optimizer steps on the CPU" in out
    assert _content(home) == before | {"train.py": HEAD + outside + WRITE + TRAIN}
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert not [*temporary.iterdir(), *tmp_path.glob("outside.txt")]


def _content(directory):
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_text() for path in files}


@NEEDS_LAYER
@pytest.mark.parametrize("script", ["train.py", "fits.py"])
def test_directory_that_each_rank_makes_is_refused(checked, tmp_path, script):
    """The ranks of a trial share what they write, as those of the run do."""
    (tmp_path / "fits.py").write_text(FITS)
    code, _, err = checked("os.makedirs('made'.strip())", f"--nodes 3 {script}")
    assert code == 2
    assert "os.makedirs('made'.strip())" in err
    assert "exist_ok=True" in err


SAVE = """
net = torch.nn.Linear(8, 2)
if os.path.exists("last.pt"):
    net.load_state_dict(torch.load("last.pt"))
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
for epoch in range(2):
    for step in range(2):
        net(torch.ones(4, 8)).sum().backward()
        optimizer.step()
    torch.save(SAVED, "last.pt")
"""


@NEEDS_LAYER
@pytest.mark.parametrize(
    ("saved", "fix"),
    [
        ("net.state_dict()", ""),
        ("{f'module.{k}': v for k, v in net.state_dict().items()}", "model.module.state_dict()"),
        ("{'args': args}", "vars(args)"),
    ],
)
def test_restart_that_fails_is_refused(judge, tmp_path, monkeypatch, saved, fix):
    """A program that loads something is run once more with what it has saved."""
    (tmp_path / "train.py").write_text(HEAD + SAVE.replace("SAVED", saved))
    monkeypatch.chdir(tmp_path)
    code, out, err = judge("train.py")
    assert code == (2 if fix else 0)
    assert ("a restart fails: train.py:13" in out) == bool(fix)
    assert fix in err


@pytest.fixture
def in_place(tmp_path, monkeypatch):
    """A working directory of the test's own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


BEHIND = """
import json, pickle, yaml
torch.manual_seed(0)
dist.init_process_group("gloo")
net = DDP(torch.nn.Linear(8, 2))
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
losses = []
for x in torch.utils.data.DataLoader(torch.ones(32, 8), batch_size=4):
    loss = net(x).sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.detach())
    if len(losses) > 4:
        last = "last.pt"
dist.barrier()
state, plain = {"args": args, **net.state_dict()}, torch.nn.Linear(8, 2)
if dist.get_rank() == 0:
    """


@NEEDS_LAYER
@pytest.mark.parametrize(
    ("line", "what", "fix"),
    [
        ("plain.load_state_dict(net.state_dict())", "'module.'", "model.module.state_dict()"),
        ("net.load_state_dict(plain.state_dict())", "'module.'", "module.load_state_dict"),
        (
            (
                "torch.save({'_orig_mod.' + k: plain.get_parameter(k) for k in ('weight', 'bias')}"
                ", 'new.pt'); "
                "plain.load_state_dict(torch.load('new.pt'))"
            ),
            "'_orig_mod.'",
            "model._orig_mod.state_dict()",
        ),
        (
            "plain.load_state_dict({f'net.{k}': v for k, v in plain.state_dict().items()})",
            "'net.'",
            "name.removeprefix('net.')",
        ),
        ("torch.save(state, 'new.pt'); torch.load('new.pt')", "Weights only", "weights_only=False"),
        ("json.dump(losses, open('log.json', 'w'))", "JSON serializable", "value.item()"),
        ("yaml.safe_dump({'loss': losses[0]})", "cannot represent", "value.item()"),
        ("loss.numpy()", "requires grad", "loss.item()"),
        ("torch.save({'loss': lambda: loss}, 'new.pt')", "train.py:", "model.state_dict()"),
        ("import torchh", "torchh", "pip install torchh"),
        ("print(mean_loss)", "'mean_loss'", "see it fail"),
    ],
)
def test_what_no_number_of_batches_changes_is_refused_behind_the_loop(
    judge, in_place, line, what, fix
):
    """Names and types are what they would be after whole epochs."""
    (in_place / "train.py").write_text(HEAD + BEHIND + line)
    code, _, err = judge("--nodes 2 train.py")
    assert code == 2
    assert what in err
    assert fix in err


@NEEDS_LAYER
@pytest.mark.parametrize(
    "line",
    [
        "plain.load_state_dict(torch.load('old.pt'))",
        "torch.load('older.pt')",
        "plain.load_state_dict({'weight': plain.weight})",
        "print(losses[3])",
        "print(last)",
    ],
)
def test_what_whole_epochs_may_mend_is_a_doubt_behind_the_loop(judge, in_place, line):
    """As a file that is there before, which the run may write anew."""
    net = torch.nn.Linear(8, 2)
    torch.save({f"module.{name}": each for name, each in net.state_dict().items()}, "old.pt")
    torch.save({"args": Namespace(lr=0.1)}, "older.pt")
    (in_place / "train.py").write_text(HEAD + BEHIND + line)
    code, _, err = judge("--nodes 2 train.py")
    assert code == 0, err
    assert "in an epoch that is cut short, it fails: train.py" in err


@NEEDS_LAYER
def test_directory_with_mounts_or_temporary_files_is_not_covered(tmp_path):
    """An overlay would not show what is mounted below, nor may it keep its files in itself."""
    assert not layer.cover([Path("/dev"), tmp_path, Path("/proc/self")], tmp_path)


@pytest.mark.parametrize("detach", ["", "    if os.fork(): os._exit(0)\n"])
def test_what_a_program_has_started_ends_with_it(checked, tmp_path, detach):
    """Also a process that leads a group of its own, and one whose parent has ended."""
    code, out, err = checked(
        f"import time\nif os.fork() == 0:\n    os.setsid()\n{detach}"
        f"    try: open('{tmp_path}/up', 'w')\n    except OSError: pass\n"
        "    time.sleep(60)\n"
    )
    assert code == 0, err
    assert "2 optimizer steps" in out
    found = [each for each in psutil.process_iter() if _is_left(each, tmp_path)]
    _, left = psutil.wait_procs(found, timeout=10)  # what was killed a moment ago
    for each in left:
        each.kill()
    assert not left


def _is_left(process, directory):
    """Whether a process is another one, and in a directory."""
    try:
        is_other = process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE
        return is_other and process.cwd() == str(directory)
    except psutil.Error:
        return False


def test_program_is_not_run_where_the_kernel_does_not_help(checked, monkeypatch):
    """Linux before 5.13 has no Landlock."""
    monkeypatch.setattr("getiaction_launch.checking.apart.sandbox.forbid_writing", lambda _: False)
    code, out, _ = checked()
    assert code == 0
    assert "not checked  Linux has no Landlock here" in out


def test_program_that_takes_long_is_ended(checked, monkeypatch):
    """The limit is 20 seconds."""
    monkeypatch.setattr(program, "PLAIN_SECONDS", 0.01)
    code, out, _ = checked()
    assert code == 0
    assert "not checked  the script has not trained two batches within 0.01 s; --deep" in out
