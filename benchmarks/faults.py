"""The faults that hangs.py plants: what goes wrong, where, and what must be said of it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

HEALTHY = "healthy runs"
STALL, SLOW = "stall", "slow rank"
WORLDS = [(2, 1), (3, 1), (2, 2), (1, 2), (1, 3), (4, 1), (2, 1), (2, 1)]
"""Numbers of nodes, and of workers on each."""
STEPS = [0, 1, 2, 7, 15, 30]


@dataclass(frozen=True)
class Case:
    """One planted fault.

    Attributes:
        kind: The kind of faults that it belongs to.
        deed: What the guilty rank does: a function of hanging.py, or what is done to it from here.
        place: Where it does so.
        category: What ``why`` must call the cause.
        words: A regular expression that the explanation must contain.
        program: The function of hanging.py that trains.
        lasts: Whether the deed is repeated in every step.
        timeout_seconds: The timeout of collectives.
        limit_minutes: The limit of the watchdog; None for the one of the command line.
        nodes: How many nodes there are.
        workers: How many workers each of them has.
        rank: The guilty rank.
        step: The step at which it comes to grief.
        restarts: Whether the watchdog ends the attempt; otherwise it only reports.
    """

    kind: str
    deed: str
    place: str = "forward"
    category: str = STALL
    words: str = ""
    program: str = "lightning"
    lasts: bool = False
    timeout_seconds: float = 1800
    limit_minutes: float | None = None
    nodes: int = 2
    workers: int = 1
    rank: int = 1
    step: int = 0
    restarts: bool = True

    @property
    def world_size(self) -> int:
        """How many ranks there are."""
        return self.nodes * self.workers

    def __str__(self) -> str:
        where = f"rank {self.rank} of {self.nodes} x {self.workers}"
        return f"{self.kind}: {self.deed}, {self.place}, {where}, step {self.step}, {self.program}"


KINDS = {
    "a lock or loop of Python": """
        in_a_lock forward, in_a_loop backward, at_a_queue validating, for_a_thread between-steps,
        in_a_lock epoch-end""",
    "a call of C code": """
        in_c_with_the_lock forward, in_c_with_the_lock fetching, in_c backward, in_c validating,
        in_c_with_the_lock epoch-end""",
    "a file that does not answer": """
        at_a_pipe fetching, at_a_pipe forward, at_a_pipe validating, at_a_pipe epoch-end,
        at_a_pipe between-steps""",
    "no first batch": """
        in_a_lock stream, at_a_queue stream, in_c stream, at_a_pipe loader, in_a_loop loader""",
    "a loader's process hangs": """
        in_a_lock loader, in_c_with_the_lock loader, at_a_pipe loader, stopped loader,
        at_a_queue loader""",
    "SIGSTOP": """
        stopped forward, stopped fetching, stopped backward, stop outside, stop outside""",
    "a collective of one rank alone": """
        in_a_reduction forward, in_a_barrier forward, in_a_gathering epoch-end,
        in_a_barrier between-steps, in_a_reduction fetching""",
    "a save that hangs": """
        in_a_lock saving, in_c saving, at_a_pipe saving, at_a_queue saving, in_a_loop saving""",
    "a collective that times out": """
        in_a_lock forward, in_c_with_the_lock forward, at_a_pipe fetching,
        in_a_loop between-steps, for_a_thread forward""",
    "before training begins": """
        in_a_lock start, in_c start, at_a_pipe setup, in_a_loop setup, stopped setup""",
    "a program without Lightning": """
        in_a_lock forward plain, in_c fetching plain, at_a_pipe fetching plain,
        in_a_loop forward plain, stopped forward plain""",
    "raises while others wait": """
        value_error forward, value_error forward plain, index_error fetching plain,
        index_error loader, value_error validating""",
    "fails before training begins": """
        missing_module start, missing_library setup, missing_module start plain,
        value_error start plain, value_error setup""",
    "leaves early": """
        leaves forward plain, leaves fetching, exits forward plain, exits epoch-end,
        leaves start plain""",
    "a crash of compiled code": """
        segmentation_fault forward, segmentation_fault fetching plain, aborts backward,
        illegal_instruction forward plain, segmentation_fault loader""",
    "SIGKILL": """
        kills_itself forward plain, kills_itself validating, kill outside plain, kill outside,
        kill outside""",
    "out of memory": """
        memory_error forward plain, memory_of_torch fetching, memory_of_the_group forward,
        memory_of_the_group forward plain, memory_of_the_group loader""",
    "a full disk": """
        full_disk between-steps, full_disk forward plain, full_disk_of_torch epoch-end,
        full_disk_of_numpy fetching, full_disk_of_torch forward plain""",
    "a lost node": """
        kill_node outside plain, kill_node outside, kill_node outside plain, kill_node outside,
        kill_node outside""",
    "a slow rank": """
        slow forward, slow fetching, busy forward, busy fetching, slow between-steps""",
}
"""The faults of each kind: deed and place, and the program if that is the one without Lightning."""
CATEGORIES = {
    **dict.fromkeys(("before training begins", "a program without Lightning"), ""),
    "raises while others wait": "user code",
    "fails before training begins": "user code",
    "leaves early": "user code",
    "a crash of compiled code": "native code",
    "SIGKILL": "killed from outside",
    "out of memory": "host memory",
    "a full disk": "disk",
    "a lost node": "node",
    "a slow rank": SLOW,
}
"""What ``why`` must call the cause; any other kind is a stall. Empty: ``stacks`` is asked."""
IN_LOADER = "is fetching a batch"
"""What is said of a rank that waits for a process of its loader."""
WORDS = {
    **dict.fromkeys(("stopped", "stop"), "SIGSTOP"),
    **dict.fromkeys(("in_a_reduction", "in_a_barrier", "in_a_gathering"), "different collectives"),
    "value_error": "no gripper in episode 7",
    "index_error": "IndexError",
    **dict.fromkeys(("missing_module", "missing_library"), "no_such_gripper"),
    "leaves": "exited with code 3",
    "exits": "the simulator has no licence",
    "slow": "the others wait",
    "busy": "the others wait",
    **dict.fromkeys(("kill", "kills_itself"), "SIGKILL"),
}
"""What an explanation must contain; of other hangs, the function in which the rank is."""


def faults() -> Iterator[Case]:
    """Yield the faults; where and when is not decided yet."""
    for kind, text in KINDS.items():
        category = CATEGORIES.get(kind, STALL)
        is_hang = category in (STALL, "")
        for deed, place, *program in (words.split() for words in text.split(",")):
            words = WORDS.get(deed, rf"\b{deed}\b" if is_hang else "")
            case = Case(kind, deed, place, category, words, lasts=category == SLOW)
            if program:
                case = replace(case, program=program[0])
            if not is_hang and category != SLOW:
                # What ends by itself may be slow to do so: memory is reclaimed before it runs out.
                case = replace(case, limit_minutes=10)
            if deed.startswith("missing"):
                case = replace(case, category="environment")
            if place == "loader" and category == STALL:
                case = replace(case, words=IN_LOADER, step=8 * (kind != "no first batch"))
            if kind == "a collective that times out":
                case = replace(case, timeout_seconds=15, limit_minutes=10)
            yield case


def plant(seed: int) -> list[Case]:
    """Decide which rank of how many comes to grief in each case, and when."""
    generator = random.Random(seed)  # noqa: S311 - no secret
    found = []
    for number, case in enumerate(faults()):
        fewest = 1 + (case.deed == "kill_node")
        nodes, workers = generator.choice([(n, w) for n, w in WORLDS if n >= fewest])
        step = case.step or generator.choice(STEPS)
        if case.kind == "no first batch" or case.place in ("start", "setup"):
            step = 0
        found.append(
            replace(
                case,
                nodes=nodes,
                workers=workers,
                rank=generator.randrange(nodes * workers),
                step=step,
                restarts=number % 2 == 0,
            )
        )
    found += [Case(HEALTHY, "nothing", place, "", nodes=n) for n, place in ((2, ""), (3, "loader"))]
    return found
