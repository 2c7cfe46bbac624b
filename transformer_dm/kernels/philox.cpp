/* bits[128 g + e] = keep bit of element e of group first + g, see philox.h.

   bits (4 groups) int32, the bits of a group in four words; 0 <= threshold <= 65536. A matrix of
   rows padded to multiples of 128 is its groups row by row. Bits beyond its columns are drawn like
   the others and belong to no element. */
#include <algorithm>

#include "philox.h"

EXPORT void philox_keep_bits(int32_t *bits, uint64_t first, int64_t groups, uint64_t seed,
                             uint32_t stream, uint32_t threshold, int64_t threads) {
  const philox::Generator generator(seed, stream, threshold);
  constexpr int64_t block = 1024;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
  for (int64_t g = 0; g < groups; g += block)
    generator.fill(first + g, std::min(groups - g, block),
                   reinterpret_cast<uint32_t *>(bits) + g * philox::group_words);
}
