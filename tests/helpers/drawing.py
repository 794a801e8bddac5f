"""Whether the tests of runs draw pictures: they take half of the time of a tiny run."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

from diffmedseg.callbacks import SamplePanels, TestReport

_DRAW = {callback: callback.on_test_epoch_end for callback in (SamplePanels, TestReport)}


@contextmanager
def drawing(wanted: bool) -> Iterator[None]:
    """Have ``panel.png`` and ``report.html`` written at the end of a test, or not."""
    with ExitStack() as stack:
        for callback, draw in _DRAW.items():
            stack.enter_context(mock.patch.object(callback, "on_test_epoch_end", draw if wanted else _nothing))
        yield


def _nothing(*_: object) -> None:
    """Draw nothing."""
