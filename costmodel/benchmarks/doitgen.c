/* Every vector A[r][q] times the matrix C4, in place. */
#ifndef DATA_TYPE
#define DATA_TYPE double
#endif
#define NQ 8
#define NR 10
#define NP 12

void doitgen(DATA_TYPE A[NR][NQ][NP], const DATA_TYPE C4[NP][NP]) {
  DATA_TYPE sum[NP];
  for (int r = 0; r < NR; r++)
    for (int q = 0; q < NQ; q++) {
      for (int p = 0; p < NP; p++) {
        sum[p] = 0;
        for (int s = 0; s < NP; s++)
          sum[p] += A[r][q][s] * C4[s][p];
      }
      for (int p = 0; p < NP; p++)
        A[r][q][p] = sum[p];
    }
}
