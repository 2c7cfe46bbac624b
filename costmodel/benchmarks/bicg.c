/* q = A p and s = A^T r */
#ifndef DATA_TYPE
#define DATA_TYPE double
#endif
#define M 38
#define N 42

void bicg(const DATA_TYPE A[N][M], const DATA_TYPE p[M], const DATA_TYPE r[N], DATA_TYPE q[N],
          DATA_TYPE s[M]) {
  for (int i = 0; i < M; i++)
    s[i] = 0;
  for (int i = 0; i < N; i++) {
    q[i] = 0;
    for (int j = 0; j < M; j++) {
      s[j] += r[i] * A[i][j];
      q[i] += A[i][j] * p[j];
    }
  }
}
