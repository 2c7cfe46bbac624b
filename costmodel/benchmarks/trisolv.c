/* L x = b, L below its diagonal. */
#ifndef DATA_TYPE
#define DATA_TYPE double
#endif
#define N 40

void trisolv(const DATA_TYPE L[N][N], const DATA_TYPE b[N], DATA_TYPE x[N]) {
  for (int i = 0; i < N; i++) {
    x[i] = b[i];
    for (int j = 0; j < i; j++)
      x[i] -= L[i][j] * x[j];
    x[i] /= L[i][i];
  }
}
