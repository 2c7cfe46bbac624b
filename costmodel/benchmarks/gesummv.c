/* y = alpha A x + beta B x */
#ifndef DATA_TYPE
#define DATA_TYPE double
#endif
#define N 30

void gesummv(DATA_TYPE alpha, DATA_TYPE beta, const DATA_TYPE A[N][N], const DATA_TYPE B[N][N],
             const DATA_TYPE x[N], DATA_TYPE y[N]) {
  DATA_TYPE tmp[N];
  for (int i = 0; i < N; i++) {
    tmp[i] = 0;
    y[i] = 0;
    for (int j = 0; j < N; j++) {
      tmp[i] += A[i][j] * x[j];
      y[i] += B[i][j] * x[j];
    }
    y[i] = alpha * tmp[i] + beta * y[i];
  }
}
