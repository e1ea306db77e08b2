"""Arguments of Lightning's Trainer that were renamed or removed, with their successors.

Lightning lists them in its upgrade guides:
https://lightning.ai/docs/pytorch/stable/upgrade/migration_guide.html
"""

SUCCESSORS = {
    "gpus": "devices=N and accelerator='gpu'",
    "num_gpus": "devices=N and accelerator='gpu'",
    "auto_select_gpus": "devices=N (the launcher gives each worker a GPU)",
    "num_processes": "devices=N and accelerator='cpu'",
    "tpu_cores": "devices=N and accelerator='tpu'",
    "num_tpu_cores": "devices=N and accelerator='tpu'",
    "ipus": "devices=N with the package lightning-graphcore",
    "nb_gpu_nodes": "num_nodes=N",
    "gpu_nodes": "num_nodes=N",
    "distributed_backend": "strategy='ddp'",
    "plugins_ddp": "strategy='ddp'",
    "replace_sampler_ddp": "use_distributed_sampler",
    "amp_backend": "precision='16-mixed'",
    "amp_level": "precision='16-mixed'",
    "resume_from_checkpoint": "ckpt_path: fit(ckpt_path=PATH), and in a spec --ckpt_path=PATH",
    "checkpoint_callback": "enable_checkpointing",
    "early_stop_callback": "callbacks=[EarlyStopping(...)]",
    "stochastic_weight_avg": "callbacks=[StochasticWeightAveraging(...)]",
    "weights_summary": "enable_model_summary, or callbacks=[ModelSummary(max_depth=...)]",
    "weights_save_path": "callbacks=[ModelCheckpoint(dirpath=...)]",
    "progress_bar_refresh_rate": "callbacks=[TQDMProgressBar(refresh_rate=...)]",
    "process_position": "callbacks=[TQDMProgressBar(process_position=...)]",
    "show_progress_bar": "enable_progress_bar",
    "flush_logs_every_n_steps": "the logger's own: CSVLogger(flush_logs_every_n_steps=...)",
    "row_log_interval": "log_every_n_steps",
    "log_save_interval": "log_every_n_steps",
    "log_gpu_memory": "callbacks=[DeviceStatsMonitor()]",
    "terminate_on_nan": "detect_anomaly, or callbacks=[EarlyStopping(check_finite=True)]",
    "track_grad_norm": "the hook on_before_optimizer_step with grad_norm(...)",
    "auto_lr_find": "Tuner(trainer).lr_find(model)",
    "auto_scale_batch_size": "Tuner(trainer).scale_batch_size(model)",
    "prepare_data_per_node": "the attribute prepare_data_per_node of the datamodule",
    "reload_dataloaders_every_epoch": "reload_dataloaders_every_n_epochs=1",
    "truncated_bptt_steps": "manual optimization in training_step",
    "multiple_trainloader_mode": "CombinedLoader(..., mode=...)",
    "move_metrics_to_cpu": "nothing: move what you keep in training_step",
    "train_percent_check": "limit_train_batches",
    "val_percent_check": "limit_val_batches",
    "test_percent_check": "limit_test_batches",
    "overfit_pct": "overfit_batches",
    "max_nb_epochs": "max_epochs",
    "min_nb_epochs": "min_epochs",
    "nb_sanity_val_steps": "num_sanity_val_steps",
    "accumulate_grad": "accumulate_grad_batches",
    "gradient_clip": "gradient_clip_val",
    "clip_grad": "gradient_clip_val",
    "clip_grad_norm": "gradient_clip_val",
}
"""What to write today, by the former name."""

FORMER_STRATEGIES = ("dp", "ddp2", "horovod", "ddp_sharded", "bagua", "hivemind", "colossalai")
"""Strategies that Lightning has removed."""

_ACCELERATORS = ("ddp", "dp", "ddp2", "ddp_spawn", "ddp_cpu", "horovod")
"""Strategies that were values of the Trainer's accelerator."""


def fix_of_argument(name: str) -> str | None:
    """Return what to write instead of an argument of the Trainer; None if it is not a former one.

    Args:
        name: Name of the argument, without ``trainer.``.
    """
    successor = SUCCESSORS.get(name)
    return f"Lightning has removed it. Use {successor}" if successor else None


def fix_of_value(name: str, value: object) -> str | None:
    """Return what to write instead of a former value; None if it is not one.

    Args:
        name: Name of the Trainer's argument.
        value: Value of the argument.
    """
    if name == "accelerator" and value in _ACCELERATORS:
        return "It is a strategy today: --trainer.strategy=ddp"
    if name == "strategy" and isinstance(value, str) and "." in value:
        return f"Write it as a class: --trainer.strategy.class_path={value}"
    if name == "strategy" and value in FORMER_STRATEGIES:
        return "Lightning has removed it. Use ddp: --trainer.strategy=ddp"
    return None
