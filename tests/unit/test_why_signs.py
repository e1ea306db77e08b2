"""What the words of errors mean, as Python, torch, CUDA, NCCL and storage write them."""

import pytest

from getiaction_launch.launch.why.frames import quoted, user_frame
from getiaction_launch.launch.why.signs import SIGNS, Category, meaning

LOADER = "RuntimeError: DataLoader worker (pid 7) is killed by signal: "
NCCL = (
    "DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:2251, remote process exited or there "
    "was a network error, NCCL version 2.21.5\nncclRemoteError: A call failed"
)
GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534] "
MEANT = [
    (
        Category.GPU_MEMORY,
        "OutOfMemory: OutOfMemoryError: CUDA out of memory. Tried to allocate 2 G",
    ),
    (Category.GPU_MEMORY, "RuntimeError: CUDA error: out of memory"),
    (Category.GPU_MEMORY, "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cubl"),
    (
        Category.SHARED_MEMORY,
        f"{LOADER}Bus error. It is possible that dataloader's workers are out",
    ),
    (Category.SHARED_MEMORY, "WorkerDied: the worker was killed by SIGBUS"),
    (Category.SHARED_MEMORY, "RuntimeError: unable to mmap 8 bytes from file </torch_1_2>: x (12)"),
    (Category.DISK, "OSError: Not enough free space to write 536870912 bytes after offset 128"),
    (Category.DISK, "OSError: [Errno 28] No space left on device: '/scratch/a.ckpt'"),
    (Category.DISK, "OSError: [Errno 122] Disk quota exceeded"),
    (Category.DISK, "OSError: [Errno 116] Stale file handle"),
    (
        Category.DISK,
        "RuntimeError: PytorchStreamWriter failed writing file data/3: file write fail",
    ),
    (
        Category.DISK,
        "RuntimeError: [enforce fail at inline_container.cc:595] . unexpected pos 4 vs 3",
    ),
    (Category.DISK, "CheckError: no checkpoint could be saved in 30 minutes: Disk quota exceeded"),
    (
        Category.HOST_MEMORY,
        "OutOfMemory: the worker was killed by SIGKILL because its memory limit was reached",
    ),
    (Category.HOST_MEMORY, "OutOfMemory: MemoryError: "),
    (Category.HOST_MEMORY, "OSError: [Errno 12] Cannot allocate memory"),
    (Category.HOST_MEMORY, f"{LOADER}Killed. "),
    (Category.HOST_MEMORY, "OutOfMemory: Ray ended the node's processes because memory ran low"),
    (Category.STORAGE, "StorageError: s3://b/r: Access Denied."),
    (Category.STORAGE, "ClientError: An error occurred (SlowDown) when calling the PutObject oper"),
    (Category.STORAGE, "storage failed: s3://b/r: the server does not answer"),
    (
        Category.STORAGE,
        'EndpointConnectionError: Could not connect to the endpoint URL: "http://x/"',
    ),
    (Category.STORAGE, "CheckError: no checkpoint could be uploaded in 30 minutes: denied"),
    (
        Category.DOWNLOAD,
        "URLError: <urlopen error [Errno -3] Temporary failure in name resolution>",
    ),
    (
        Category.DOWNLOAD,
        "LocalEntryNotFoundError: Cannot find the file on the Hub and no copy here",
    ),
    (Category.DOWNLOAD, "ConnectionError: HTTPSConnectionPool(host='huggingface.co', port=443)"),
    (Category.ENVIRONMENT, "ModuleNotFoundError: No module named 'lerobot'"),
    (Category.ENVIRONMENT, "ImportError: libGL.so.1: cannot open shared object file: No such file"),
    (Category.ENVIRONMENT, "OSError: /lib/x.so: version `GLIBC_2.34' not found (required by y.so)"),
    (Category.ENVIRONMENT, "RuntimeError: The NVIDIA driver version is insufficient for CUDA"),
    (Category.CODE, "RuntimeError: CUDA error: device-side assert triggered"),
    (Category.GPU, "RuntimeError: CUDA error: uncorrectable ECC error encountered"),
    (Category.GPU, "RuntimeError: No CUDA GPUs are available"),
    (Category.NETWORK, "UnreachableError: n2 cannot reach the node of rank 0 at n1:20001"),
    (Category.NETWORK, "RuntimeError: The server socket has failed: EADDRINUSE, address in use"),
    (
        Category.NETWORK,
        "RuntimeError: [gloo/gloo/transport/tcp/device.cc] ifname eth9: Unable to f",
    ),
    (Category.NATIVE, "WorkerDied: the worker was killed by SIGSEGV"),
    (Category.NATIVE, "WorkerDied: the worker was killed by SIGABRT"),
    (Category.NATIVE, f"{LOADER}Segmentation fault. "),
    (
        Category.KILLED,
        "WorkerDied: the worker was killed by SIGKILL, often because the machine ran out of memory",
    ),
    (Category.START, "FileNotFoundError: the node could not start its workers: [Errno 2] No such"),
    (Category.START, "CheckError: node n2 does not see /data/run."),
    (Category.SPEC, "SpecError: model.init_args.chunk_size: Expected a int"),
    (Category.SPEC, "MisconfigurationException: No supported gpu backend found!"),
    (Category.STALL, "Stalled: rank 3 on node 1 is fetching a batch since step 12"),
    (Category.CODE, "ValueError: no such gripper"),
    (Category.CODE, "KeyError: 'observation.state'"),
    (Category.CODE, "KeyError: 'igloo'"),
    (Category.CODE, "WorkerDied: the worker exited with code 3 and no exception"),
    (Category.CODE, "SystemExit: exit code 3"),
]
ECHOES = [
    NCCL,
    f"RuntimeError: {GLOO}Connection closed by peer [10.0.0.2]:41231",
    f"RuntimeError: {GLOO}Timed out waiting 1800000ms for recv operation to complete",
    "RuntimeError: Application timeout caused pair closure",
    "DistNetworkError: The client socket has timed out after 60000ms while trying to connect to",
    "DistStoreError: Timed out after 61 seconds waiting for clients. 1/2 clients joined.",
    "BrokenPipeError: [Errno 32] Broken pipe",
    "ConnectionResetError: [Errno 104] Connection reset by peer",
    "RayActorError: The actor died unexpectedly before finishing this task.",
]
LOGS = [
    (
        Category.SHARED_MEMORY,
        False,
        "ERROR: Unexpected bus error encountered in worker. This might",
    ),
    (Category.NETWORK, True, "[rank1]:[E] Watchdog caught collective operation timeout: WorkNCCL("),
    (Category.DISK, False, "cp: error writing 'x': No space left on device"),
    (Category.NATIVE, False, "training"),
    (Category.NATIVE, False, "ERROR: Unexpected segmentation fault encountered in worker."),
    (Category.NATIVE, False, "Fatal Python error: Segmentation fault\n\nCurrent thread 0x1"),
]


