/* x1 += A y1 and x2 += A^T y2 */
#ifndef DATA_TYPE
#define DATA_TYPE double
#endif
#define N 40

void mvt(DATA_TYPE x1[N], DATA_TYPE x2[N], const DATA_TYPE y1[N], const DATA_TYPE y2[N],
         const DATA_TYPE A[N][N]) {
  for (int i = 0; i < N; i++)
    for (int j = 0; j < N; j++)
      x1[i] += A[i][j] * y1[j];
  for (int i = 0; i < N; i++)
    for (int j = 0; j < N; j++)
      x2[i] += A[j][i] * y2[j];
}
