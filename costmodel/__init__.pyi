from . import programs as programs
from .c_frontend import from_c as from_c
from .codegen import c_function as c_function
from .errors import CheckpointMismatch as CheckpointMismatch
from .errors import CompileError as CompileError
from .errors import CostModelError as CostModelError
from .errors import DatasetError as DatasetError
from .errors import IllegalSchedule as IllegalSchedule
from .errors import MeasureError as MeasureError
from .errors import NotAffine as NotAffine
from .errors import OutOfBounds as OutOfBounds
from .errors import ScheduleError as ScheduleError
from .errors import UnboundParameter as UnboundParameter
from .errors import UnsupportedProgram as UnsupportedProgram
from .ir import Program as Program
from .optimizer import Optimized as Optimized
from .optimizer import optimize as optimize
from .python_frontend import kernel as kernel
from .schedule import Schedule as Schedule
from .schedule import ScheduledProgram as ScheduledProgram
from .schedule import apply as apply

__version__: str
