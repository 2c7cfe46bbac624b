/* D = alpha A B C + beta D */
#ifndef DATA_TYPE
#define DATA_TYPE double
#endif
#define NI 16
#define NJ 18
#define NK 22
#define NL 24

void two_mm(DATA_TYPE alpha, DATA_TYPE beta, const DATA_TYPE A[NI][NK], const DATA_TYPE B[NK][NJ],
            const DATA_TYPE C[NJ][NL], DATA_TYPE D[NI][NL]) {
  DATA_TYPE tmp[NI][NJ];
  for (int i = 0; i < NI; i++)
    for (int j = 0; j < NJ; j++) {
      tmp[i][j] = 0;
      for (int k = 0; k < NK; k++)
        tmp[i][j] += alpha * A[i][k] * B[k][j];
    }
  for (int i = 0; i < NI; i++)
    for (int j = 0; j < NL; j++) {
      D[i][j] *= beta;
      for (int k = 0; k < NJ; k++)
        D[i][j] += tmp[i][k] * C[k][j];
    }
}