@pytest.mark.parametrize(("category", "summary"), MEANT, ids=lambda value: str(value)[:50])
def test_error_has_a_category(category, summary):
    """Whose fault it is follows from its words, and it is nobody's echo."""
    found = meaning(summary)
    assert (found.category, found.is_echo) == (category, False)


@pytest.mark.parametrize("summary", ECHOES, ids=lambda summary: summary[:40])
def test_lost_connection_is_an_echo(summary):
    """A rank says so because another one is gone."""
    found = meaning(summary)
    assert (found.category, found.is_echo) == (Category.NETWORK, True)


@pytest.mark.parametrize(("category", "is_echo", "log"), LOGS)
def test_log_says_what_a_signal_cannot(category, is_echo, log):
    """Where a worker was killed by a signal, the end of its log counts."""
    found = meaning("WorkerDied: the worker was killed by SIGABRT", log)
    assert (found.category, found.is_echo) == (category, is_echo)
    assert meaning("ValueError: no such gripper", log).category is Category.CODE


def test_every_sign_has_an_example():
    """No sign of the table is left untried."""
    firsts = {next(s for s in SIGNS if s.fits(text)) for _, text in MEANT if _has_sign(text)}
    firsts |= {next(s for s in SIGNS if s.fits(text)) for text in ECHOES}
    assert firsts == set(SIGNS)


