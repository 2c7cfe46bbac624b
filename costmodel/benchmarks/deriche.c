/* Deriche's recursive edge filter: each row forwards and backwards, then each column. */
#include <tgmath.h>

#ifndef DATA_TYPE
#define DATA_TYPE double
#endif
#define W 64
#define H 64

void deriche(DATA_TYPE alpha, const DATA_TYPE img_in[W][H], DATA_TYPE img_out[W][H]) {
  DATA_TYPE y1[W][H];
  DATA_TYPE y2[W][H];
  DATA_TYPE k = (1 - exp(-alpha)) * (1 - exp(-alpha)) /
                (1 + 2 * alpha * exp(-alpha) - exp(2 * alpha));
  DATA_TYPE a1, a2, a3, a4, a5, a6, a7, a8, b1, b2, c1, c2;
  a1 = a5 = k;
  a2 = a6 = k * exp(-alpha) * (alpha - 1);
  a3 = a7 = k * exp(-alpha) * (alpha + 1);
  a4 = a8 = -k * exp(-2 * alpha);
  b1 = pow((DATA_TYPE)2, -alpha);
  b2 = -exp(-2 * alpha);
  c1 = c2 = 1;
  for (int i = 0; i < W; i++) {
    DATA_TYPE ym1 = 0;
    DATA_TYPE ym2 = 0;
    DATA_TYPE xm1 = 0;
    for (int j = 0; j < H; j++) {
      y1[i][j] = a1 * img_in[i][j] + a2 * xm1 + b1 * ym1 + b2 * ym2;
      xm1 = img_in[i][j];
      ym2 = ym1;
      ym1 = y1[i][j];
    }
  }
  for (int i = 0; i < W; i++) {
    DATA_TYPE yp1 = 0;
    DATA_TYPE yp2 = 0;
    DATA_TYPE xp1 = 0;
    DATA_TYPE xp2 = 0;
    for (int j = H - 1; j >= 0; j--) {
      y2[i][j] = a3 * xp1 + a4 * xp2 + b1 * yp1 + b2 * yp2;
      xp2 = xp1;
      xp1 = img_in[i][j];
      yp2 = yp1;
      yp1 = y2[i][j];
    }
  }
  for (int i = 0; i < W; i++)
    for (int j = 0; j < H; j++)
      img_out[i][j] = c1 * (y1[i][j] + y2[i][j]);
  for (int j = 0; j < H; j++) {
    DATA_TYPE tm1 = 0;
    DATA_TYPE ym1 = 0;
    DATA_TYPE ym2 = 0;
    for (int i = 0; i < W; i++) {
      y1[i][j] = a5 * img_out[i][j] + a6 * tm1 + b1 * ym1 + b2 * ym2;
      tm1 = img_out[i][j];
      ym2 = ym1;
      ym1 = y1[i][j];
    }
  }
  for (int j = 0; j < H; j++) {
    DATA_TYPE tp1 = 0;
    DATA_TYPE tp2 = 0;
    DATA_TYPE yp1 = 0;
    DATA_TYPE yp2 = 0;
    for (int i = W - 1; i >= 0; i--) {
      y2[i][j] = a7 * tp1 + a8 * tp2 + b1 * yp1 + b2 * yp2;
      tp2 = tp1;
      tp1 = img_out[i][j];
      yp2 = yp1;
      yp1 = y2[i][j];
    }
  }
  for (int i = 0; i < W; i++)
    for (int j = 0; j < H; j++)
      img_out[i][j] = c2 * (y1[i][j] + y2[i][j]);
}
