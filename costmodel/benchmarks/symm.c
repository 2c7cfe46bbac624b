/* C = alpha A B + beta C; A is symmetric and stored below its diagonal. */
#ifndef DATA_TYPE
#define DATA_TYPE double
#endif
#define M 20
#define N 30

void symm(DATA_TYPE alpha, DATA_TYPE beta, const DATA_TYPE A[M][M], const DATA_TYPE B[M][N],
          DATA_TYPE C[M][N]) {
  for (int i = 0; i < M; i++)
    for (int j = 0; j < N; j++) {
      DATA_TYPE above = 0;
      for (int k = 0; k < i; k++) {
        C[k][j] += alpha * B[i][j] * A[i][k];
        above += B[k][j] * A[i][k];
      }
      C[i][j] = beta * C[i][j] + alpha * B[i][j] * A[i][i] + alpha * above;
    }
}
