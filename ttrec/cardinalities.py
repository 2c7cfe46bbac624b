"""The Criteo data sets of the paper: rows of every categorical table and the DLRM built on them.

Torch-free, so that size arithmetic needs no heavy import.
"""

import attrs


@attrs.frozen
class Dataset:
    """Table sizes and model settings of one DLRM configuration.

    rows:       rows of the 26 tables, in the order C1..C26 of the data files
    dim:        embedding width D
    bottom_mlp: layer widths from the 13 dense features to D
    top_mlp:    layer widths after the interaction, whose input width is `interaction_width`
    source:     "read" or "derived" if the sizes were read or re-computed, "remembered" otherwise
    """

    name: str
    rows: tuple[int, ...]
    dim: int
    bottom_mlp: tuple[int, ...]
    top_mlp: tuple[int, ...]
    batch: int
    lr: float
    source: str

    @property
    def total_rows(self) -> int:
        """Rows of all tables together."""
        return sum(self.rows)

    @property
    def dense_params(self) -> int:
        """Parameters of all tables when none is compressed."""
        return self.total_rows * self.dim

    @property
    def interaction_width(self) -> int:
        """Inputs of the top MLP: D and the dot products of the 27 feature vectors, pair by pair."""
        n_vectors = len(self.rows) + 1
        return self.dim + n_vectors * (n_vectors - 1) // 2

    def largest(self, count: int) -> tuple[int, ...]:
        """Rows of the `count` largest tables, largest first; ValueError if there are fewer."""
        if not 0 <= count <= len(self.rows):
            raise ValueError(
                f"count must lie in 0..{len(self.rows)}, the tables of {self.name}, got {count}"
            )
        return tuple(sorted(self.rows, reverse=True)[:count])


# fmt: off
KAGGLE = Dataset(
    name="kaggle",
    rows=(
        1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194,
        27, 14992, 5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572,
    ),
    dim=16, bottom_mlp=(13, 512, 256, 64, 16), top_mlp=(512, 256, 1),
    batch=128, lr=0.1, source="derived",
)

#: Criteo Terabyte with every id taken modulo 10^7.
TERABYTE = Dataset(
    name="terabyte",
    rows=(
        9980333, 36084, 17217, 7378, 20134, 3, 7112, 1442, 61, 9758201, 1333352, 313829, 10,
        2208, 11156, 122, 4, 970, 14, 9994222, 7267859, 9946608, 415421, 12420, 101, 36,
    ),
    dim=64, bottom_mlp=(13, 512, 256, 64), top_mlp=(512, 512, 256, 1),
    batch=2048, lr=0.1, source="derived",
)

#: MLPerf's later Terabyte shape, ids modulo 4 * 10^7. The table sizes are from memory.
MLPERF = Dataset(
    name="mlperf",
    rows=(
        39884406, 39043, 17289, 7420, 20263, 3, 7120, 1543, 63, 38532951, 2953546, 403346, 10,
        2208, 11938, 155, 4, 976, 14, 39979771, 25641295, 39664984, 585935, 12972, 108, 36,
    ),
    dim=128, bottom_mlp=(13, 512, 256, 128), top_mlp=(1024, 1024, 512, 256, 1),
    batch=2048, lr=1.0, source="remembered",
)
# fmt: on

DATASETS = {d.name: d for d in (KAGGLE, TERABYTE, MLPERF)}
