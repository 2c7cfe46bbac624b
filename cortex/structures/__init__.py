"""From what users have to a Forest: objects, text, graphs of other libraries, source code.

`as_forest` takes any of it; the functions it chooses from are public. Generators of structures for
tests and measurements are in `generators`.
"""

from cortex.structures.anything import as_forest, is_foreign
from cortex.structures.arrays import (
    collapse_unary,
    concatenate,
    from_children,
    from_parents,
    sequence,
    sequences,
)
from cortex.structures.generators import grid, perfect, random_tree, sst_like
from cortex.structures.graphs import from_dgl, from_networkx, from_pyg
from cortex.structures.objects import Node, from_nltk, from_objects, to_objects
from cortex.structures.source import AST_TYPES, from_ast, standard_library
from cortex.structures.text import from_conllu, from_ptb

__all__ = [
    "AST_TYPES",
    "Node",
    "as_forest",
    "collapse_unary",
    "concatenate",
    "from_ast",
    "from_children",
    "from_conllu",
    "from_dgl",
    "from_networkx",
    "from_nltk",
    "from_objects",
    "from_parents",
    "from_ptb",
    "from_pyg",
    "grid",
    "is_foreign",
    "perfect",
    "random_tree",
    "sequence",
    "sequences",
    "sst_like",
    "standard_library",
    "to_objects",
]
