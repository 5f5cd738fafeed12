"""What runs inside a trainer.

Names are imported when first used: a trainer's libraries are not needed to read what it left.
"""

from typing import TYPE_CHECKING

from probe.lazily import face

if TYPE_CHECKING:
    from probe.training.callback import ProbeCallback

__all__ = ["ProbeCallback"]

__getattr__, __dir__ = face(__name__, dict.fromkeys(__all__, "callback"))
