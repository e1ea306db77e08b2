"""What the words of an error mean: whose fault it is, and whether it only follows from another one.

The table is tried from its top to its bottom, against ``Type: message`` of an error, and the first
sign that fits counts. Words of Python, torch, NCCL, gloo, CUDA and storage clients are matched as
their sources write them. What only a worker's log says has a table of its own.
"""

import re
from dataclasses import dataclass
from enum import Enum


class Category(str, Enum):
    """Whose fault the end of an attempt is."""

    CODE = "user code"
    SPEC = "spec"
    ENVIRONMENT = "environment"
    NATIVE = "native code"
    HOST_MEMORY = "host memory"
    GPU_MEMORY = "GPU memory"
    SHARED_MEMORY = "shared memory"
    GPU = "GPU"
    DISK = "disk"
    STORAGE = "storage"
    DOWNLOAD = "download"
    NETWORK = "network"
    START = "start of a node"
    NODE = "node"
    KILLED = "killed from outside"
    STALL = "stall"
    SLOW = "slow rank"
    TIME = "time limit"
    PREEMPTION = "preemption"
    CANCELLED = "cancelled"
    STOPPED = "stopped"
    SCHEDULER = "scheduler"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Sign:
    """Words that say what kind of error one is.

    Attributes:
        category: Whose fault it is.
        words: A regular expression for the words, whatever their case.
        is_echo: Whether a rank says them because another one is gone.
    """

    category: Category
    words: str
    is_echo: bool = False

    def fits(self, text: str) -> bool:
        """Whether a text has the words."""
        return re.search(self.words, text, re.IGNORECASE) is not None


SIGNS = (
    Sign(Category.STALL, r"^Stalled: "),
    Sign(
        Category.GPU_MEMORY,
        r"(CUDA|HIP|XPU) out of memory|MPS backend out of memory|CUDA error: out of memory"
        r"|CU(BLAS|DNN|SPARSE)_STATUS_ALLOC_FAILED|cudaErrorMemoryAllocation"
        r"|NCCL.*Cuda failure.*out of memory",
    ),
    Sign(
        Category.SHARED_MEMORY,
        r"killed by signal: Bus error|insufficient shared memory|out of shared memory"
        r"|killed by SIGBUS|unable to (mmap|write to file|open file|resize).*</?torch_"
        r"|unable to allocate shared memory",
    ),
    Sign(
        Category.DISK,
        r"No space left on device|Not enough free space to write|Disk quota exceeded"
        r"|Read-only file system|Stale file handle"
        r"|Input/output error|\[Errno (5|28|30|116|122)\]"
        r"|PytorchStreamWriter failed|inline_container\.cc.*unexpected pos",
    ),
    Sign(
        Category.HOST_MEMORY,
        r"^OutOfMemory: |^MemoryError|memory limit was reached|Cannot allocate memory"
        r"|\[Errno 12\]|DefaultCPUAllocator|Unable to allocate .* for an array"
        r"|killed by signal: Killed|running low on memory|NODE_OUT_OF_MEMORY|std::bad_alloc",
    ),
    Sign(
        Category.STORAGE,
        r"^StorageError|^storage failed|botocore|^ClientError"
        r"|An error occurred \(\w+\) when calling"
        r"|NoSuchBucket|NoCredentialsError|InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken"
        r"|EndpointConnectionError|Could not connect to the endpoint URL|^(Gcsfs|Http)\w*Error"
        r"|(Bad Request|Forbidden|Access Denied|Slow Down).*(s3|bucket|HeadObject|GetObject)"
        r"|no checkpoint could be (saved|uploaded)",
    ),
    Sign(
        Category.DOWNLOAD,
        r"urlopen error|HTTPSConnectionPool|Max retries exceeded|LocalEntryNotFoundError"
        r"|OfflineModeIsEnabled|huggingface\.co|HTTP Error \d{3}"
        r"|^(HfHub|URL|Proxy|SSL)\w*Error",
    ),
    Sign(
        Category.ENVIRONMENT,
        r"^(ModuleNotFoundError|ImportError)\b|cannot open shared object file|undefined symbol"
        r"|version `?(GLIBC|GLIBCXX|CXXABI)_|driver version is insufficient"
        r"|no kernel image is available|forward compatibility was attempted",
    ),
    Sign(Category.CODE, r"device-side assert"),
    Sign(
        Category.GPU,
        r"uncorrectable ECC|no CUDA-capable device|busy or unavailable|CUDA unknown error"
        r"|unspecified launch failure|illegal memory access|device unavailable|NVML"
        r"|No CUDA GPUs are available|misaligned address|GPU is lost|\bXid\b"
        r"|hardware stack error|CUDA driver initialization failed",
    ),
    Sign(
        Category.NETWORK,
        r"^UnreachableError|cannot reach the node of rank 0|Name or service not known"
        r"|Temporary failure in name resolution|No address associated with hostname"
        r"|Network is unreachable|No route to host|Address already in use|EADDRINUSE"
        r"|Unable to find (address|interface|match)|ifname|no socket interface found",
    ),
    Sign(
        Category.NETWORK,
        r"connection (was )?(closed|reset|aborted)|closed by (remote )?peer|broken pipe"
        r"|(connection|collective) timed out|connection refused|socket timeout"
        r"|ConnectionResetError|BrokenPipeError|timeout caused pair closure"
        r"|\bgloo\b|\bNCCL\b|^Dist\w*Error|TCPStore|store->get|recvValue|Watchdog caught collective"
        r"|timed out waiting \d+ ?ms|ncclRemoteError|remote process exited|ProcessGroup\w* watchdog"
        r"|^Ray\w*Error|ActorDiedError|killed by SIGTERM|^SystemExit: .*SIGTERM|^SIGTERM",
        is_echo=True,
    ),
    Sign(
        Category.NATIVE,
        r"killed by SIG(SEGV|ABRT|ILL|FPE|TRAP|SYS)"
        r"|killed by signal: (Segmentation fault|Aborted|Illegal instruction|Floating point)",
    ),
    Sign(Category.KILLED, r"killed by SIG\w+"),
    Sign(
        Category.START, r"could not start its workers|^(Check|NodeLost)Error|^TimeoutError: node 0 "
    ),
    Sign(
        Category.SPEC,
        r"^(Spec|Usage|ClusterConfig)Error|^MisconfigurationException|^ArgumentError|^ParserError",
    ),
)
"""What the words of an error mean; the first sign that fits counts."""

