"""The GPUs of a machine, as NVIDIA's driver shows them in /proc."""

from getiaction_launch.system.gpus import gpu_models


def test_models_are_read_from_the_driver(tmp_path):
    """One for each GPU; without a driver there are none, and an unreadable file is left out."""
    assert gpu_models(tmp_path / "missing") == []
    for place, model in (("0000:01:00.0", "NVIDIA H200"), ("0000:02:00.0", "NVIDIA H200 NVL")):
        (tmp_path / place).mkdir()
        (tmp_path / place / "information").write_text(
            f"Model: \t\t {model}\nIRQ:   \t\t 16\nGPU UUID: \t GPU-1a\n"
        )
    (tmp_path / "0000:03:00.0" / "information").mkdir(parents=True)
    assert gpu_models(tmp_path) == ["NVIDIA H200", "NVIDIA H200 NVL"]
