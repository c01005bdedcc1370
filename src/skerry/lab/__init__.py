"""The lab: every learner of a run in one process, with real models and gradients, in virtual time."""

from skerry.lab.data_parallel import run_data_parallel
from skerry.lab.result import Result
from skerry.lab.run import run
from skerry.world.world import World

__all__ = ["Result", "World", "run", "run_data_parallel"]
