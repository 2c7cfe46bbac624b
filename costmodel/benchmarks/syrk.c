/* C = alpha A A^T + beta C, below the diagonal. */
#ifndef DATA_TYPE
#define DATA_TYPE double
#endif
#define M 20
#define N 30

void syrk(DATA_TYPE alpha, DATA_TYPE beta, const DATA_TYPE A[N][M], DATA_TYPE C[N][N]) {
  for (int i = 0; i < N; i++) {
    for (int j = 0; j <= i; j++)
      C[i][j] *= beta;
    for (int k = 0; k < M; k++)
      for (int j = 0; j <= i; j++)
        C[i][j] += alpha * A[i][k] * A[j][k];
  }
}
