/* G = (A B) (C D) */
#ifndef DATA_TYPE
#define DATA_TYPE double
#endif
#define NI 16
#define NJ 18
#define NK 20
#define NL 22
#define NM 24

void three_mm(const DATA_TYPE A[NI][NK], const DATA_TYPE B[NK][NJ], const DATA_TYPE C[NJ][NM],
              const DATA_TYPE D[NM][NL], DATA_TYPE G[NI][NL]) {
  DATA_TYPE E[NI][NJ];
  DATA_TYPE F[NJ][NL];
  for (int i = 0; i < NI; i++)
    for (int j = 0; j < NJ; j++) {
      E[i][j] = 0;
      for (int k = 0; k < NK; k++)
        E[i][j] += A[i][k] * B[k][j];
    }
  for (int i = 0; i < NJ; i++)
    for (int j = 0; j < NL; j++) {
      F[i][j] = 0;
      for (int k = 0; k < NM; k++)
        F[i][j] += C[i][k] * D[k][j];
    }
  for (int i = 0; i < NI; i++)
    for (int j = 0; j < NL; j++) {
      G[i][j] = 0;
      for (int k = 0; k < NJ; k++)
        G[i][j] += E[i][k] * F[k][j];
    }
}
