/* Folding of RNA: the most base pairs in every stretch i..j. Bases are 0 to 3, pairs sum to 3. */
#ifndef DATA_TYPE
#define DATA_TYPE double
#endif
#define N 60

#define PAIR(a, b) ((a) + (b) == 3 ? 1 : 0)
#define LARGER(a, b) ((a) >= (b) ? (a) : (b))

void nussinov(const DATA_TYPE seq[N], DATA_TYPE table[N][N]) {
  for (int i = N - 1; i >= 0; i--)
    for (int j = i + 1; j < N; j++) {
      if (j - 1 >= 0)
        table[i][j] = LARGER(table[i][j], table[i][j - 1]);
      if (i + 1 < N)
        table[i][j] = LARGER(table[i][j], table[i + 1][j]);
      if (j - 1 >= 0 && i + 1 < N) {
        if (i < j - 1)
          table[i][j] = LARGER(table[i][j], table[i + 1][j - 1] + PAIR(seq[i], seq[j]));
        else
          table[i][j] = LARGER(table[i][j], table[i + 1][j - 1]);
      }
      for (int k = i + 1; k < j; k++)
        table[i][j] = LARGER(table[i][j], table[i][k] + table[k + 1][j]);
    }
}
