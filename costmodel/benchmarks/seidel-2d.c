/* Means of nine neighbours in place. */
#ifndef DATA_TYPE
#define DATA_TYPE double
#endif
#define TSTEPS 20
#define N 40

void seidel_2d(DATA_TYPE A[N][N]) {
  for (int t = 0; t < TSTEPS; t++)
    for (int i = 1; i < N - 1; i++)
      for (int j = 1; j < N - 1; j++)
        A[i][j] = (A[i - 1][j - 1] + A[i - 1][j] + A[i - 1][j + 1] + A[i][j - 1] + A[i][j] +
                   A[i][j + 1] + A[i + 1][j - 1] + A[i + 1][j] + A[i + 1][j + 1]) /
                  9;
}
