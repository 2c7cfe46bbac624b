/* Means of three neighbours, two steps a round. */
#ifndef DATA_TYPE
#define DATA_TYPE double
#endif
#define TSTEPS 20
#define N 30

void jacobi_1d(DATA_TYPE A[N], DATA_TYPE B[N]) {
  for (int t = 0; t < TSTEPS; t++) {
    for (int i = 1; i < N - 1; i++)
      B[i] = (DATA_TYPE)0.33333 * (A[i - 1] + A[i] + A[i + 1]);
    for (int i = 1; i < N - 1; i++)
      A[i] = (DATA_TYPE)0.33333 * (B[i - 1] + B[i] + B[i + 1]);
  }
}
