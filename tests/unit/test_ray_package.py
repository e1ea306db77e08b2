"""Directories that Ray would copy to its nodes, and refuse as they are too large."""

import pytest
from ray._private import ray_constants

from getiaction_launch.backends.ray.shipping.package import check_packages
from getiaction_launch.errors import CheckError

LIMIT = ray_constants.DASHBOARD_CLIENT_MAX_SIZE


@pytest.fixture
def project(tmp_path):
    """A project with a script and a dataset, which takes no place on the disk."""
    (tmp_path / "train.py").write_text("import torch")
    (tmp_path / "data").mkdir()
    with (tmp_path / "data" / "demos.bin").open("wb") as file:
        file.truncate(LIMIT)
    return tmp_path


@pytest.mark.parametrize("key", ["working_dir", "py_modules"])
def test_too_large_a_directory_is_refused_with_its_largest_part(project, key):
    """The fix leaves that out."""
    place = str(project) if key == "working_dir" else [str(project)]
    with pytest.raises(CheckError) as refused:
        check_packages({key: place, "excludes": ["*.mp4"]}, is_private=False)
    assert "takes 105 MB at most; data has 105 MB" in refused.value.what
    assert """--runtime-env-json '{"excludes": ["*.mp4", "/data"]}'""" in refused.value.fix


def test_what_ray_leaves_out_does_not_count(project):
    """By the fix, or by the files that Ray reads."""
    check_packages({"working_dir": str(project), "excludes": ["/data"]}, is_private=False)
    (project / ".rayignore").write_text("*.bin\n")
    check_packages({"working_dir": str(project)}, is_private=False)
    (project / ".rayignore").rename(project / "data" / ".gitignore")
    check_packages({"working_dir": str(project)}, is_private=False)


def test_directory_elsewhere_or_for_a_private_cluster_has_room(project):
    """That takes 500 MB, and storage any number."""
    check_packages({"working_dir": str(project)}, is_private=True)
    check_packages({"working_dir": "s3://lab/code.zip"}, is_private=False)
    check_packages({"py_modules": ["s3://lab/code.zip"]}, is_private=False)