IN_LOGS = (
    Sign(Category.GPU_MEMORY, r"(CUDA|HIP) out of memory|CUDA error: out of memory"),
    Sign(
        Category.SHARED_MEMORY,
        r"Unexpected bus error encountered in worker|insufficient shared memory \(shm\)"
        r"|Fatal Python error: Bus error",
    ),
    Sign(Category.DISK, r"No space left on device|Disk quota exceeded"),
    Sign(Category.HOST_MEMORY, r"std::bad_alloc|oom-kill|Out Of Memory$|DefaultCPUAllocator"),
    Sign(Category.GPU, r"uncorrectable ECC|GPU has fallen off the bus|illegal memory access"),
    Sign(
        Category.NETWORK,
        r"Watchdog caught collective operation timeout|\[PG .*\] .*(timeout|aborted)"
        r"|terminate called.*\n.*(DistBackendError|gloo::)",
        is_echo=True,
    ),
    Sign(Category.ENVIRONMENT, r"^(ModuleNotFoundError|ImportError): |cannot open shared object"),
    Sign(
        Category.NATIVE,
        # Not Aborted: that is how NCCL ends a process whose collective has timed out.
        r"^Fatal Python error: (Segmentation fault|Illegal instruction|Floating point)"
        r"|Unexpected (segmentation fault|floating-point exception) encountered in worker",
    ),
    Sign(Category.CODE, r"^Traceback \(most recent call last\):"),
)
"""What the end of a log says of a worker that could not report an exception itself."""

_UNSAID = r"killed by SIG|exited with code|exited unexpectedly|^no worker reported"


@dataclass(frozen=True)
class Meaning:
    """What an error means.

    Attributes:
        category: Whose fault it is.
        is_echo: Whether it only follows from the end of another rank.
    """

    category: Category
    is_echo: bool = False


def says_little(summary: str) -> bool:
    """Whether only the log of a worker can say what an error means."""
    return re.search(_UNSAID, summary) is not None


def meaning(summary: str, log: str = "") -> Meaning:
    """Return what an error means; an exception without a sign is one of the user's program.

    Args:
        summary: The error as a traceback ends: ``ValueError: message``.
        log: The end of that worker's log, which counts if the error says little itself.
    """
    found = next((sign for sign in SIGNS if sign.fits(summary)), None)
    if log and says_little(summary) and not (found and found.category in _CERTAIN):
        said = next((s for s in IN_LOGS if re.search(s.words, log, re.MULTILINE)), None)
        found = said or found
    if found:
        return Meaning(found.category, found.is_echo)
    return Meaning(
        Category.CODE if re.match(r"[A-Za-z_][\w.]*: |\w+$", summary) else Category.UNKNOWN
    )


_CERTAIN = (Category.GPU_MEMORY, Category.SHARED_MEMORY, Category.HOST_MEMORY, Category.DISK)
