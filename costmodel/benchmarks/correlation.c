/* Pearson correlations of the M columns of N samples; data become normalized. */
#include <tgmath.h>

#ifndef DATA_TYPE
#define DATA_TYPE double
#endif
#define M 28
#define N 32

void correlation(DATA_TYPE data[N][M], DATA_TYPE corr[M][M]) {
  DATA_TYPE mean[M];
  DATA_TYPE stddev[M];
  for (int j = 0; j < M; j++) {
    mean[j] = 0;
    for (int i = 0; i < N; i++)
      mean[j] += data[i][j];
    mean[j] /= N;
  }
  for (int j = 0; j < M; j++) {
    stddev[j] = 0;
    for (int i = 0; i < N; i++)
      stddev[j] += (data[i][j] - mean[j]) * (data[i][j] - mean[j]);
    stddev[j] /= N;
    stddev[j] = sqrt(stddev[j]);
    /* A constant column has no correlation; this keeps the division below finite. */
    stddev[j] = stddev[j] <= (DATA_TYPE)0.1 ? 1 : stddev[j];
  }
  for (int i = 0; i < N; i++)
    for (int j = 0; j < M; j++) {
      data[i][j] -= mean[j];
      data[i][j] /= sqrt((DATA_TYPE)N) * stddev[j];
    }
  for (int i = 0; i < M - 1; i++) {
    corr[i][i] = 1;
    for (int j = i + 1; j < M; j++) {
      corr[i][j] = 0;
      for (int k = 0; k < N; k++)
        corr[i][j] += data[k][i] * data[k][j];
      corr[j][i] = corr[i][j];
    }
  }
  corr[M - 1][M - 1] = 1;
}
