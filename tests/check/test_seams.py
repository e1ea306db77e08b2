"""What a check uses of Lightning's internals is still there."""

import contextlib
import inspect
import struct
import warnings

import pytest
import torch
from jsonargparse import _stubs_resolver
from lightning.fabric import Fabric
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import BatchSampler, DataLoader, get_worker_info
from torch.utils.data._utils import worker

from getiaction.cli import CLI
from getiaction_launch.checking.lightning_seams import (
    content_of,
    ddp_options,
    epochs_done,
    fabric_on_cpu,
    fit_parser,
    give_rank_its_share,
    is_of_checkpoint,
    prepare_parsing,
    pretend_worker,
    restore,
    types_of_keys,
    watching_entries,
    watching_losses,
    watching_trainers,
)
from getiaction_launch.plan.plan import Topology


def test_error_of_a_checkpoint_is_told_from_others(place, monkeypatch):
    """LightningCLI reads the hyperparameters in a method of its own."""
    monkeypatch.chdir(place)
    words = ["fit", "--config", "net.yaml", "--ckpt_path=junk.ckpt"]
    with pytest.raises(struct.error, match="unpack") as caught:
        CLI(args=words)
    assert is_of_checkpoint(caught.value)
    assert not is_of_checkpoint(ValueError())


def test_types_of_the_keys_of_a_spec_are_known(place, monkeypatch):
    """LightningCLI keeps the parsers of its subcommands, and these the type of each key."""
    monkeypatch.chdir(place)

    class Parsing(CLI):
        def parse_arguments(self, *_):
            raise StopIteration(types_of_keys(fit_parser(self)))

    with pytest.raises(StopIteration) as caught:
        Parsing(args=["fit"])
    kinds = caught.value.value
    assert (kinds["trainer.max_epochs"], kinds["seed_everything"]) == (int | None, bool | int)
    assert types_of_keys(None) == {}


def test_dataset_is_told_of_its_worker(monkeypatch):
    """Torch tells only processes that it has started."""
    monkeypatch.setattr(worker, "_worker_info", None)
    pretend_worker([1, 2])
    told = get_worker_info()
    assert (told.id, told.num_workers, told.dataset) == (0, 1, [1, 2])


def test_what_a_model_adds_to_a_checkpoint_is_seen(place, monkeypatch):
    """Without a file."""
    monkeypatch.syspath_prepend(place)
    import lab
    import later

    trainer = Trainer(accelerator="cpu", fast_dev_run=1, enable_progress_bar=False)
    trainer.fit(later.Unwritable(), lab.Data())
    content = content_of(trainer)
    assert callable(content["scale"])
    assert {"state_dict", "optimizer_states"} <= set(content)


def test_what_a_checkpoint_holds_is_restored(place, monkeypatch):
    """Into the model and the callbacks, by their own hooks."""
    monkeypatch.syspath_prepend(place)
    import lab
    import over

    trainer = Trainer(
        accelerator="cpu", fast_dev_run=1, enable_progress_bar=False, callbacks=over.Counting()
    )
    trainer.fit(lab.Net(), lab.Data())
    content = content_of(trainer)
    with pytest.raises(KeyError, match="counts"):
        restore(trainer, content)
    content["callbacks"] = {}
    content["state_dict"]["layer.bias"].fill_(7)
    weights = {name: value.clone() for name, value in content["state_dict"].items()}
    torch.nn.init.zeros_(trainer.lightning_module.layer.bias)
    restore(trainer, {**content, "state_dict": weights})
    assert trainer.lightning_module.layer.bias.tolist() == [7] * 4


def test_trainers_are_noted_with_their_arguments():
    """Also those that are left out; and LightningCLI still reads the signature."""
    noted = []
    with watching_trainers(lambda trainer, given: noted.append((trainer, given))):
        trainer = Trainer(accelerator="cpu", max_epochs=3, logger=False)
    ((found, given),) = noted
    assert found is trainer
    assert (given["max_epochs"], given["precision"]) == (3, None)
    assert "self" not in given


