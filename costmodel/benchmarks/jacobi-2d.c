/* Means of five neighbours, two steps a round. */
#ifndef DATA_TYPE
#define DATA_TYPE double
#endif
#define TSTEPS 20
#define N 30

void jacobi_2d(DATA_TYPE A[N][N], DATA_TYPE B[N][N]) {
  for (int t = 0; t < TSTEPS; t++) {
    for (int i = 1; i < N - 1; i++)
      for (int j = 1; j < N - 1; j++)
        B[i][j] =
            (DATA_TYPE)0.2 * (A[i][j] + A[i][j - 1] + A[i][j + 1] + A[i + 1][j] + A[i - 1][j]);
    for (int i = 1; i < N - 1; i++)
      for (int j = 1; j < N - 1; j++)
        A[i][j] =
            (DATA_TYPE)0.2 * (B[i][j] + B[i][j - 1] + B[i][j + 1] + B[i + 1][j] + B[i - 1][j]);
  }
}
