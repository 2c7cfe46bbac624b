/* bits[row, word] = keep bits of columns 32 word .. 32 word + 31, see philox.h.

   bits (rows, padded / 32) int32, row-major; padded a multiple of 128; 0 < threshold < 65536. Bits
   beyond the columns are drawn like the others and belong to no element. */
#include "philox.h"

EXPORT void philox_keep_bits(int32_t *bits, int64_t rows, int64_t padded, uint64_t seed,
                             uint32_t stream, uint32_t threshold, int64_t threads) {
  const philox::Generator generator(seed, stream, threshold);
  const int64_t groups = rows * padded / philox::group_size, block = 1024;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
  for (int64_t g = 0; g < groups; g += block)
    generator.fill(g, groups - g < block ? groups - g : block,
                   reinterpret_cast<uint32_t *>(bits) + g * philox::group_words);
}
