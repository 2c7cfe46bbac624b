from .describe import attention_graph as attention_graph
from .describe import encoder_graph as encoder_graph
from .fusion import FusionPlan as FusionPlan
from .fusion import named_plan as named_plan
from .fusion import unfused as unfused
from .graph import DataflowGraph as DataflowGraph
from .graph import GraphError as GraphError
from .layer import EncoderLayer as EncoderLayer
from .layer import Optimized as Optimized
from .layer import optimize as optimize
from .sizes import SIZES as SIZES
from .sizes import LayerSize as LayerSize
from .volume import CONVENTIONS as CONVENTIONS
from .volume import reduction as reduction

__version__: str
