/* y = A^T (A x) */
#ifndef DATA_TYPE
#define DATA_TYPE double
#endif
#define M 38
#define N 42

void atax(const DATA_TYPE A[M][N], const DATA_TYPE x[N], DATA_TYPE y[N]) {
  DATA_TYPE tmp[M];
  for (int i = 0; i < N; i++)
    y[i] = 0;
  for (int i = 0; i < M; i++) {
    tmp[i] = 0;
    for (int j = 0; j < N; j++)
      tmp[i] += A[i][j] * x[j];
    for (int j = 0; j < N; j++)
      y[j] += A[i][j] * tmp[i];
  }
}