def _has_sign(text: str) -> bool:
    return any(sign.fits(text) for sign in SIGNS)


IN_A_LIBRARY = """Traceback (most recent call last):
  File "/opt/getiaction_launch/worker/worker.py", line 48, in main
    run_plan(plan)
  File "/home/me/act/train.py", line 31, in <module>
    trainer.fit(model)
  File "/home/me/.venv/lib/python3.11/site-packages/lightning/pytorch/trainer.py", line 5, in fit
    call()
  File "/home/me/act/policy.py", line 8, in training_step
    loss = mse(a, b)
  File "/home/me/.venv/lib/python3.11/site-packages/torch/nn/functional.py", line 9, in mse
    raise ValueError
ValueError: sizes
"""


def test_last_frame_of_the_user_is_named():
    """It is neither the raising library's, nor Lightning's, nor the launcher's."""
    assert user_frame(IN_A_LIBRARY, "/home/me/act") == "policy.py:8 in training_step"
    assert user_frame(IN_A_LIBRARY, "/else") == "/home/me/act/policy.py:8 in training_step"


def test_frame_in_a_process_of_a_loader_is_named():
    """Its traceback is part of the error's message."""
    text = (
        "Caught ValueError in DataLoader worker process 0.\nOriginal Traceback (most recent call "
        'last):\n  File "/x/site-packages/torch/fetch.py", line 5, in fetch\n    pass\n'
        '  File "/home/me/data.py", line 7, in __getitem__\n    raise ValueError\nValueError: x'
    )
    assert user_frame(text, "/home/me") == "data.py:7 in __getitem__"


def test_frame_of_a_crash_in_compiled_code_is_named():
    """A stack of faulthandler has its newest frame first."""
    text = (
        "Fatal Python error: Segmentation fault\nCurrent thread 0x1 (most recent call first):\n"
        '  File "/usr/lib/python3.11/ctypes/__init__.py", line 519 in string_at\n'
        '  File "/home/me/camera.py", line 4 in grab\n'
        '  File "/home/me/train.py", line 9 in <module>'
    )
    assert user_frame(text, "/home/me") == "camera.py:4 in grab"


def test_run_of_a_spec_names_the_frame_of_its_policy():
    """No code is the user's there; and where there is no frame at all, nothing is said."""
    text = (
        'File "/opt/getiaction_launch/worker/worker.py", line 4, in main\n'
        '  File "/opt/getiaction/policies/act.py", line 5, in forward\n'
        '  File "/x/site-packages/torch/a.py", line 6, in call'
    )
    assert user_frame(text, "/") == "opt/getiaction/policies/act.py:5 in forward"
    assert user_frame("ValueError: x", "/") is None


def test_quote_starts_at_the_users_frame():
    """What is shown of a long traceback has that frame and the error itself."""
    lines = quoted(IN_A_LIBRARY, 12)
    assert lines[0] == '  File "/home/me/act/policy.py", line 8, in training_step'
    assert lines[-1] == "ValueError: sizes"
    deep = IN_A_LIBRARY.replace("ValueError: sizes", "    more\n" * 40 + "ValueError: sizes")
    lines = quoted(deep, 12)
    assert len(lines) == 12
    assert (lines[0], lines[-1]) == (
        '  File "/home/me/act/policy.py", line 8, in training_step',
        "ValueError: sizes",
    )
