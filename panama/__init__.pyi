from . import hook as hook
from . import wire as wire
from .cluster import Cluster as Cluster
from .compare import compare as compare
from .errors import NoTreeError as NoTreeError
from .errors import StallError as StallError
from .jobs import Job as Job
from .maxmin import max_min as max_min
from .result import Explanation as Explanation
from .result import Result as Result
from .schemes import SCHEMES as SCHEMES
from .schemes import Scheme as Scheme
from .schemes import scheme as scheme
from .simulate import simulate as simulate
from .traffic import Traffic as Traffic

__version__: str