def test_entries_of_a_trainer_are_taken_over(place, monkeypatch):
    """With what was given to them, and nothing is trained."""
    monkeypatch.syspath_prepend(place)
    import lab

    taken = []
    with watching_entries(lambda name, _, given: taken.append((name, given[0]))):
        trainer = Trainer(accelerator="cpu", max_epochs=1, logger=False)
        model = lab.Net()
        trainer.fit(model, lab.Data())
        trainer.validate(model, lab.Data())
    assert taken == [("fit", model), ("validate", model)]
    assert trainer.global_step == 0


@pytest.mark.parametrize("is_torchs", [True, False])
def test_a_rank_gets_its_share_unless_the_batches_take_no_sampler(place, monkeypatch, is_torchs):
    """As a fit does it, with the number of ranks that its strategy has."""
    monkeypatch.syspath_prepend(place)
    import later
    from lightning.pytorch.strategies import DDPStrategy

    trainer = Trainer(accelerator="cpu", devices=1, num_nodes=2, strategy=DDPStrategy())
    batches = BatchSampler(range(4), 2, drop_last=False) if is_torchs else later.Pairs()
    loader = DataLoader(range(4), batch_sampler=batches)
    failing = pytest.raises(TypeError, match="BatchSampler")
    with contextlib.nullcontext() if is_torchs else failing:
        give_rank_its_share(trainer, loader)


def test_epochs_of_a_checkpoint_are_read(place):
    """They are what a fit that resumes from it begins with."""
    content = torch.load(place / "bare.ckpt", weights_only=True)
    assert epochs_done(content) == 1
    assert epochs_done({"epoch": 3}) == 3


def test_stubs_of_the_parser_are_found():
    """Or it would start a program for them."""
    prepare_parsing()
    assert _stubs_resolver.stubs_resolver is not None


def test_options_of_ddp_are_known():
    """They are those of the strategy that is tried."""
    strategy = DDPStrategy(find_unused_parameters=True)
    assert ddp_options(strategy) == {"find_unused_parameters": True}


def test_fabric_is_made_for_the_ranks_that_are_tried(monkeypatch):
    """A Fabric for 2 x 4 GPUs is one for two CPUs; one that contradicts the launch is left."""
    made, why = [], []
    signature = inspect.signature(Fabric.__init__)

    def note(*args, **options):
        made.append(signature.bind(*args, **options).arguments)

    note.__signature__ = signature
    monkeypatch.setattr(Fabric, "__init__", note)
    whole, tried = Topology(2, 4, 4), Topology(1, 2, 0)
    with fabric_on_cpu(whole, tried, why.append):
        Fabric(accelerator="gpu", devices="auto", num_nodes=2, precision="16-mixed")
        Fabric(accelerator="gpu", devices=2, num_nodes=2)
        Fabric(strategy="fsdp")
    assert [each["accelerator"] for each in made] == ["cpu"] * 3
    assert [(each["devices"], each["num_nodes"]) for each in made[:2]] == [(2, 1), (2, 2)]
    assert made[0]["precision"] == "bf16-mixed"
    assert ["fsdp" in each for each in why] == [True]


def test_losses_of_two_shapes_are_noticed_while_they_are_calculated():
    """By a function and by a module; the warning is torch's own after all."""
    noted = []
    with watching_losses(noted.append):
        with pytest.warns(UserWarning, match="Using a target size") as of_function:
            torch.nn.functional.mse_loss(torch.ones(2, 1), torch.ones(2))
        with pytest.warns(UserWarning, match="Using a target size"):
            torch.nn.SmoothL1Loss()(torch.ones(2, 1), torch.ones(2))
    assert [each.partition(" (")[0] for each in noted] == ["Using a target size"] * 2
    assert of_function[0].filename == __file__
    assert torch.nn.functional.warnings is warnings
