from . import cardinalities as cardinalities
from . import init as init
from . import peers as peers
from . import reference as reference
from . import shapes as shapes
from .bag import TTEmbedding as TTEmbedding
from .bag import TTEmbeddingBag as TTEmbeddingBag
from .bag import tt_embedding_bag as tt_embedding_bag
from .cardinalities import KAGGLE as KAGGLE
from .cardinalities import MLPERF as MLPERF
from .cardinalities import TERABYTE as TERABYTE
from .cardinalities import Dataset as Dataset
from .collection import TableConfig as TableConfig
from .collection import TTEmbeddingBagCollection as TTEmbeddingBagCollection
from .optim import SGD as SGD
from .optim import Adagrad as Adagrad
from .optim import RowwiseAdagrad as RowwiseAdagrad
from .shapes import TTShape as TTShape
from .shapes import model_params as model_params
from .shapes import model_ratio as model_ratio
from .shapes import suggest_shape as suggest_shape

__version__: str
