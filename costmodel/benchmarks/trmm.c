/* B = alpha A^T B; A has ones on its diagonal and is stored below it. */
#ifndef DATA_TYPE
#define DATA_TYPE double
#endif
#define M 20
#define N 30

void trmm(DATA_TYPE alpha, const DATA_TYPE A[M][M], DATA_TYPE B[M][N]) {
  for (int i = 0; i < M; i++)
    for (int j = 0; j < N; j++) {
      for (int k = i + 1; k < M; k++)
        B[i][j] += A[k][i] * B[k][j];
      B[i][j] = alpha * B[i][j];
    }
}
