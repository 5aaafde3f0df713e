"""A missing package is told in a sentence, with the command that gets it."""

from __future__ import annotations

import pytest

from identity_lock.nodes.packages import MissingPackage, guarded


@pytest.mark.parametrize(
    ("module", "command"),
    [("no_such_module_here.part", "pip install no_such_module_here,"), ("cv2.no_such_part", "opencv-python-headless")],
)
def test_the_package_and_the_command_are_named(module, command):
    @guarded
    def execute():
        __import__(module)

    with pytest.raises(MissingPackage, match=command):
        execute()


def test_other_errors_and_results_pass_through():
    @guarded
    def execute(value):
        return 1 // value

    assert execute(value=1) == 1
    with pytest.raises(ZeroDivisionError):
        execute(0)
