"""What the ranks of a running attempt do, as their nodes record it."""

from getiaction_launch.run.beats.records import (
    PHASES,
    NodeBeats,
    Phase,
    RankBeat,
    Stall,
    read_beats,
)

__all__ = ["PHASES", "NodeBeats", "Phase", "RankBeat", "Stall", "read_beats"]
