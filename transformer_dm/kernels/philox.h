/* Keep bits of dropout by Philox4x32-10; transformer_dm/philox.py defines them and says why so.

   Group g is elements 128 g .. 128 g + 127 of a tensor whose rows are padded to multiples of 128.
   Lane l of 16 computes the counter (c mod 2^32, c div 2^32, stream, 0), c = 16 g + l, under the
   key (seed mod 2^32, seed div 2^32), x0..x3. Bit 2 l + h of word w of the group is set, the
   element 128 g + 32 w + 2 l + h kept, if half h (0 is the low one) of x_w is >= threshold.

   Each 32-bit word lives in the low half of a 64-bit lane, even counters in one set of vectors and
   odd ones in another: what a 32x32->64 product wants and gives, so nothing is shuffled until the
   end. The high halves hold what is left over and are never read. */
#ifndef MLSYS21_PHILOX_H
#define MLSYS21_PHILOX_H

#include "simd.h"

#pragma GCC visibility push(hidden)
namespace philox {

constexpr int group_size = 128, group_words = 4;
/* A threshold of `levels` drops everything, and one of 0 nothing: neither has bits to draw. */
constexpr uint32_t levels = 65536;

constexpr int lanes64 = simd::width > 1 ? simd::width / 2 : 1;
constexpr int pairs = 8 / lanes64; /* pairs of vectors for 16 counters */

typedef uint64_t wide __attribute__((vector_size(lanes64 * 8)));

/* Products of the low halves. */
SIMD_INLINE wide multiply(wide a, uint64_t b) {
#if defined(__AVX512F__) && !defined(SIMD_SCALAR)
  return wide(_mm512_mul_epu32(__m512i(a), __m512i(b - wide{})));
#elif defined(__AVX2__) && defined(__FMA__) && !defined(SIMD_SCALAR)
  return wide(_mm256_mul_epu32(__m256i(a), __m256i(b - wide{})));
#else
  return (a & 0xffffffffu) * b;
#endif
}

SIMD_INLINE wide exclusive_or(wide a, wide b, uint64_t c) {
#if defined(__AVX512F__) && !defined(SIMD_SCALAR)
  return wide(_mm512_ternarylogic_epi64(__m512i(a), __m512i(b), __m512i(c - wide{}), 0x96));
#else
  return a ^ b ^ c;
#endif
}

/* Words of even and odd counters side by side, in the order of the counters. */
SIMD_INLINE wide interleave(wide even, wide odd) {
#if defined(__AVX512F__) && !defined(SIMD_SCALAR)
  return wide(_mm512_mask_shuffle_epi32(__m512i(even), 0xaaaa, __m512i(odd), _MM_PERM_ENUM(0xa0)));
#elif defined(__AVX2__) && defined(__FMA__) && !defined(SIMD_SCALAR)
  return wide(_mm256_blend_epi32(__m256i(even), __m256i(odd << 32), 0xaa));
#else
  return (even & 0xffffffffu) | odd << 32;
#endif
}

/* One bit for each of the 32 halves of one word of sixteen counters: is it >= threshold? */
SIMD_INLINE uint32_t at_least(const wide *word, uint32_t threshold) {
#if defined(__AVX512BW__) && !defined(SIMD_SCALAR)
  return _mm512_cmpge_epu16_mask(__m512i(word[0]),
                                 _mm512_set1_epi16(static_cast<short>(threshold)));
#elif defined(__AVX2__) && defined(__FMA__) && !defined(__AVX512F__) && !defined(SIMD_SCALAR)
  const __m256i bound = _mm256_set1_epi16(static_cast<short>(threshold));
  const __m256i first = __m256i(word[0]), second = __m256i(word[1]);
  /* Packing works within halves of 128 bits; the permutation puts their quarters in order. */
  const __m256i bytes =
      _mm256_packs_epi16(_mm256_cmpeq_epi16(_mm256_max_epu16(first, bound), first),
                         _mm256_cmpeq_epi16(_mm256_max_epu16(second, bound), second));
  return static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_permute4x64_epi64(bytes, 0xd8)));
