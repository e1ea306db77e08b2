"""What looks at a model before it is trained alone, at its batches and its loss, and stops it."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from getiaction_launch.checking.trial.step import Trial


def guard(trial: "Trial") -> Any:  # noqa: ANN401 - Lightning's Callback
    """Return a callback that shows a trial its batches and losses, and ends it.

    Args:
        trial: The trial in which it takes part.
    """
    from lightning.pytorch import Callback

    class Guard(Callback):
        def on_fit_start(self, *_: object) -> None:
            trial.check_size()
            trial.note_shapes()

        def on_train_batch_start(self, *arguments: Any) -> None:  # noqa: ANN401 - as Lightning has it
            trial.note_batch(arguments[2])
            trial.time_batch(is_over=False)

        def on_validation_batch_start(self, *_: object) -> None:
            trial.time_batch(is_over=False)

        def on_validation_batch_end(self, *_: object) -> None:
            trial.time_batch(is_over=True)

        def on_train_batch_end(
            self,
            trainer: Any,  # noqa: ANN401 - Lightning's Trainer
            _: object,
            outputs: object,
            __: object,
            index: int,
        ) -> None:
            trial.time_batch(is_over=True)
            trial.note_loss(outputs)
            # Steps do not count batches where the model steps its optimizers itself, or never.
            is_over = trial.is_over(trainer.current_epoch, index)
            if is_over:
                trial.read_samples()
            trainer.should_stop = trainer.should_stop or is_over

        def on_before_optimizer_step(self, *_: object) -> None:
            trial.note_gradients()

        def on_train_end(self, trainer: Any, _: object) -> None:  # noqa: ANN401 - as above
            trial.try_checkpoint(trainer)

    return Guard()
