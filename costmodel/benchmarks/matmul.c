/* C = A B */
#ifndef DATA_TYPE
#define DATA_TYPE double
#endif
#define NI 20
#define NJ 25
#define NK 30

void matmul(const DATA_TYPE A[NI][NK], const DATA_TYPE B[NK][NJ], DATA_TYPE C[NI][NJ]) {
  for (int i = 0; i < NI; i++)
    for (int j = 0; j < NJ; j++) {
      C[i][j] = 0;
      for (int k = 0; k < NK; k++)
        C[i][j] += A[i][k] * B[k][j];
    }
}