#else
  uint16_t half[32];
  std::memcpy(half, word, sizeof half);
  uint32_t kept = 0;
  for (int i = 0; i < 32; i++) kept |= static_cast<uint32_t>(half[i] >= threshold) << i;
  return kept;
#endif
}

/* What is the same for all elements of one dropout. */
class Generator {
public:
  /* 0 < threshold < levels */
  Generator(uint64_t seed, uint32_t stream, uint32_t threshold)
      : stream_(stream), threshold_(threshold) {
    uint32_t low = static_cast<uint32_t>(seed), high = static_cast<uint32_t>(seed >> 32);
    for (auto &key : keys_) {
      key[0] = low;
      key[1] = high;
      low += 0x9e3779b9u;
      high += 0xbb67ae85u;
    }
  }

  /* The four words of keep bits of group g. */
  SIMD_INLINE void group(uint64_t g, uint32_t *bits) const {
    wide words[group_words][pairs];
#pragma GCC unroll 8
    for (int i = 0; i < pairs; i++) {
      wide even[4], odd[4];
      rounds(16 * g + 2 * lanes64 * i, even, odd);
#pragma GCC unroll 4
      for (int w = 0; w < group_words; w++) words[w][i] = interleave(even[w], odd[w]);
    }
#pragma GCC unroll 4
    for (int w = 0; w < group_words; w++) bits[w] = at_least(words[w], threshold_);
  }

  /* `groups` groups from g on; those of different groups overlap in the processor. */
  SIMD_INLINE void fill(uint64_t g, int64_t groups, uint32_t *bits) const {
    for (int64_t i = 0; i < groups; i++) group(g + i, bits + group_words * i);
  }

private:
  uint64_t keys_[10][2];
  uint64_t stream_;
  uint32_t threshold_;

  /* The words of counters c, c + 2, ... and of c + 1, c + 3, ...: two chains at once, as a product
     takes several cycles, and no more, so that they fit the 16 registers of AVX2. */
  SIMD_INLINE void rounds(uint64_t c, wide *even, wide *odd) const {
    wide step;
    for (int i = 0; i < lanes64; i++) step[i] = 2 * i;
    /* c is a multiple of the counters at once, so no lane carries into the upper word. */
    even[0] = step + c;
    odd[0] = step + (c + 1);
    even[1] = odd[1] = (c >> 32) - wide{};
    even[2] = odd[2] = stream_ - wide{};
    even[3] = odd[3] = wide{};
#pragma GCC unroll 10
    for (int round = 0; round < 10; round++) {
      next(even, keys_[round]);
      next(odd, keys_[round]);
    }
  }

  static SIMD_INLINE void next(wide *x, const uint64_t *key) {
    const wide first = multiply(x[0], 0xd2511f53u), second = multiply(x[2], 0xcd9e8d57u);
    x[0] = exclusive_or(second >> 32, x[1], key[0]);
    x[1] = second;
    x[2] = exclusive_or(first >> 32, x[3], key[1]);
    x[3] = first;
  }
};

/* v where the bit of its lane is set, from bit 0 on, and 0 elsewhere. */
SIMD_INLINE simd::vec keep(simd::vec v, uint32_t bits) {
#if defined(__AVX512F__) && !defined(SIMD_SCALAR)
  return simd::vec(_mm512_maskz_mov_ps(static_cast<__mmask16>(bits), __m512(v)));
#else
  const simd::ivec one = simd::broadcast_int(1) << simd::lanes();
  const simd::ivec set = (simd::broadcast_int(static_cast<int32_t>(bits)) & one) != 0;
  return simd::from_bits(simd::bits(v) & set);
#endif
}

} // namespace philox
#pragma GCC visibility pop

#endif
