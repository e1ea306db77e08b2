"""Devices, strategy, precision and callbacks that cannot work together."""

from collections.abc import Iterator
from typing import Any

from getiaction_launch.checking.built import Built
from getiaction_launch.checking.finding import Finding, doubt, ok, refusal
from getiaction_launch.errors import counted

_HALF = ("16", "16-mixed", "16-true")
_NEED_LOGGER = ("LearningRateMonitor", "DeviceStatsMonitor", "ThroughputMonitor")


def check_combination(built: Built) -> Iterator[Finding]:
    """Check what a Trainer was built of, which does not complain before it trains.

    Args:
        built: What the spec names.
    """
    found = [*_of_devices(built), *_of_callbacks(built)]
    yield from found
    if not found:
        trainer, topology = built.trainer, built.plan.topology
        kind = type(trainer.strategy).__name__
        precision = getattr(trainer, "precision", "32-true")
        device = "GPU" if topology.gpus_per_node else "CPU"
        shape = f"{counted(topology.num_nodes, 'node')} x {topology.workers_per_node} {device}"
        yield ok("devices", f"{shape}, {kind}, precision {precision}")


def _of_devices(built: Built) -> Iterator[Finding]:
    trainer, arguments, topology = built.trainer, built.arguments, built.plan.topology
    precision = str(arguments.get("precision"))
    if not topology.gpus_per_node and precision in _HALF:
        yield doubt(
            "devices",
            "trainer.precision",
            f"trainer.precision={precision!r} is for GPUs, and this run trains on CPUs, where "
            "Lightning uses bf16-mixed for 16-mixed.",
            "--trainer.precision=bf16-mixed or 32-true, or GPUs: --gpus-per-node 1",
        )
    if topology.world_size > 1 and trainer.world_size != topology.world_size:
        strategy = arguments.get("strategy")
        shown = strategy.get("class_path") if isinstance(strategy, dict) else strategy
        shown = shown if isinstance(shown, (str, type(None))) else type(shown).__name__
        yield refusal(
            "devices",
            "trainer.strategy",
            f"trainer.strategy={shown!r} has each of {topology.world_size} workers train alone.",
            _fix_of_world(built) if built.script else "Use ddp: --trainer.strategy=ddp",
        )
    if arguments.get("sync_batchnorm") and not topology.gpus_per_node and _has_batch_norm(built):
        yield refusal(
            "devices",
            "trainer.sync_batchnorm",
            "trainer.sync_batchnorm=True needs GPUs, and this run trains on CPUs.",
            "--trainer.sync_batchnorm=false, or GPUs: --gpus-per-node 1",
        )


def _fix_of_world(built: Built) -> str:
    nodes, workers = built.plan.topology.num_nodes, built.plan.topology.workers_per_node
    return (
        "Leave num_nodes, devices and strategy out of Trainer(...), and they follow the launch; a "
        f"LightningCLI sets them all, and needs: --trainer.num_nodes={nodes} "
        f"--trainer.devices={workers} --trainer.strategy=ddp"
    )


def _has_batch_norm(built: Built) -> bool:
    from torch.nn.modules.batchnorm import _BatchNorm

    return any(isinstance(module, _BatchNorm) for module in built.model.modules())


def _of_callbacks(built: Built) -> Iterator[Finding]:
    trainer = built.trainer
    names: dict[str, Any] = {type(callback).__name__: callback for callback in trainer.callbacks}
    for name in _NEED_LOGGER:
        if name in names and not trainer.loggers:
            key = built.key_of(name, name)
            yield refusal(
                "callbacks",
                key,
                f"{key}: {name} needs a logger, and trainer.logger=false turns all of them off.",
                f"Remove {name}, or turn a logger on: --trainer.logger=true",
            )
    stopping = names.get("EarlyStopping")
    if stopping is not None and stopping.patience < 0:
        key = built.key_of("EarlyStopping", "callbacks")
        yield refusal(
            "callbacks",
            f"{key}.patience",
            f"{key}.patience={stopping.patience} ends training at the first check.",
            "Set patience: 10, the number of checks without an improvement",
        )
    if built.spec.get("lr_scheduler") and not built.spec.get("optimizer"):
        yield refusal(
            "callbacks",
            "lr_scheduler",
            "lr_scheduler is ignored, since the spec has no optimizer for it.",
            "Give both: --optimizer=AdamW --optimizer.lr=1e-4, or schedule in configure_optimizers",
        )
    swa = names.get("StochasticWeightAveraging")
    start = getattr(swa, "_swa_epoch_start", None)
    epochs = built.arguments.get("max_epochs")
    if isinstance(start, int) and epochs and 0 < epochs <= start:
        yield refusal(
            "callbacks",
            "swa_epoch_start",
            f"StochasticWeightAveraging: swa_epoch_start={start} is after the last of "
            f"{epochs} epochs.",
            "Give a share of the training: swa_epoch_start: 0.8",
        )
    accumulated = built.arguments.get("accumulate_grad_batches", 1)
    if "GradientAccumulationScheduler" in names and accumulated != 1:
        yield refusal(
            "callbacks",
            "trainer.accumulate_grad_batches",
            f"trainer.accumulate_grad_batches={accumulated} contradicts "
            "GradientAccumulationScheduler.",
            "--trainer.accumulate_grad_batches=1, and set all of it in the scheduler",
        )
