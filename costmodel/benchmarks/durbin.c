/* Levinson and Durbin's recursion: the Toeplitz system T(r) y = -r. */
#ifndef DATA_TYPE
#define DATA_TYPE double
#endif
#define N 40

void durbin(const DATA_TYPE r[N], DATA_TYPE y[N]) {
  DATA_TYPE z[N];
  DATA_TYPE beta = 1;
  DATA_TYPE alpha = -r[0];
  y[0] = -r[0];
  for (int k = 1; k < N; k++) {
    beta = (1 - alpha * alpha) * beta;
    DATA_TYPE sum = 0;
    for (int i = 0; i < k; i++)
      sum += r[k - i - 1] * y[i];
    alpha = -(r[k] + sum) / beta;
    for (int i = 0; i < k; i++)
      z[i] = y[i] + alpha * y[k - i - 1];
    for (int i = 0; i < k; i++)
      y[i] = z[i];
    y[k] = alpha;
  }
}
